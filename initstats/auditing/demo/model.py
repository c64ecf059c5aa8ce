"""Model of the demo: a small GPT-2 in plain torch, with the names of nanoGPT."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo.

    Attributes:
        vocabulary: Number of distinct tokens, V.
        context: Tokens per sequence, T.
        layers: Number of blocks, L.
        width: Model width, d; a multiple of `heads`.
        heads: Attention heads per block.
        batch: Sequences per batch, B.
        learning_rate: Step size of AdamW.
    """

    vocabulary: int = 2048
    context: int = 128
    layers: int = 6
    width: int = 256
    heads: int = 4
    batch: int = 8
    learning_rate: float = 3e-4


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a token sees itself and its past."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens: `[B, T, d]` to `[B, T, d]`."""
        b, t, d = x.shape
        q, k, v = (
            part.view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(d, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(b, t, d))
        return projected


class MLP(nn.Module):
    """The two-layer network of a block."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token: `[B, T, d]` to `[B, T, d]`."""
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """A pre-norm block: two residual branches."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches to the residual stream: `[B, T, d]` to `[B, T, d]`."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class DemoGPT(nn.Module):
    """A GPT-2 style decoder with learned positions and a head tied to the embedding.

    Its weights come from torch's constructors until a recipe fills them.

    Args:
        config: The sizes.
    """

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocabulary, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the next token.

        Args:
            tokens: int64 `[B, T]`, values in [0, V).
            targets: int64 `[B, T]`, the token that follows each of `tokens`.

        Returns:
            Logits `[B, T, V]`, and the mean cross-entropy in nats, a scalar.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
