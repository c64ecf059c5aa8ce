"""The fills against torch's own, on 4096x4096 elements and on many tensors at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import initstats
from benchmarks.harness import Case, Measure, cases

SIDE = 4096
TENSORS, ELEMENTS = 400, 65536
DTYPES = ("float32", "bfloat16", "float16", "float64")
# At least so many times as fast as torch, on 2 threads with AVX-512.
BARS = {
    "uniform_ float32": 9.0,
    "normal_ float32": 5.0,
    "normal_ bfloat16": 7.0,
    "trunc_normal_ float32": 70.0,
    "trunc_normal_ bfloat16": 70.0,
}
FOREACH_BAR = 6.0

Fill = Callable[[torch.Tensor], object]
FILLS: dict[str, tuple[Fill, Fill]] = {
    "uniform_": (initstats.uniform_, torch.nn.init.uniform_),
    "normal_": (initstats.normal_, torch.nn.init.normal_),
    "trunc_normal_": (initstats.trunc_normal_, torch.nn.init.trunc_normal_),
}


CASES = {f"{fill} {dtype} {SIDE}x{SIDE}": (fill, dtype) for fill in FILLS for dtype in DTYPES}


@cases("fill, dtype", CASES)
def bench_fill(measure: Measure, device: torch.device, fill: str, dtype: str) -> None:
    """Fill one matrix."""
    tensor = torch.empty(SIDE, SIDE, dtype=getattr(torch, dtype), device=device)
    ours, rival = FILLS[fill]
    measure(
        Case(
            ours=partial(ours, tensor),
            rival=partial(rival, tensor),
            count=tensor.numel(),
            bytes_moved=tensor.nbytes,
            floor="fill",
            bar_ratio=BARS.get(f"{fill} {dtype}"),
        )
    )


@cases("n", {f"foreach_normal_ float32 {TENSORS} x {ELEMENTS // 1024}K": ELEMENTS})
def bench_many_tensors(measure: Measure, device: torch.device, n: int) -> None:
    """Fill many tensors in one call, against a loop of torch calls."""
    tensors = [torch.empty(n, device=device) for _ in range(TENSORS)]

    def loop() -> None:
        for tensor in tensors:
            torch.nn.init.normal_(tensor)

    measure(
        Case(
            ours=lambda: initstats.foreach_normal_(tensors),
            rival=loop,
            rival_name="a torch loop",
            count=TENSORS * n,
            bytes_moved=TENSORS * n * 4,
            floor="fill",
            bar_ratio=FOREACH_BAR,
        )
    )
