"""Statistics of units and channels against torch's separate calls."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import initstats
from benchmarks.harness import Case, Measure, cases

TOKENS, UNITS = 4096, 4096
IMAGE = (32, 128, 32, 32)


def five_calls(x: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return std and mean, extrema, and the counts of zeros and NaN: less than a record holds."""
    return (
        *torch.std_mean(x, dim=dim),
        x.amin(dim),
        x.amax(dim),
        (x == 0).sum(dim),
        x.isnan().sum(dim),
    )


CASES: dict[str, tuple[tuple[int, ...], int | tuple[int, ...]]] = {
    f"stats of {name} float32 {'x'.join(map(str, shape))}": (shape, dim)
    for name, shape, dim in (
        ("units", (TOKENS, UNITS), 0),
        ("rows", (TOKENS, UNITS), 1),
        ("channels", IMAGE, (0, 2, 3)),
    )
}


@cases("shape, dim", CASES)
def bench_slices(
    measure: Measure, device: torch.device, shape: tuple[int, ...], dim: int | tuple[int, ...]
) -> None:
    """Measure units of activations, rows of a weight, channels of images."""
    tensor = initstats.normal_(torch.empty(shape, device=device), seed=0)
    measure(
        Case(
            ours=partial(initstats.stats, tensor, dim=dim),
            rival=partial(five_calls, tensor, dim),
            rival_name="five torch calls",
            count=tensor.numel(),
            bytes_moved=tensor.nbytes,
            floor="read",
        )
    )
