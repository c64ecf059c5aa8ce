"""Models whose records can be computed directly, for the tests of the audit's evidence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initstats.auditing.hooks import Collector
from initstats.auditing.runner import audit
from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.layer_records import Flow
from initstats.statistics.record import Stats


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Calls(nn.Module):
    """A layer, then what a test wants to call."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.then = nn.Linear(8, 8), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear(x))


def flows(model: nn.Module, *inputs: Tensor) -> dict[str, Flow]:
    with Collector(model) as collector, collector.functions():
        model(*inputs)
    return collector.flows


def same(record: Stats, tensor: Tensor) -> bool:
    values = tensor.detach()
    close = pytest.approx((float(values.mean()), float(values.std())), rel=1e-5, abs=1e-7)
    ends = float(values.min()), float(values.max())
    return (record.count, record.min, record.max) == (values.numel(), *ends) and (
        record.mean,
        record.std,
    ) == close


def evidence(model: nn.Module, x: Tensor, steps: int = 1) -> Evidence:
    return audit(model, x, loss_fn=lambda out, _x: out.square().mean(), steps=steps).evidence
