"""Statistics of units and channels against torch's separate calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import initstats
from benchmarks.harness import Case

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


def cases(device: torch.device) -> Iterator[Case]:
    """Yield units of activations, rows of a weight, channels of images."""
    x = torch.empty(TOKENS, UNITS, device=device)
    initstats.normal_(x, seed=0)
    images = torch.empty(IMAGE, device=device)
    initstats.normal_(images, seed=0)
    chosen: list[tuple[str, Tensor, int | tuple[int, ...]]] = [
        ("units", x, 0),
        ("rows", x, 1),
        ("channels", images, (0, 2, 3)),
    ]
    for name, tensor, dim in chosen:
        sizes = "x".join(map(str, tensor.shape))
        yield Case(
            name=f"stats of {name} float32 {sizes}",
            ours=partial(initstats.stats, tensor, dim=dim),
            rival=partial(five_calls, tensor, dim),
            rival_name="five torch calls",
            count=tensor.numel(),
            bytes_moved=tensor.nbytes,
            floor="read",
        )
