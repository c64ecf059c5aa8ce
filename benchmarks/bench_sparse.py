"""sparse_ against torch's loop over columns."""

from __future__ import annotations

from functools import partial

import torch

import initstats
from benchmarks.harness import Case, Measure, cases

SIDE, SPARSITY = 4096, 0.9
DTYPES = ("float32", "bfloat16")
BAR = 10.0  # at least so many times as fast as torch, on 2 threads with AVX-512


@cases("dtype", {f"sparse_ {dtype} {SIDE}x{SIDE} {SPARSITY}": dtype for dtype in DTYPES})
def bench_sparse(measure: Measure, device: torch.device, dtype: str) -> None:
    """Fill one matrix."""
    tensor = torch.empty(SIDE, SIDE, dtype=getattr(torch, dtype), device=device)
    measure(
        Case(
            ours=partial(initstats.sparse_, tensor, SPARSITY),
            rival=partial(torch.nn.init.sparse_, tensor, SPARSITY),
            count=tensor.numel(),
            bytes_moved=tensor.nbytes,
            floor="fill",
            bar_ratio=BAR if dtype == "float32" else None,
        )
    )
