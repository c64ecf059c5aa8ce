"""The statistics against separate torch calls, one compiled graph, and the read bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import initstats
from benchmarks.harness import Case

SIDE = 4096
TENSORS, ELEMENTS = 1000, 64
# The groups of a call, and at least so much of torch.sum's bandwidth, on 2 threads with AVX-512.
GROUPS: dict[str, tuple[dict[str, bool], float]] = {
    "moments": ({"histogram": False}, 0.9),
    "moments + histogram": ({}, 0.45),
    "all groups": ({"fingerprint": True}, 0.3),
}
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


def cases(device: torch.device) -> Iterator[Case]:
    """Yield each choice of groups, each dtype, and many small tensors."""
    x = torch.empty(SIDE, SIDE, device=device)
    initstats.normal_(x, seed=0)
    for name, (groups, bar) in GROUPS.items():
        yield case(f"stats {name} float32 {SIDE}x{SIDE}", x, groups, bar)
    everything = GROUPS["all groups"][0]
    yield case(
        f"stats all groups float32 {SIDE}x{SIDE}, nine calls",
        x,
        everything,
        None,
        rival=lambda: nine_numbers(x),
        rival_name="nine torch calls",
        bar_ratio=SEPARATE_BAR,
    )
    compiled = torch.compile(nine_numbers, fullgraph=True)
    yield case(
        f"stats all groups float32 {SIDE}x{SIDE}, one graph",
        x,
        everything,
        None,
        rival=lambda: compiled(x),
        rival_name="one torch.compile graph",
        bar_ratio=COMPILED_BAR,
    )
    other, difference = torch.full_like(x, 0.5), torch.empty_like(x)

    def in_two_steps() -> object:
        torch.sub(x, other, out=difference)
        return initstats.stats(difference)

    yield Case(
        name=f"stats of a difference float32 {SIDE}x{SIDE}",
        ours=lambda: initstats.stats(x, minus=other),
        rival=in_two_steps,
        rival_name="torch.sub, then stats",
        count=x.numel(),
        bytes_moved=2 * x.nbytes,
        floor="read",
    )
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        name = str(dtype).removeprefix("torch.")
        yield case(f"stats moments {name} {SIDE}x{SIDE}", x.to(dtype), {"histogram": False}, None)
    small = [torch.ones(ELEMENTS, device=device) for _ in range(TENSORS)]
    yield Case(
        name=f"stats of {TENSORS} tensors of {ELEMENTS}",
        ours=lambda: initstats.stats(small),
        count=TENSORS,
        unit="tensor",
        bytes_moved=TENSORS * ELEMENTS * 4,
        bar_ns=PER_TENSOR_BAR_NS,
    )


def case(
    name: str,
    x: Tensor,
    groups: dict[str, bool],
    bar_floor: float | None,
    *,
    rival: Callable[[], object] | None = None,
    rival_name: str = "torch",
    bar_ratio: float | None = None,
) -> Case:
    """Return the case of one call on one tensor."""
    return Case(
        name=name,
        ours=partial(initstats.stats, x, **groups),
        rival=rival,
        rival_name=rival_name,
        count=x.numel(),
        bytes_moved=x.nbytes,
        floor="read",
        bar_floor=bar_floor,
        bar_ratio=bar_ratio,
    )
