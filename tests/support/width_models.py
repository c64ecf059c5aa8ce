"""A small GPT and a perceptron of any width, with the multipliers of μP in their forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, CONTEXT, HEAD_WIDTH = 64, 16, 16


class Attention(nn.Module):
    def __init__(self, width: int, scaling: float) -> None:
        super().__init__()
        self.head_dim, self.scaling = HEAD_WIDTH, scaling
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in "qkvo"
        )

    def forward(self, x: Tensor) -> Tensor:
        split = (*x.shape[:2], -1, HEAD_WIDTH)
        q, k, v = (
            p(x).view(split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, scaling: float, residual: float) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, scaling)
        self.ln_2, self.mlp = nn.LayerNorm(width), Mlp(width)
        self.residual_scaling = residual

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.residual_scaling * self.attn(self.ln_1(x))
        return x + self.residual_scaling * self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """A GPT with heads of one width; `logit_scale` and `residual` as a recipe of μP asks for."""

    def __init__(
        self,
        width: int,
        *,
        logit_scale: float = 1.0,
        layers: int = 2,
        tied: bool = False,
        residual: float = 1.0,
        vocabulary: int = VOCABULARY,
        context: int = CONTEXT,
    ) -> None:
        super().__init__()
        self.d_model, self.logit_scale = width, logit_scale
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        scaling = HEAD_WIDTH**-0.5
        self.h = nn.ModuleList([Block(width, scaling, residual) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x) * self.logit_scale)


def mup_gpt(base: int) -> type[Gpt]:
    """Return the class of a GPT that multiplies logits by base / width."""

    class MupGpt(Gpt):
        def __init__(self, width: int, **options: object) -> None:
            super().__init__(width, logit_scale=base / width, **options)  # type: ignore[arg-type]

    return MupGpt


class UnitLinear(nn.Linear):
    """A layer of unit-scaling: the product times fan_in^-1/2, of a readout 1/fan_in."""

    power = -0.5

    def forward(self, x: Tensor) -> Tensor:
        product = functional.linear(x, self.weight) * self.in_features**self.power
        return product if self.bias is None else product + self.bias


class UnitReadout(UnitLinear):
    power = -1.0


class UnitGpt(Gpt):
    """The same GPT with the multipliers of u-μP."""

    def __init__(self, width: int, **options: object) -> None:
        super().__init__(width, **options)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = UnitReadout if module is self.lm_head else UnitLinear


def perceptron(width: int) -> nn.Sequential:
    layers = (nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width, 4))


def text(seed: int = 0, *, rows: int = 8) -> tuple[Tensor, Tensor]:
    """Return tokens and the next ones."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (rows, CONTEXT + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]
