"""Contrastive models with the parameter names of their code bases.

Those that have an `init_weights` write what the reference writes, with torch's own fills.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.init import normal_, xavier_uniform_, zeros_

from named_models import Tree

WIDTH, HIDDEN, LAYERS, HEADS, SHARED = 256, 1024, 2, 4, 128


class _Attention(nn.Module):
    """ResidualAttentionBlock."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.mlp = Tree(c_fc=nn.Linear(WIDTH, HIDDEN), c_proj=nn.Linear(HIDDEN, WIDTH))
        self.ln_2 = nn.LayerNorm(WIDTH)


def _tower() -> Tree:
    return Tree(resblocks=nn.Sequential(*(_Attention() for _ in range(LAYERS))))


def _random(*shape: int) -> torch.Tensor:
    return WIDTH**-0.5 * torch.randn(*shape)


class Clip(nn.Module):
    """OpenAI's CLIP with an image transformer, or with one block of its ResNet."""

    def __init__(self, *, resnet: bool = False) -> None:
        super().__init__()
        self.visual = self.resnet() if resnet else self.image_tower()
        self.transformer = _tower()
        self.token_embedding = nn.Embedding(300, WIDTH)
        self.positional_embedding = nn.Parameter(torch.empty(16, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.empty(WIDTH, SHARED))
        self.logit_scale = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))

    def image_tower(self) -> Tree:
        return Tree(
            conv1=nn.Conv2d(3, WIDTH, 8, 8, bias=False),
            class_embedding=_random(WIDTH),
            positional_embedding=_random(17, WIDTH),
            ln_pre=nn.LayerNorm(WIDTH),
            transformer=_tower(),
            ln_post=nn.LayerNorm(WIDTH),
            proj=_random(WIDTH, SHARED),
        )

    def resnet(self) -> Tree:
        def conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, size, bias=False)

        bottleneck = Tree(
            conv1=conv(32, 16, 1), bn1=nn.BatchNorm2d(16),
            conv2=conv(16, 16, 3), bn2=nn.BatchNorm2d(16),
            conv3=conv(16, 64, 1), bn3=nn.BatchNorm2d(64),
        )  # fmt: skip
        pool = Tree(
            positional_embedding=torch.randn(50, WIDTH) / WIDTH**0.5,
            q_proj=nn.Linear(WIDTH, WIDTH),
            k_proj=nn.Linear(WIDTH, WIDTH),
            v_proj=nn.Linear(WIDTH, WIDTH),
            c_proj=nn.Linear(WIDTH, SHARED),
        )
        return Tree(
            conv1=conv(3, 32, 3),
            bn1=nn.BatchNorm2d(32),
            layer1=nn.Sequential(bottleneck),
            attnpool=pool,
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        normal_(self.token_embedding.weight, std=0.02)
        normal_(self.positional_embedding, std=0.01)
        for name, parameter in self.visual.named_parameters():
            if name.startswith("attnpool") and name.endswith("proj.weight"):
                normal_(parameter, std=WIDTH**-0.5)
            if name.endswith("bn3.weight"):
                zeros_(parameter)
        output_std = WIDTH**-0.5 * (2 * LAYERS) ** -0.5
        for block in self.transformer["resblocks"]:
            normal_(block.attn.in_proj_weight, std=WIDTH**-0.5)
            normal_(block.attn.out_proj.weight, std=output_std)
            normal_(block.mlp["c_fc"].weight, std=(2 * WIDTH) ** -0.5)
            normal_(block.mlp["c_proj"].weight, std=output_std)
        normal_(self.text_projection, std=WIDTH**-0.5)


class SigLip(nn.Module):
    """SigLIP with the layers of big_vision, under the names of transformers."""

    def __init__(self) -> None:
        super().__init__()

        def mlp() -> Tree:
            return Tree(fc1=nn.Linear(WIDTH, HIDDEN), fc2=nn.Linear(HIDDEN, WIDTH))

        def layer() -> Tree:
            names = ("q_proj", "k_proj", "v_proj", "out_proj")
            return Tree(
                layer_norm1=nn.LayerNorm(WIDTH),
                self_attn=Tree(**{name: nn.Linear(WIDTH, WIDTH) for name in names}),
                layer_norm2=nn.LayerNorm(WIDTH),
                mlp=mlp(),
            )

        def encoder() -> Tree:
            return Tree(layers=nn.ModuleList([layer() for _ in range(LAYERS)]))

        self.text_model = Tree(
            token_embedding=nn.Embedding(300, WIDTH),
            position_embedding=nn.Embedding(16, WIDTH),
            encoder=encoder(),
            head=nn.Linear(WIDTH, WIDTH),
        )
        self.vision_model = Tree(
            patch_embedding=nn.Conv2d(3, WIDTH, 8, 8),
            position_embedding=nn.Embedding(16, WIDTH),
            encoder=encoder(),
            head=Tree(
                probe=torch.empty(1, 1, WIDTH),
                attention=nn.MultiheadAttention(WIDTH, HEADS),
                mlp=mlp(),
            ),
        )
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1))

    @torch.no_grad()
    def init_weights(self) -> None:
        self.logit_scale.fill_(math.log(10))
        self.logit_bias.fill_(-10.0)
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                normal_(module.weight, std=WIDTH**-0.5)
            elif isinstance(module, (nn.Linear, nn.Conv2d)):
                if isinstance(module, nn.Conv2d) or name == "text_model.head":
                    std = module.weight[0].numel() ** -0.5 / 0.87962566103423978
                    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                else:
                    xavier_uniform_(module.weight)
                normal_(module.bias, std=1e-6) if ".mlp." in name else zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                for part in module.in_proj_weight.chunk(3):
                    xavier_uniform_(part)
        probe = self.vision_model["head"].probe
        probe.uniform_(-1, 1).mul_(math.sqrt(6 / (1 + WIDTH)))
