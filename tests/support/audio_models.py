"""Models for speech with the parameter names of their code bases.

Those that have an `init_weights` write what the reference writes, with torch's own fills.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.init import kaiming_normal_, normal_, uniform_, zeros_

from named_models import Tree

WIDTH, HIDDEN, LAYERS, TAPS, GROUPS = 256, 320, 2, 16, 4


def attention(**more: nn.Module) -> Tree:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return Tree(**{name: nn.Linear(WIDTH, WIDTH) for name in names}, **more)


class Whisper(nn.Module):
    """Whisper with the names of transformers."""

    def __init__(self) -> None:
        super().__init__()

        def layer() -> Tree:
            return Tree(
                self_attn=attention(),
                self_attn_layer_norm=nn.LayerNorm(WIDTH),
                fc1=nn.Linear(WIDTH, HIDDEN),
                fc2=nn.Linear(HIDDEN, WIDTH),
            )

        self.encoder = Tree(
            conv1=nn.Conv1d(80, WIDTH, 3),
            embed_positions=nn.Embedding(30, WIDTH),
            layers=nn.ModuleList([layer() for _ in range(LAYERS)]),
        )
        self.decoder = Tree(
            embed_tokens=nn.Embedding(300, WIDTH),
            embed_positions=nn.Embedding(20, WIDTH),
            layers=nn.ModuleList([layer() for _ in range(LAYERS)]),
        )
        self.encoder["embed_positions"].weight.requires_grad_(False)
        self.layer_weights = nn.Parameter(torch.ones(LAYERS + 1))

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Embedding)):
                normal_(module.weight, std=0.02)
            if isinstance(module, (nn.Linear, nn.Conv1d)):
                zeros_(module.bias)
        step = math.log(10000) / (WIDTH // 2 - 1)
        angles = torch.arange(30)[:, None] * torch.exp(-step * torch.arange(WIDTH // 2))
        self.encoder["embed_positions"].weight.copy_(torch.cat([angles.sin(), angles.cos()], 1))
        self.layer_weights.fill_(1 / (LAYERS + 1))


class Wav2Vec2(nn.Module):
    """wav2vec 2.0 with the names of transformers, and the order of fairseq: normals, then norms."""

    def __init__(self) -> None:
        super().__init__()

        def layer() -> Tree:
            return Tree(
                attention=attention(),
                layer_norm=nn.LayerNorm(WIDTH),
                feed_forward=Tree(
                    intermediate_dense=nn.Linear(WIDTH, HIDDEN),
                    output_dense=nn.Linear(HIDDEN, WIDTH),
                ),
            )

        self.feature_extractor = Tree(
            conv_layers=nn.ModuleList(
                [Tree(conv=nn.Conv1d(1, 160, 10)), Tree(conv=nn.Conv1d(160, 160, 3))]
            )
        )
        self.feature_projection = Tree(
            layer_norm=nn.LayerNorm(160), projection=nn.Linear(160, WIDTH)
        )
        self.masked_spec_embed = nn.Parameter(torch.empty(WIDTH))
        conv = nn.Conv1d(WIDTH, WIDTH, TAPS, padding=TAPS // 2, groups=GROUPS)
        self.encoder = Tree(
            pos_conv_embed=Tree(conv=nn.utils.parametrizations.weight_norm(conv, dim=2)),
            layers=nn.ModuleList([layer() for _ in range(LAYERS)]),
        )
        self.quantizer = Tree(codevectors=torch.empty(1, 640, 32), weight_proj=nn.Linear(160, 640))
        self.project_hid, self.project_q = nn.Linear(WIDTH, 64), nn.Linear(64, 64)

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                normal_(module.weight, std=0.02)
                zeros_(module.bias)
        for layer in self.feature_extractor["conv_layers"]:
            kaiming_normal_(layer["conv"].weight)  # its bias and the projections as torch left them
        conv = self.encoder["pos_conv_embed"]["conv"]
        zeros_(conv.bias)
        weight = normal_(torch.empty_like(conv.weight), std=math.sqrt(4 / (TAPS * WIDTH)))
        parts = conv.parametrizations.weight
        parts.original1.copy_(weight)
        parts.original0.copy_(weight.norm(dim=(0, 1), keepdim=True))
        uniform_(self.masked_spec_embed)
        uniform_(self.quantizer.codevectors)
        normal_(self.quantizer["weight_proj"].weight)
        zeros_(self.quantizer["weight_proj"].bias)
