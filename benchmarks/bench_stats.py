"""The statistics against separate torch calls, one compiled graph, and the read bandwidth."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

import initstats
from benchmarks.harness import Case, Measure, cases

SIDE = 4096
TENSORS, ELEMENTS = 1000, 64
# The groups of a call, and at least so much of torch.sum's bandwidth, on 2 threads with AVX-512.
GROUPS: dict[str, tuple[dict[str, bool], float]] = {
    "moments": ({"histogram": False}, 0.9),
    "moments + histogram": ({}, 0.45),
    "all groups": ({"fingerprint": True}, 0.3),
}
DTYPES = ("bfloat16", "float16", "float64")
EVERYTHING = f"stats all groups float32 {SIDE}x{SIDE}"
SEPARATE_BAR, COMPILED_BAR = 40.0, 5.0  # all groups against nine calls, and against one graph
PER_TENSOR_BAR_NS = 2000.0


def nine_numbers(x: Tensor) -> tuple[Tensor, ...]:
    """Return mean, std, skewness, kurtosis, min, max, l1, and the counts of zeros and NaN.

    Less than a record holds: no histogram, no fingerprint, no counts of infinities, no l2.
    """
    mean, std = x.mean(), x.std()
    z = (x - mean) / std
    return (
        mean,
        std,
        (z**3).mean(),
        (z**4).mean(),
        x.amin(),
        x.amax(),
        x.abs().sum(),
        (x == 0).sum(),
        x.isnan().sum(),
    )


@lru_cache(1)
def normals(device: torch.device) -> Tensor:
    """Return a matrix of normals."""
    return initstats.normal_(torch.empty(SIDE, SIDE, device=device), seed=0)


def case(x: Tensor, groups: dict[str, bool], **others: Any) -> Case:
    """Return the case of one call on one tensor."""
    return Case(
        ours=partial(initstats.stats, x, **groups),
        count=x.numel(),
        bytes_moved=x.nbytes,
        floor="read",
        **others,
    )


@cases("name", {f"stats {name} float32 {SIDE}x{SIDE}": name for name in GROUPS})
def bench_groups(measure: Measure, device: torch.device, name: str) -> None:
    """Take a choice of groups."""
    groups, bar = GROUPS[name]
    measure(case(normals(device), groups, bar_floor=bar))


@cases(
    "rival_name, bar, compiled",
    {
        f"{EVERYTHING}, nine calls": ("nine torch calls", SEPARATE_BAR, False),
        f"{EVERYTHING}, one graph": ("one torch.compile graph", COMPILED_BAR, True),
    },
)
def bench_everything(
    measure: Measure, device: torch.device, rival_name: str, bar: float, compiled: bool
) -> None:
    """Take all groups, against torch."""
    rival = torch.compile(nine_numbers, fullgraph=True) if compiled else nine_numbers
    x, (groups, _) = normals(device), GROUPS["all groups"]
    measure(case(x, groups, rival=lambda: rival(x), rival_name=rival_name, bar_ratio=bar))


@cases("side", {f"stats of a difference float32 {SIDE}x{SIDE}": SIDE})
def bench_difference(measure: Measure, device: torch.device, side: int) -> None:
    """Take a difference in one pass."""
    x, other = normals(device), torch.full((side, side), 0.5, device=device)
    difference = torch.empty_like(x)

    def in_two_steps() -> object:
        torch.sub(x, other, out=difference)
        return initstats.stats(difference)

    measure(
        Case(
            ours=lambda: initstats.stats(x, minus=other),
            rival=in_two_steps,
            rival_name="torch.sub, then stats",
            count=x.numel(),
            bytes_moved=2 * x.nbytes,
            floor="read",
        )
    )


@cases("dtype", {f"stats moments {dtype} {SIDE}x{SIDE}": dtype for dtype in DTYPES})
def bench_dtype(measure: Measure, device: torch.device, dtype: str) -> None:
    """Take the moments in another dtype."""
    measure(case(normals(device).to(getattr(torch, dtype)), {"histogram": False}))


@cases("n", {f"stats of {TENSORS} tensors of {ELEMENTS}": ELEMENTS})
def bench_small(measure: Measure, device: torch.device, n: int) -> None:
    """Take many small tensors in one call."""
    small = [torch.ones(n, device=device) for _ in range(TENSORS)]
    measure(
        Case(
            ours=lambda: initstats.stats(small),
            count=TENSORS,
            unit="tensor",
            bytes_moved=TENSORS * n * 4,
            bar_ns=PER_TENSOR_BAR_NS,
        )
    )
