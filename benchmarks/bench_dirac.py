"""dirac_ against torch's loop over channels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import initstats
from benchmarks.harness import Case

SHAPE = (256, 256, 3, 3)
BAR = 10.0  # at least so many times as fast as torch, on 2 threads with AVX-512


def cases(device: torch.device) -> Iterator[Case]:
    """Yield one convolution's weight."""
    weight = torch.empty(SHAPE, device=device)
    yield Case(
        name=f"dirac_ float32 {'x'.join(map(str, SHAPE))}",
        ours=partial(initstats.dirac_, weight),
        rival=partial(torch.nn.init.dirac_, weight),
        count=weight.numel(),
        bytes_moved=weight.nbytes,
        floor="fill",
        bar_ratio=BAR,
    )
