"""The parts of a training project that its CI audits: the model, a batch, the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def build() -> nn.Module:
    """Return the model that training begins with."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def build_broken() -> nn.Module:
    """Return the same model after a change that no test of its shapes sees."""
    model = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(8)
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Return 64 handwritten digits, float32 [64, 1, 8, 8], normalised, and int64 [64]."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels[:64], dtype=torch.float32).view(64, 1, 8, 8)
    return (x - x.mean()) / x.std(), torch.tensor(labels[:64], dtype=torch.int64)
