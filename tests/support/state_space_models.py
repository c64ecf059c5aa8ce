"""State-space and linear-attention models with the parameter names of their code bases.

Those that have an `init_weights` write what the reference writes, with torch's own fills.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.init import (
    kaiming_uniform_,
    normal_,
    ones_,
    orthogonal_,
    trunc_normal_,
    uniform_,
    xavier_uniform_,
    zeros_,
)

from named_models import Tree

WIDTH, LAYERS, VOCABULARY, STATES, RANK, HEADS = 256, 3, 320, 8, 16, 8
INNER = 2 * WIDTH


def plain(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias)


def depthwise(width: int, taps: int = 4, *, bias: bool = True) -> nn.Conv1d:
    return nn.Conv1d(width, width, taps, groups=width, padding=taps - 1, bias=bias)


def time_step_(x: Tensor) -> None:
    u = torch.rand(x.shape) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)
    dt = u.exp().clamp(min=1e-4)
    x.copy_(dt + torch.log(-torch.expm1(-dt)))


def default_(module: nn.Linear | nn.Conv1d) -> None:
    module.reset_parameters()


class Mamba(nn.Module):
    """mamba_ssm e9594ce, Mamba 1, or 2 with an MLP in each block."""

    def __init__(self, version: int = 1) -> None:
        super().__init__()
        self.version = version
        self.backbone = Tree(
            embedding=nn.Embedding(VOCABULARY, WIDTH),
            layers=nn.ModuleList([self._block() for _ in range(LAYERS)]),
            norm_f=nn.RMSNorm(WIDTH),
        )
        self.lm_head = plain(WIDTH, VOCABULARY)
        self.lm_head.weight = self.backbone["embedding"].weight

    def _block(self) -> Tree:
        if self.version == 1:
            mixer = Tree(
                A_log=torch.empty(INNER, STATES),
                D=torch.empty(INNER),
                in_proj=plain(WIDTH, 2 * INNER),
                conv1d=depthwise(INNER),
                x_proj=plain(INNER, RANK + 2 * STATES),
                dt_proj=plain(RANK, INNER, bias=True),
                out_proj=plain(INNER, WIDTH),
            )
            return Tree(mixer=mixer, norm=nn.RMSNorm(WIDTH))
        channels = INNER + 2 * STATES
        mixer = Tree(
            dt_bias=torch.empty(HEADS),
            A_log=torch.empty(HEADS),
            D=torch.empty(HEADS),
            in_proj=plain(WIDTH, INNER + channels + HEADS),
            conv1d=depthwise(channels),
            norm=nn.RMSNorm(INNER),
            out_proj=plain(INNER, WIDTH),
        )
        mlp = Tree(fc1=plain(WIDTH, 2 * INNER), fc2=plain(INNER, WIDTH))
        return Tree(mixer=mixer, norm=nn.RMSNorm(WIDTH), mlp=mlp, norm2=nn.RMSNorm(WIDTH))

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                default_(module)
            elif isinstance(module, nn.RMSNorm):
                ones_(module.weight)
        normal_(self.backbone["embedding"].weight, std=0.02)
        for block in self.backbone["layers"]:
            mixer = block.mixer
            ones_(mixer.D)
            outputs = [mixer.out_proj]
            if self.version == 1:
                mixer.A_log.copy_(torch.arange(1, STATES + 1).float().log().expand(INNER, -1))
                uniform_(mixer.dt_proj.weight, -(RANK**-0.5), RANK**-0.5)
                time_step_(mixer.dt_proj.bias)
            else:
                mixer.A_log.uniform_(1, 16).log_()
                time_step_(mixer.dt_bias)
                outputs.append(block.mlp.fc2)
            for output in outputs:
                kaiming_uniform_(output.weight, a=math.sqrt(5))
                output.weight /= math.sqrt(len(outputs) * LAYERS)


def mamba2() -> Mamba:
    return Mamba(2)


class ShortConvolution(nn.Conv1d):
    """The depthwise convolution of fla."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 4, groups=width, padding=3, bias=False)


class GatedDeltaNet(nn.Module):
    """fla bc3b101; OLMo-core names its parts the same."""

    def __init__(self) -> None:
        super().__init__()

        def block() -> Tree:
            attn = Tree(
                **{f"{name}_proj": plain(WIDTH, WIDTH) for name in "qkvg"},
                a_proj=plain(WIDTH, HEADS),
                b_proj=plain(WIDTH, HEADS),
                A_log=torch.empty(HEADS),
                dt_bias=torch.empty(HEADS),
                **{f"{name}_conv1d": ShortConvolution(WIDTH) for name in "qkv"},
                o_norm=nn.RMSNorm(WIDTH // HEADS),
                o_proj=plain(WIDTH, WIDTH),
            )
            mlp = Tree(
                gate_proj=plain(WIDTH, INNER),
                up_proj=plain(WIDTH, INNER),
                down_proj=plain(INNER, WIDTH),
            )
            norms = {f"{name}_norm": nn.RMSNorm(WIDTH) for name in ("attn", "mlp")}
            return Tree(attn=attn, mlp=mlp, **norms)

        self.model = Tree(
            embeddings=nn.Embedding(VOCABULARY, WIDTH),
            layers=nn.ModuleList([block() for _ in range(LAYERS)]),
            norm=nn.RMSNorm(WIDTH),
        )
        self.lm_head = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self, residual: str = "plain") -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)):
                normal_(module.weight, std=0.02)
            elif isinstance(module, nn.RMSNorm):
                ones_(module.weight)
        for layer in self.model["layers"]:
            layer.attn.A_log.uniform_(0, 16).log_()
            time_step_(layer.attn.dt_bias)
            for output in (layer.attn.o_proj, layer.mlp.down_proj):
                if residual == "rescale":
                    kaiming_uniform_(output.weight, a=math.sqrt(5))
                    output.weight /= math.sqrt(2 * LAYERS)
                elif residual == "zero":
                    zeros_(output.weight)


class OffsetRMSNorm(nn.Module):
    """A norm that multiplies by 1 + weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (x.shape[-1],)) * (1 + self.weight)


class TitanQwenNext(nn.Module):
    """torchtitan b5bcd76, Qwen3.5: two delta nets, one attention with experts."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int) -> Tree:
            norms = {f"{name}_norm": OffsetRMSNorm(WIDTH) for name in ("attention", "ffn")}
            if i == LAYERS - 1:
                attention = Tree(**{f"w{name}": plain(WIDTH, WIDTH) for name in "qkvo"})
                experts = Tree(
                    w1_EFD=torch.empty(4, INNER, WIDTH),
                    w2_EDF=torch.empty(4, WIDTH, INNER),
                    w3_EFD=torch.empty(4, INNER, WIDTH),
                )
                router = Tree(gate=plain(WIDTH, 4))
                return Tree(attention=attention, moe=Tree(router=router, experts=experts), **norms)
            delta_net = Tree(
                **{f"in_proj_{name}": plain(WIDTH, WIDTH) for name in "qkvz"},
                in_proj_a=plain(WIDTH, HEADS),
                in_proj_b=plain(WIDTH, HEADS),
                **{f"conv_{name}": depthwise(WIDTH, bias=False) for name in "qkv"},
                A_log=torch.empty(HEADS),
                dt_bias=torch.empty(HEADS),
                norm=nn.RMSNorm(WIDTH // HEADS),
                out_proj=plain(WIDTH, WIDTH),
            )
            feed_forward = Tree(
                w1=plain(WIDTH, INNER), w2=plain(INNER, WIDTH), w3=plain(WIDTH, INNER)
            )
            return Tree(delta_net=delta_net, feed_forward=feed_forward, **norms)

        self.tok_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleDict({str(i): block(i) for i in range(LAYERS)})
        self.norm = OffsetRMSNorm(WIDTH)
        self.lm_head = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("dt_bias", "delta_net.norm.weight")):
                ones_(parameter)
            elif name.endswith("A_log"):
                parameter.uniform_(0.01, 16).log_()
            elif "norm" in name:
                zeros_(parameter)
            elif ".conv_" not in name:
                trunc_normal_(parameter, std=0.02)
        for i, layer in enumerate(self.layers.values()):
            ends = (".wo.weight", ".out_proj.weight", ".w2.weight", ".w3.weight", "gate.weight")
            for name, parameter in layer.named_parameters():
                if name.endswith((*ends, "w2_EDF", "w3_EFD")):
                    trunc_normal_(parameter, std=0.02 / math.sqrt(2 * (i + 1)))
        normal_(self.tok_embeddings.weight)
        head = WIDTH**-0.5
        trunc_normal_(self.lm_head.weight, std=head, a=-3 * head, b=3 * head)


class Griffin(nn.Module):
    """recurrentgemma 2efa84d: two recurrent blocks and one of attention."""

    def __init__(self) -> None:
        super().__init__()
        block = WIDTH // HEADS

        def gates() -> Tree:
            return Tree(w=torch.empty(HEADS, block, block), b=torch.empty(HEADS, block))

        def residual(i: int) -> Tree:
            norms = {f"{n}_pre_norm": GemmaNorm(WIDTH) for n in ("temporal", "channel")}
            mlp_block = Tree(
                ffw_up=Tree(w=torch.empty(2, WIDTH, INNER), b=torch.empty(2, 1, 1, INNER)),
                ffw_down=nn.Linear(INNER, WIDTH),
            )
            if i == LAYERS - 1:
                attention = Tree(
                    proj_q=plain(WIDTH, WIDTH),
                    proj_k=plain(WIDTH, block),
                    proj_v=plain(WIDTH, block),
                    proj_final=nn.Linear(WIDTH, WIDTH),
                )
                return Tree(attention_block=attention, mlp_block=mlp_block, **norms)
            recurrent = Tree(
                **{f"linear_{n}": nn.Linear(WIDTH, WIDTH) for n in ("y", "x", "out")},
                conv_1d=Tree(w=torch.empty(4, WIDTH), b=torch.empty(WIDTH)),
                rg_lru=Tree(a_param=torch.empty(WIDTH), input_gate=gates(), a_gate=gates()),
            )
            return Tree(recurrent_block=recurrent, mlp_block=mlp_block, **norms)

        self.embedder = Tree(input_embedding=torch.empty(VOCABULARY, WIDTH))
        self.blocks = nn.ModuleList([residual(i) for i in range(LAYERS)])
        self.final_norm = GemmaNorm(WIDTH)

    @torch.no_grad()
    def init_weights(self) -> None:
        final = math.sqrt(2.0 / LAYERS)
        for name, p in self.named_parameters():
            if name.endswith(("bias", ".b", "scale")):
                zeros_(p)
            elif name.endswith("a_param"):
                p.uniform_(0.9**2 + 1e-8, 0.999**2 + 1e-8)
                p.log_().mul_(0.5).neg_().exp_().sub_(1.0).log_()
            elif name.endswith("conv_1d.w"):
                normal_(p, std=math.sqrt(0.01 / 4))
            elif name.endswith("gate.w"):
                normal_(p, std=math.sqrt(1.0 / (WIDTH // HEADS)))
            elif name.endswith("ffw_down.weight"):
                normal_(p, std=final / math.sqrt(INNER))
            elif name.endswith(("linear_out.weight", "proj_final.weight")):
                normal_(p, std=final / math.sqrt(WIDTH))
            else:
                normal_(p, std=math.sqrt(1.0 / WIDTH))


class GemmaNorm(nn.Module):
    """A norm that multiplies by 1 + scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (x.shape[-1],)) * (1 + self.scale)


class S4D(nn.Module):
    """s4 2ed46fc, with the layers around it of its example."""

    def __init__(self) -> None:
        super().__init__()

        def layer() -> Tree:
            kernel = Tree(
                C=torch.empty(WIDTH, 32, 2),
                log_dt=torch.empty(WIDTH),
                log_A_real=torch.empty(WIDTH, 32),
                A_imag=torch.empty(WIDTH, 32),
            )
            mix = nn.Sequential(nn.Conv1d(WIDTH, 2 * WIDTH, kernel_size=1), nn.GLU(dim=-2))
            return Tree(D=torch.empty(WIDTH), kernel=kernel, output_linear=mix)

        self.encoder = nn.Linear(3, WIDTH)
        self.s4_layers = nn.ModuleList([layer() for _ in range(LAYERS)])
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(LAYERS)])
        self.decoder = nn.Linear(WIDTH, 10)

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm)):
                module.reset_parameters()
        for layer in self.s4_layers:
            kernel = layer.kernel
            kernel.C.copy_(torch.view_as_real(torch.randn(WIDTH, 32, dtype=torch.cfloat)))
            u = torch.rand(WIDTH)
            kernel.log_dt.copy_(u * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
            kernel.log_A_real.copy_(torch.log(0.5 * torch.ones(WIDTH, 32)))
            kernel.A_imag.copy_(math.pi * torch.arange(32).expand(WIDTH, 32))
            normal_(layer.D)


class RetNet(nn.Module):
    """torchscale, with values of twice the width."""

    def __init__(self) -> None:
        super().__init__()

        def layer() -> Tree:
            retention = Tree(
                q_proj=plain(WIDTH, WIDTH),
                k_proj=plain(WIDTH, WIDTH),
                v_proj=plain(WIDTH, INNER),
                g_proj=plain(WIDTH, INNER),
                out_proj=plain(INNER, WIDTH),
            )
            ffn = Tree(fc1=plain(WIDTH, INNER), fc2=plain(INNER, WIDTH), gate=plain(WIDTH, INNER))
            norms = {f"{n}_layer_norm": nn.RMSNorm(WIDTH) for n in ("retention", "final")}
            return Tree(retention=retention, ffn=ffn, **norms)

        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([layer() for _ in range(LAYERS)])
        self.layer_norm = nn.RMSNorm(WIDTH)
        self.output_projection = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.RMSNorm)):
                module.reset_parameters()
        for layer in self.layers:
            for name in "qkvg":
                xavier_uniform_(layer.retention[f"{name}_proj"].weight, gain=2**-2.5)
            xavier_uniform_(layer.retention.out_proj.weight, gain=2**-1)
        normal_(self.embed_tokens.weight, mean=0, std=WIDTH**-0.5)
        normal_(self.output_projection.weight, mean=0, std=WIDTH**-0.5)


def xlstm() -> Tree:
    """The names of xLSTM-7B in transformers."""

    def block() -> Tree:
        mlstm_layer = Tree(
            **{name: plain(WIDTH, WIDTH) for name in ("q", "k", "v", "ogate_preact", "out_proj")},
            **{f"{name}gate_preact": nn.Linear(WIDTH, HEADS) for name in "if"},
        )
        ffn = Tree(
            proj_up_gate=plain(WIDTH, INNER),
            proj_up=plain(WIDTH, INNER),
            proj_down=plain(INNER, WIDTH),
        )
        return Tree(norm_mlstm=nn.RMSNorm(WIDTH), mlstm_layer=mlstm_layer, ffn=ffn)

    blocks = nn.ModuleList([block() for _ in range(LAYERS)])
    backbone = Tree(embeddings=nn.Embedding(VOCABULARY, WIDTH), blocks=blocks)
    return Tree(backbone=backbone, lm_head=plain(WIDTH, VOCABULARY))


class RWKV7(nn.Module):
    """RWKV-LM 524481d."""

    def __init__(self) -> None:
        super().__init__()
        head, rank = WIDTH // HEADS, 32

        def block(i: int) -> Tree:
            low = {f"{n}1": torch.empty(WIDTH, rank) for n in "wavg"}
            low |= {f"{n}2": torch.empty(rank, WIDTH) for n in "wavg"}
            names = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a")
            att = Tree(
                **{name: torch.empty(1, 1, WIDTH) for name in names},
                **low,
                r_k=torch.empty(HEADS, head),
                **{n: plain(WIDTH, WIDTH) for n in ("receptance", "key", "value", "output")},
                ln_x=nn.GroupNorm(HEADS, WIDTH, eps=64e-5),
            )
            ffn = Tree(
                x_k=torch.empty(1, 1, WIDTH),
                key=plain(WIDTH, 2 * INNER),
                value=plain(2 * INNER, WIDTH),
            )
            norms = {f"ln{n}": nn.LayerNorm(WIDTH) for n in ((0, 1, 2) if i == 0 else (1, 2))}
            return Tree(att=att, ffn=ffn, **norms)

        self.emb = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([block(i) for i in range(LAYERS)])
        self.ln_out = nn.LayerNorm(WIDTH)
        self.head = plain(WIDTH, VOCABULARY)

    @torch.no_grad()
    def init_weights(self) -> None:
        head, last = WIDTH // HEADS, WIDTH - 1
        for module in self.modules():
            if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
                module.reset_parameters()
        for i, block in enumerate(self.blocks):
            ratio, almost = i / (LAYERS - 1), 1.0 - i / LAYERS
            att, ffn = block.att, block.ffn
            ramp = torch.tensor([n / WIDTH for n in range(WIDTH)])
            exponents = {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}
            for name, exponent in exponents.items():
                att.get_parameter(name).copy_(1.0 - torch.pow(ramp, exponent * almost))
            ffn.x_k.copy_(1.0 - torch.pow(ramp, almost**4))
            for n in range(WIDTH):
                line = n / last - 0.5
                zigzag = ((n % head) - ((head - 1) / 2)) / ((head - 1) / 2)
                zigzag *= abs(zigzag)
                decay = -6 + 6 * (n / last) ** (1 + 1 * ratio**0.3)
                att.w0[0, 0, n] = decay + 0.5 + zigzag * 2.5
                att.a0[0, 0, n] = -0.19 + zigzag * 0.3 + line * 0.4
                att.v0[0, 0, n] = 0.73 - line * 0.4
                att.k_k[0, 0, n] = 0.71 - line * 0.1
            att.k_a.fill_(1.02)
            att.r_k.fill_(-0.04)
            for name in "wavg":
                zeros_(att.get_parameter(f"{name}1"))
                orthogonal_(att.get_parameter(f"{name}2"), gain=0.1)
            orthogonal_(att.receptance.weight)
            orthogonal_(att.key.weight, gain=0.1)
            orthogonal_(att.value.weight)
            zeros_(att.output.weight)
            orthogonal_(ffn.key.weight)
            zeros_(ffn.value.weight)
            att.ln_x.weight.fill_(((1 + i) / LAYERS) ** 0.7)
        uniform_(self.emb.weight, -1e-4, 1e-4)
        orthogonal_(self.head.weight, gain=0.5 * math.sqrt(VOCABULARY / WIDTH))


class RWKV4(nn.Module):
    """RWKV-4 with the names of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.rwkv = Tree(
            embeddings=nn.Embedding(VOCABULARY, WIDTH),
            blocks=nn.ModuleList([self._block() for _ in range(LAYERS)]),
            ln_out=nn.LayerNorm(WIDTH),
        )
        self.head = plain(WIDTH, VOCABULARY)

    def _block(self) -> Tree:
        names = ("time_mix_key", "time_mix_value", "time_mix_receptance")
        mixing = {name: torch.empty(1, 1, WIDTH) for name in names}
        attention = Tree(
            time_decay=torch.empty(WIDTH),
            time_first=torch.empty(WIDTH),
            **mixing,
            **{name: plain(WIDTH, WIDTH) for name in ("key", "value", "receptance", "output")},
        )
        feed_forward = Tree(
            time_mix_key=torch.empty(1, 1, WIDTH),
            time_mix_receptance=torch.empty(1, 1, WIDTH),
            key=plain(WIDTH, INNER),
            receptance=plain(WIDTH, WIDTH),
            value=plain(INNER, WIDTH),
        )
        norms = {f"ln{i}": nn.LayerNorm(WIDTH) for i in (1, 2)}
        return Tree(attention=attention, feed_forward=feed_forward, **norms)


class HeadNorm(nn.Module):
    """A norm per head, [batch, heads, time, channels], that multiplies by 1 + weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        heads, channels = x.shape[1], x.shape[3]
        scale = (1 + self.weight).view(heads, 1, channels)
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) * scale


class Headwise(nn.Module):
    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width // heads, width // heads))


class NxAiBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.xlstm_norm = HeadNorm(WIDTH)


class NxAiMatrixBlock(NxAiBlock):
    def __init__(self) -> None:
        super().__init__()
        cell = Tree(
            igate=nn.Linear(3 * INNER, HEADS),
            fgate=nn.Linear(3 * INNER, HEADS),
            outnorm=HeadNorm(INNER),
        )
        self.xlstm = Tree(
            learnable_skip=torch.empty(INNER),
            proj_up=plain(WIDTH, 2 * INNER),
            **{f"{name}_proj": Headwise(INNER // 4, INNER) for name in "qkv"},
            conv1d=Tree(conv=depthwise(INNER)),
            mlstm_cell=cell,
            proj_down=plain(INNER, WIDTH),
        )


class NxAiScalarBlock(NxAiBlock):
    def __init__(self) -> None:
        super().__init__()
        channels = WIDTH // HEADS
        cell = Tree(
            _recurrent_kernel_=torch.empty(HEADS, 4 * channels, channels),
            _bias_=torch.empty(4 * WIDTH),
        )
        self.xlstm = Tree(
            conv1d=Tree(conv=depthwise(WIDTH)),
            **{f"{name}gate": Headwise(HEADS, WIDTH) for name in "ifzo"},
            slstm_cell=cell,
            group_norm=HeadNorm(WIDTH),
        )
        self.ffn = Tree(proj_up=plain(WIDTH, 2 * INNER), proj_down=plain(INNER, WIDTH))


def nx_ai_xlstm() -> Tree:
    """The names of xlstm 2.0.6, with a scalar cell between two matrix cells."""
    blocks = nn.ModuleList([NxAiMatrixBlock(), NxAiScalarBlock(), NxAiMatrixBlock()])
    return Tree(
        xlstm_block_stack=Tree(blocks=blocks, post_blocks_norm=HeadNorm(WIDTH)),
        token_embedding=nn.Embedding(VOCABULARY, WIDTH),
        lm_head=plain(WIDTH, VOCABULARY),
    )


def fla_rwkv7() -> Tree:
    """The names of fla 0.6.0."""

    def low_rank(rank: int, *, bias: bool = True) -> Tree:
        down, up = plain(WIDTH, rank), plain(rank, WIDTH, bias=bias)
        return Tree(lora=nn.Sequential(down, nn.Tanh(), up))

    def block(layer: int) -> Tree:
        names = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
        low = {f"{name}_lora": low_rank(64) for name in ("wa" if layer == 0 else "wav")}
        attn = Tree(
            **{name: torch.empty(1, 1, WIDTH) for name in names},
            k_k=torch.empty(WIDTH),
            k_a=torch.empty(WIDTH),
            r_k=torch.empty(HEADS, WIDTH // HEADS),
            **{f"{name}_proj": plain(WIDTH, WIDTH) for name in "rkvo"},
            **low,
            g_lora=low_rank(2 * WIDTH, bias=False),
            g_norm=nn.GroupNorm(HEADS, WIDTH),
        )
        ffn = Tree(x_k=torch.empty(WIDTH), key=plain(WIDTH, INNER), value=plain(INNER, WIDTH))
        return Tree(attn=attn, ffn=ffn, attn_norm=nn.LayerNorm(WIDTH), ffn_norm=nn.LayerNorm(WIDTH))

    layers = nn.ModuleList([block(layer) for layer in range(LAYERS)])
    model = Tree(embeddings=nn.Embedding(VOCABULARY, WIDTH), layers=layers)
    return Tree(model=model, lm_head=plain(WIDTH, VOCABULARY))
