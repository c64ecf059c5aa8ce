"""sparse_ against torch's loop over columns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import initstats
from benchmarks.harness import Case

SIDE, SPARSITY = 4096, 0.9
BAR = 10.0  # at least so many times as fast as torch, on 2 threads with AVX-512


def cases(device: torch.device) -> Iterator[Case]:
    """Yield sparse_ in float32 and bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.empty(SIDE, SIDE, dtype=dtype, device=device)
        yield Case(
            name=f"sparse_ {str(dtype).removeprefix('torch.')} {SIDE}x{SIDE} {SPARSITY}",
            ours=partial(initstats.sparse_, tensor, SPARSITY),
            rival=partial(torch.nn.init.sparse_, tensor, SPARSITY),
            count=tensor.numel(),
            bytes_moved=tensor.nbytes,
            floor="fill",
            bar_ratio=BAR if dtype == torch.float32 else None,
        )
