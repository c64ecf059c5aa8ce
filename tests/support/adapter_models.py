"""Adapters in small, in the layout of peft: DoRA, (IA)3, VeRA, AdaLoRA, prompts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from named_models import LoraLinear, Tree

WIDTH, RANK = 256, 8


def dora(rank: int = RANK) -> LoraLinear:
    """A Linear with DoRA."""
    model = LoraLinear(WIDTH, WIDTH, rank)
    magnitude = Tree(weight=torch.empty(WIDTH))
    model.lora_magnitude_vector = nn.ModuleDict({"default": magnitude})
    return model


def dora_of_an_embedding() -> nn.Module:
    """An Embedding with DoRA: one magnitude per column."""
    model = nn.Module()
    model.base_layer = nn.Embedding(40, WIDTH)
    model.lora_embedding_A = nn.ParameterDict({"default": nn.Parameter(torch.empty(RANK, 40))})
    model.lora_embedding_B = nn.ParameterDict({"default": nn.Parameter(torch.empty(WIDTH, RANK))})
    model.lora_magnitude_vector = nn.ModuleDict({"default": Tree(weight=torch.empty(WIDTH))})
    return model


class Ia3Linear(nn.Module):
    """A Linear with factors of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(WIDTH, WIDTH)
        self.ia3_l = nn.ParameterDict({"default": nn.Parameter(torch.randn(WIDTH, 1))})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x) * self.ia3_l["default"].flatten()
        return out


class AdaLoraLinear(nn.Module):
    """A Linear with A, singular values E, B, and how many singular values there are."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(WIDTH, WIDTH)
        self.lora_E = nn.ParameterDict({"default": nn.Parameter(torch.randn(RANK, 1))})
        self.lora_A = nn.ParameterDict({"default": nn.Parameter(torch.randn(RANK, WIDTH))})
        self.lora_B = nn.ParameterDict({"default": nn.Parameter(torch.randn(WIDTH, RANK))})
        number = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.ranknum = nn.ParameterDict({"default": number})

    def forward(self, x: Tensor) -> Tensor:
        e, a, b = (p["default"] for p in (self.lora_E, self.lora_A, self.lora_B))
        out: Tensor = self.base_layer(x) + x @ (a * e).T @ b.T
        return out


class BufferDict(nn.Module):
    """Buffers by name, as peft's class of that name."""

    def __init__(self, persistent: bool, **buffers: Tensor) -> None:
        super().__init__()
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=persistent)


class VeraLinear(nn.Module):
    """A Linear with factors around matrices that all layers share."""

    def __init__(self, shared: tuple[BufferDict, BufferDict], inputs: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, WIDTH)
        self.vera_lambda_d = nn.ParameterDict({"default": nn.Parameter(torch.randn(RANK))})
        self.vera_lambda_b = nn.ParameterDict({"default": nn.Parameter(torch.ones(WIDTH))})
        self.vera_A, self.vera_B = shared

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.vera_A.default[:, : x.shape[-1]], self.vera_B.default
        d, scale = self.vera_lambda_d["default"], self.vera_lambda_b["default"]
        out: Tensor = self.base_layer(x) + x @ a.T * d @ b.T * scale
        return out


class Vera(nn.Module):
    """Two layers of different widths."""

    def __init__(self, *, saved: bool = True) -> None:
        super().__init__()
        self.vera_A = BufferDict(saved, default=torch.rand(RANK, WIDTH))
        self.vera_B = BufferDict(saved, default=torch.rand(WIDTH, RANK))
        shared = (self.vera_A, self.vera_B)
        self.layers = nn.ModuleList([VeraLinear(shared, n) for n in (WIDTH // 2, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def prompted() -> Tree:
    """Virtual tokens before a vocabulary."""
    encoder = Tree(embedding=nn.Embedding(16, WIDTH))
    return Tree(
        word_embeddings=nn.Embedding(60, WIDTH), prompt_encoder=nn.ModuleDict({"default": encoder})
    )


def prefixed() -> Tree:
    """Prefixes from a projection, and from P-tuning's encoder."""
    transform = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, 2 * WIDTH))
    encoder = Tree(embedding=nn.Embedding(16, WIDTH), transform=transform)
    lstm = nn.LSTM(WIDTH, 64, bidirectional=True)
    head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, WIDTH))
    tuned = Tree(embedding=nn.Embedding(16, WIDTH), lstm_head=lstm, mlp_head=head)
    return Tree(prompt_encoder=nn.ModuleDict({"prefix": encoder, "tuned": tuned}))


def orthogonal_halves(inputs: int, outputs: int, rank: int) -> tuple[Tensor, Tensor]:
    """A and B as peft's `orthogonal_init` makes them."""
    q = torch.linalg.qr(torch.randn(rank, rank)).Q
    a = torch.randn(inputs, rank // 2).mm(q[0::2]).T / 10.0
    b = torch.randn(rank // 2, outputs).T.mm(q[1::2]) / 10.0
    return a, b


def kaiming_of_vera(rows: int, columns: int) -> Tensor:
    """A or B of VeRA as peft makes them."""
    bound = math.sqrt(3.0) * math.sqrt(2) / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound)
