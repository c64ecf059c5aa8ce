"""What the tests of the monitor share: a sink that keeps rows, small models, training."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from initstats.monitoring import Monitor, Row
from initstats.monitoring.row import Table


class Kept:
    """A sink that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, row: Row) -> None:
        self.rows.append(row)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def batch(seed: int) -> Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    monitor: Monitor,
    steps: int,
    inputs: Callable[[int], Tensor] = batch,
) -> None:
    for i in range(steps):
        optimizer.zero_grad()
        model(inputs(i)).square().mean().backward()
        optimizer.step()
        monitor.step()


def assert_alike(table: Table, whole: Table, prefix: str, kind: str) -> None:
    """Check that a table of many ranks holds the numbers of one process, by the same names."""
    assert list(table.names) == [f"{prefix}{name}" for name in whole.names], (kind, table.names)
    for field in ("count", "mean", "std", "rms", "min", "max", "l1"):
        np.testing.assert_allclose(
            table.column(field),
            whole.column(field),
            rtol=2e-4,
            atol=1e-6,
            err_msg=f"{kind} {field}",
        )


def wait_for(kept: Kept, rows: int) -> None:
    """Wait until so many rows have come: when the reader is behind, a row covers more steps."""
    until = time.monotonic() + 10
    while len(kept.rows) < rows and time.monotonic() < until:
        time.sleep(1e-4)
