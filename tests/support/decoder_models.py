"""Decoders with the parameter names of nanochat, modded-nanogpt, OLMo-core and torchtitan.

Those that have an `init_weights` write what the reference writes, with torch's own fills.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.init import constant_, normal_, trunc_normal_, uniform_, zeros_

from named_models import Tree

WIDTH, HIDDEN, LAYERS, HEADS, VOCABULARY, EXPERTS = 256, 384, 3, 4, 320, 4


def plain(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


class NanoChat(nn.Module):
    """nanochat 92d63d4: value embeddings and gates in the last block of two."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2  # grouped queries

        def block(i: int) -> Tree:
            attn = Tree(
                c_q=plain(WIDTH, WIDTH),
                c_k=plain(WIDTH, half),
                c_v=plain(WIDTH, half),
                c_proj=plain(WIDTH, WIDTH),
            )
            if i % 2 == 0:
                attn["ve_gate"] = plain(12, HEADS // 2)
            return Tree(attn=attn, mlp=Tree(c_fc=plain(WIDTH, HIDDEN), c_proj=plain(HIDDEN, WIDTH)))

        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(VOCABULARY, WIDTH),
                "h": nn.ModuleList([block(i) for i in range(LAYERS)]),
            }
        )
        self.lm_head = plain(WIDTH, VOCABULARY)
        self.resid_lambdas = nn.Parameter(torch.ones(LAYERS))
        self.x0_lambdas = nn.Parameter(torch.zeros(LAYERS))
        self.smear_gate = plain(24, 1)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.backout_lambda = nn.Parameter(0.2 * torch.ones(1))
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(VOCABULARY, half) for i in (0, 2)})
        self.register_buffer("cos", torch.empty(1, 80, 1, 32), persistent=False)
        self.register_buffer("sin", torch.empty(1, 80, 1, 32), persistent=False)

    @torch.no_grad()
    def init_weights(self) -> None:
        normal_(self.transformer.wte.weight, mean=0.0, std=0.8)
        normal_(self.lm_head.weight, mean=0.0, std=0.001)
        s = 3**0.5 * WIDTH**-0.5
        for block in self.transformer.h:
            for name in ("c_q", "c_k", "c_v"):
                uniform_(block.attn[name].weight, -s, s)
            zeros_(block.attn.c_proj.weight)
            uniform_(block.mlp.c_fc.weight, -s * 0.4, s * 0.4)
            zeros_(block.mlp.c_proj.weight)
            if "ve_gate" in block.attn:
                uniform_(block.attn.ve_gate.weight, 0.0, 0.02)
        for i in range(LAYERS):
            self.resid_lambdas.data[i] = 1.15 - (0.10 * i / max(LAYERS - 1, 1))
            self.x0_lambdas.data[i] = 0.20 - (0.15 * i / max(LAYERS - 1, 1))
        zeros_(self.smear_lambda)
        constant_(self.backout_lambda, 0.2)
        uniform_(self.smear_gate.weight, 0.0, 0.02)
        for embed in self.value_embeds.values():
            uniform_(embed.weight, -s, s)
        channels = torch.arange(0, 64, 2, dtype=torch.float32)
        inverse = 1.0 / (100000 ** (channels / 64))
        angles = torch.outer(torch.arange(80, dtype=torch.float32), inverse)
        self.cos, self.sin = angles.cos()[None, :, None, :], angles.sin()[None, :, None, :]


class ModdedNanoGPT(nn.Module):
    """modded-nanogpt f411b3d, in small: banks with padding, head and embedding untied."""

    def __init__(self, layers: int = 5, heads: int = HEADS) -> None:
        super().__init__()
        self.num_layers, self.num_heads = layers, heads
        head_width = WIDTH // heads
        self.lm_head = nn.Module()
        self.lm_head.weight = nn.Parameter(torch.empty(WIDTH, VOCABULARY))
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.value_embeds = nn.Parameter(torch.empty(2 * VOCABULARY, WIDTH))
        self.ve_gate_bank = nn.Parameter(torch.empty(2, heads, 12))
        self.qk_bank = nn.Parameter(torch.empty(18, 2 * head_width, WIDTH))  # 16 are used
        self.vo_bank = nn.Parameter(torch.empty(12, WIDTH, WIDTH))  # 8 are used
        self.mlp_bank = nn.Parameter(torch.empty(layers, 2, HIDDEN, WIDTH))
        self.smear_gate = plain(12, 1)
        self.bigram_embed = nn.Embedding(40, 32)
        self.post_lambdas = nn.Parameter(torch.empty(layers, 2))
        self.resid_lambdas = nn.Parameter(torch.empty(layers, 2))
        self.scalars = nn.Parameter(torch.empty(2 * layers + 2 + 4))
        self.mudd_w1 = nn.Parameter(torch.empty(2, 16, WIDTH))
        self.mudd_w2 = nn.Parameter(torch.empty(2, 14, 16))
        self.mudd_b2 = nn.Parameter(torch.zeros(2, 14))

    @torch.no_grad()
    def init_weights(self) -> None:
        normal_(self.lm_head.weight, mean=0, std=0.005)
        self.embed.weight.copy_(self.lm_head.weight.T)
        self.value_embeds.copy_(0.01 * torch.randn(self.value_embeds.shape))
        zeros_(self.ve_gate_bank)
        bound = (3**0.5) * 0.5 * WIDTH**-0.5
        used = (self.num_layers - 1) * 2 * (self.num_heads // 2)
        self.qk_bank[:used].uniform_(-bound, bound)
        self.qk_bank[used:].zero_()
        used = (self.num_layers - 1) * 2
        self.vo_bank[:used].uniform_(-bound, bound)
        self.vo_bank[used:].zero_()
        self.mlp_bank[:, 0, :, :].uniform_(-bound, bound)
        self.mlp_bank[:, 1, :, :].zero_()
        zeros_(self.smear_gate.weight)
        zeros_(self.bigram_embed.weight)
        self.post_lambdas.fill_(1)
        self.resid_lambdas.fill_(1.1**0.5)
        pairs = [torch.tensor([0.5, 1.0]) for _ in range(self.num_layers)]
        rest = [torch.zeros(1), -1.5 * torch.ones(1), torch.ones(4)]
        self.scalars.copy_(torch.cat([*pairs, *rest]))
        for j in range(2):
            nn.init.kaiming_uniform_(self.mudd_w1.data[j], a=5**0.5)
        zeros_(self.mudd_w2)


def cut(x: Tensor, std: float, bound: float = 3.0) -> None:
    trunc_normal_(x, mean=0.0, std=std, a=-bound * std, b=bound * std)


class Olmo(nn.Module):
    """OLMo-core fa6c501; the last block has experts."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int) -> Tree:
            attention = Tree(
                w_q=plain(WIDTH, WIDTH),
                w_k=plain(WIDTH, WIDTH),
                w_v=plain(WIDTH, WIDTH),
                w_out=plain(WIDTH, WIDTH),
                q_norm=nn.RMSNorm(WIDTH),
            )
            parts: dict[str, Any] = {"attention": attention, "attention_norm": nn.RMSNorm(WIDTH)}
            if i < LAYERS - 1:
                parts["feed_forward"] = Tree(
                    w1=plain(WIDTH, HIDDEN), w2=plain(HIDDEN, WIDTH), w3=plain(WIDTH, HIDDEN)
                )
            else:
                # Experts are stacked: [experts * hidden, width].
                mlp = Tree(
                    **{w: torch.empty(EXPERTS * HIDDEN, WIDTH) for w in ("w1", "w2", "w3")},
                )
                router = Tree(weight=torch.empty(EXPERTS, WIDTH))
                parts["feed_forward_moe"] = Tree(router=router, experts=Tree(mlp=mlp))
            return Tree(**parts)

        self.embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleDict({str(i): block(i) for i in range(LAYERS)})
        self.lm_head = Tree(norm=nn.RMSNorm(WIDTH), w_out=plain(WIDTH, VOCABULARY))

    @torch.no_grad()
    def init_weights(self, method: str = "normal", std: float = 0.02) -> None:
        if method in {"llama", "llama_depth"}:
            normal_(self.embeddings.weight)
        else:
            cut(self.embeddings.weight, std)
        for i in range(LAYERS):
            block = self.blocks[str(i)]
            divisor = {"llama": 2 * LAYERS, "llama_depth": 2 * (i + 1)}.get(method, 1) ** 0.5
            for name in ("w_q", "w_k", "w_v"):
                cut(block["attention"][name].weight, std)
            cut(block["attention"]["w_out"].weight, std / divisor)
            if "feed_forward" in block:
                cut(block["feed_forward"]["w1"].weight, std)
                cut(block["feed_forward"]["w3"].weight, std / divisor)
                cut(block["feed_forward"]["w2"].weight, std / divisor)
                continue
            moe = block["feed_forward_moe"]
            for x in (moe["router"].weight, *moe["experts"]["mlp"].parameters()):
                cut(x, std / divisor)
        cut(self.lm_head["w_out"].weight, std if method == "normal" else WIDTH**-0.5)


def depth_scaled(layer: int) -> float:
    return 0.02 / (2 * (layer + 1)) ** 0.5


class TitanDeepSeek(nn.Module):
    """DeepSeek-V3 of torchtitan b5bcd76: latent attention, one dense block, experts."""

    def __init__(self) -> None:
        super().__init__()

        def ffn(hidden: int) -> Tree:
            return Tree(w1=plain(WIDTH, hidden), w2=plain(hidden, WIDTH), w3=plain(WIDTH, hidden))

        def block(i: int) -> Tree:
            attention = Tree(
                wq_a=plain(WIDTH, 96),
                q_norm=nn.RMSNorm(96),
                wq_b=plain(96, WIDTH),
                wkv_a=plain(WIDTH, 80),
                kv_norm=nn.RMSNorm(64),
                wkv_b=plain(64, 2 * WIDTH),
                wo=plain(WIDTH, WIDTH),
            )
            parts = {"attention": attention, "attention_norm": nn.RMSNorm(WIDTH)}
            if not i:
                return Tree(**parts, feed_forward=ffn(HIDDEN))
            experts = Tree(
                w1_EFD=torch.empty(EXPERTS, 128, WIDTH),
                w2_EDF=torch.empty(EXPERTS, WIDTH, 128),
                w3_EFD=torch.empty(EXPERTS, 128, WIDTH),
            )
            moe = Tree(
                router=Tree(gate=plain(WIDTH, EXPERTS)),
                routed_experts=Tree(inner_experts=experts),
                shared_experts=ffn(128),
            )
            moe.register_buffer("expert_bias_E", torch.zeros(EXPERTS))
            moe.register_buffer("tokens_per_expert_E", torch.zeros(EXPERTS), persistent=False)
            return Tree(**parts, moe=moe)

        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleDict({str(i): block(i) for i in range(LAYERS)})
        self.norm = nn.RMSNorm(WIDTH)
        self.lm_head = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self) -> None:
        normal_(self.tok_embeddings.weight)
        cut(self.lm_head.weight, WIDTH**-0.5)
        for name, x in self.layers.named_parameters():
            i = int(name.partition(".")[0])
            scaled = any(part in name for part in (".wo.", "w2", "w3", "router"))
            if "norm" not in name:
                trunc_normal_(x, std=depth_scaled(i) if scaled else 0.02)


class TitanGptOss(nn.Module):
    """GPT-OSS of torchtitan b5bcd76: sinks, biases, banks with biases."""

    def __init__(self) -> None:
        super().__init__()

        def block() -> Tree:
            attention = Tree(
                qkv_linear=Tree(
                    wq=plain(WIDTH, WIDTH, bias=True), wkv=plain(WIDTH, 128, bias=True)
                ),
                wo=plain(WIDTH, WIDTH, bias=True),
                sinks=torch.empty(HEADS),
            )
            experts = Tree(
                mlp1_weight_EGD=torch.empty(EXPERTS, 2 * 128, WIDTH),
                mlp1_bias_EG=torch.empty(EXPERTS, 2 * 128),
                mlp2_weight_EDF=torch.empty(EXPERTS, WIDTH, 128),
                mlp2_bias_ED=torch.empty(EXPERTS, WIDTH),
            )
            moe = Tree(
                router=Tree(gate=plain(WIDTH, EXPERTS, bias=True)),
                routed_experts=Tree(inner_experts=experts),
            )
            return Tree(attention=attention, attention_norm=nn.RMSNorm(WIDTH), moe=moe)

        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleDict({str(i): block() for i in range(LAYERS)})
        self.norm = nn.RMSNorm(WIDTH)
        self.lm_head = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self) -> None:
        normal_(self.tok_embeddings.weight, std=0.02)
        cut(self.lm_head.weight, WIDTH**-0.5)
        for name, x in self.layers.named_parameters():
            if name.endswith(".bias"):
                zeros_(x)
            elif "norm" not in name:
                trunc_normal_(x, std=depth_scaled(int(name.partition(".")[0])))


class TitanQwen(nn.Module):
    """Qwen3 of torchtitan b5bcd76, with experts."""

    def __init__(self) -> None:
        super().__init__()

        def block() -> Tree:
            attention = Tree(
                wq=plain(WIDTH, WIDTH), wk=plain(WIDTH, 128), wv=plain(WIDTH, 128),
                wo=plain(WIDTH, WIDTH), q_norm=nn.RMSNorm(64),
            )  # fmt: skip
            experts = Tree(
                w1_EFD=torch.empty(EXPERTS, 128, WIDTH),
                w2_EDF=torch.empty(EXPERTS, WIDTH, 128),
                w3_EFD=torch.empty(EXPERTS, 128, WIDTH),
            )
            moe = Tree(
                router=Tree(gate=plain(WIDTH, EXPERTS)),
                routed_experts=Tree(inner_experts=experts),
            )
            return Tree(attention=attention, attention_norm=nn.RMSNorm(WIDTH), moe=moe)

        self.layers = nn.ModuleDict({str(i): block() for i in range(LAYERS)})
        self.norm = nn.RMSNorm(WIDTH)
        self.lm_head = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self) -> None:
        normal_(self.lm_head.weight, std=0.02)
        for name, x in self.layers.named_parameters():
            scaled = ".wo." in name or "w2_" in name
            if "norm" not in name:
                normal_(x, std=0.02 / (2 * LAYERS) ** 0.5 if scaled else 0.02)


def gemma() -> Tree:
    """Gemma's names: norms with 1 + weight, the factor of the embedding as a buffer."""

    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            scale = x.pow(2).mean(-1, keepdim=True).rsqrt()
            return x * scale * (1.0 + self.weight)

    def block() -> Tree:
        return Tree(
            input_layernorm=RMSNorm(),
            self_attn=Tree(q_proj=plain(WIDTH, WIDTH), o_proj=plain(WIDTH, WIDTH)),
            mlp=Tree(up_proj=plain(WIDTH, HIDDEN), down_proj=plain(HIDDEN, WIDTH)),
        )

    embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
    embed.register_buffer("embed_scale", torch.tensor(16.0), persistent=False)
    layers = nn.ModuleList([block() for _ in range(LAYERS)])
    return Tree(embed_tokens=embed, layers=layers, norm=RMSNorm())


def modern_bert() -> Tree:
    """ModernBERT's names, with an untied decoder."""

    def block() -> Tree:
        return Tree(
            attn=Tree(Wqkv=plain(WIDTH, 3 * WIDTH), Wo=plain(WIDTH, WIDTH)),
            mlp_norm=nn.LayerNorm(WIDTH, bias=False),
            mlp=Tree(Wi=plain(WIDTH, 2 * HIDDEN), Wo=plain(HIDDEN, WIDTH)),
        )

    return Tree(
        embeddings=Tree(tok_embeddings=nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)),
        layers=nn.ModuleList([block() for _ in range(LAYERS)]),
        head=Tree(dense=plain(WIDTH, WIDTH), norm=nn.LayerNorm(WIDTH, bias=False)),
        decoder=plain(WIDTH, VOCABULARY, bias=True),
    )
