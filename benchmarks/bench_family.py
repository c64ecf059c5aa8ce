"""The rest of the family against torch's: scaled fills, and the price of a small call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import init

import initstats
from benchmarks.harness import Case, Measure, cases

SIDE = 4096
SMALL = 64
# The std that lecun_normal_ gives before truncation, for torch to do the same.
LECUN_STD = SIDE**-0.5 / 0.87962566103423978

Fill = Callable[[torch.Tensor], object]
# Ours, torch's, and the bar: that of the fill below it in bench_fills.py.
FILLS: dict[str, tuple[Fill, Fill, float]] = {
    "xavier_uniform_": (initstats.xavier_uniform_, init.xavier_uniform_, 9.0),
    "xavier_normal_": (initstats.xavier_normal_, init.xavier_normal_, 5.0),
    "kaiming_uniform_": (initstats.kaiming_uniform_, init.kaiming_uniform_, 9.0),
    "kaiming_normal_": (initstats.kaiming_normal_, init.kaiming_normal_, 5.0),
    "lecun_normal_": (
        initstats.lecun_normal_,
        partial(init.trunc_normal_, std=LECUN_STD, a=-2 * LECUN_STD, b=2 * LECUN_STD),
        70.0,
    ),
}


@cases("ours, rival, bar", {f"{name} float32 {SIDE}x{SIDE}": FILLS[name] for name in FILLS})
def bench_scaled(
    measure: Measure, device: torch.device, ours: Fill, rival: Fill, bar: float
) -> None:
    """Fill one matrix."""
    tensor = torch.empty(SIDE, SIDE, device=device)
    measure(
        Case(
            ours=partial(ours, tensor),
            rival=partial(rival, tensor),
            count=tensor.numel(),
            bytes_moved=tensor.nbytes,
            floor="fill",
            bar_ratio=bar,
        )
    )


@cases("n", {f"normal_ float32 {SMALL}": SMALL})
def bench_small_call(measure: Measure, device: torch.device, n: int) -> None:
    """Fill a tensor that costs nothing to write."""
    small = torch.empty(n, device=device)
    measure(
        Case(
            ours=partial(initstats.normal_, small),
            rival=partial(init.normal_, small),
            count=1,
            unit="call",
            bytes_moved=small.nbytes,
        )
    )
