"""A model with everything an audit needs, and the sizes it is built in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from initstats.auditing import AuditReport, audit
from initstats.auditing.batch import LossFunction

STEPS = 10


@dataclass(frozen=True)
class Size:
    """Seed, and factors on the sizes that a builder chooses."""

    seed: int = 0
    width: float = 1.0
    depth: float = 1.0
    batch: float = 1.0

    def wide(self, width: int) -> int:
        return max(16, round(width * self.width / 16) * 16)

    def deep(self, layers: int) -> int:
        return max(2, round(layers * self.depth))

    def many(self, count: int) -> int:
        return max(4, round(count * self.batch))


@dataclass(frozen=True)
class Stepper:
    """How the optimizer of a specimen steps: name, learning rate, further arguments."""

    name: str = "adamw"
    rate: float = 1e-3
    maximize: bool = False

    def __call__(self, parameters: list[nn.Parameter]) -> Optimizer:
        if self.name == "sgd":
            return torch.optim.SGD(parameters, self.rate, momentum=0.9, maximize=self.maximize)
        return torch.optim.AdamW(parameters, self.rate, maximize=self.maximize)


@dataclass(frozen=True)
class Specimen:
    """A seeded model, its batch, its loss and its optimizer."""

    model: nn.Module
    batch: Any
    loss: LossFunction | None = None
    optimizer: Stepper = Stepper()
    recipe: str | None = None

    def but(self, **changes: Any) -> Specimen:
        return replace(self, **changes)

    def audited(self, steps: int = STEPS) -> AuditReport:
        torch.manual_seed(0)  # dropout
        return audit(
            self.model,
            self.batch,
            loss_fn=self.loss,
            optimizer=self.optimizer,
            steps=steps,
            recipe=self.recipe,
        )


Builder = Callable[[Size], Specimen]
