"""Small models and batches for the tests of the audit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import AuditReport, audit
from initstats.auditing.demo.data import batch as text_batch
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.planning.initialize import init_

CONFIG = DemoConfig(vocabulary=64, context=16, layers=3, width=32, heads=2, batch=4)
Pair = tuple[Tensor, Tensor]
LOSS = functional.cross_entropy


def demo_gpt() -> DemoGPT:
    model = DemoGPT(CONFIG)
    init_(model, "gpt2", seed=0)
    return model


def demo_batch() -> Pair:
    return text_batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=0)


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)
    )


def labelled() -> Pair:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(32, 8, generator=generator),
        torch.randint(4, (32,), generator=generator),
    )


def run(model: nn.Module, batch: Any = None, **options: Any) -> AuditReport:
    options = {"loss_fn": LOSS, "steps": 3, **options}
    return audit(model, labelled() if batch is None else batch, **options)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )
