"""dirac_ against torch's loop over channels."""

from __future__ import annotations

from functools import partial

import torch

import initstats
from benchmarks.harness import Case, Measure, cases

SHAPE = (256, 256, 3, 3)
BAR = 10.0  # at least so many times as fast as torch, on 2 threads with AVX-512


@cases("shape", {f"dirac_ float32 {'x'.join(map(str, SHAPE))}": SHAPE})
def bench_dirac(measure: Measure, device: torch.device, shape: tuple[int, ...]) -> None:
    """Fill one convolution's weight."""
    weight = torch.empty(shape, device=device)
    measure(
        Case(
            ours=partial(initstats.dirac_, weight),
            rival=partial(torch.nn.init.dirac_, weight),
            count=weight.numel(),
            bytes_moved=weight.nbytes,
            floor="fill",
            bar_ratio=BAR,
        )
    )
