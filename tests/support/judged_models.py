"""Models whose verdict is known, for the tests of the audit's rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import (
    AuditReport,
    AuditRule,
    Finding,
    audit,
)
from initstats.auditing.batch import LossFunction
from initstats.auditing.demo.data import batch as text_batch
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.planning.initialize import init_

CONFIG = DemoConfig(vocabulary=256, context=32, layers=4, width=64, heads=4, batch=4)


def demo_gpt() -> DemoGPT:
    model = DemoGPT(CONFIG)
    init_(model, "gpt2", seed=0)
    return model


def audited(
    model: nn.Module, *, steps: int = 5, rate: float = 3e-4, recipe: str | None = None
) -> AuditReport:
    data = text_batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    return audit(model, data, steps=steps, optimizer=optimizer, recipe=recipe)


def by_rule(report: AuditReport) -> dict[str, Finding]:
    return {finding.rule: finding for finding in report.findings}


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(32, 64, generator=generator),
        torch.randint(10, (32,), generator=generator),
    )


def mlp(depth: int, act: type[nn.Module], gain: float) -> nn.Sequential:
    """Make a plain network whose weights have std gain / sqrt(fan_in) and whose biases are 0."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(64, 64), act()]
    layers.append(nn.Linear(64, 10))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain / 8)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def judged(
    model: nn.Module,
    rate: float = 1e-3,
    *,
    batch: Any = None,
    loss_fn: LossFunction | None = functional.cross_entropy,
    steps: int = 10,
) -> AuditReport:
    return audit(
        model,
        images() if batch is None else batch,
        loss_fn=loss_fn,
        optimizer=torch.optim.AdamW(model.parameters(), lr=rate),
        steps=steps,
    )


def only(rule: AuditRule, report: AuditReport) -> Finding:
    """Return the one finding of a rule."""
    (finding,) = rule.check(report.evidence)
    return finding


def silent(rule: AuditRule, report: AuditReport) -> bool:
    """Tell whether a rule finds nothing."""
    return next(rule.check(report.evidence), None) is None
