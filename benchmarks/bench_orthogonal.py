"""Orthogonal matrices against torch's QR, and against the machine's own matrix product."""

from __future__ import annotations

from functools import partial

import torch

import initstats
from benchmarks.harness import Case, Measure, cases

# At least so many times as fast as torch, on 2 threads.
SHAPES = {
    (512, 512): 2.5,
    (1024, 1024): 2.5,
    (2048, 2048): 2.5,
    (4096, 4096): 2.5,
    (4096, 1024): 2.2,
    (8192, 512): 2.2,
}
SIDE = 4096
# Of the rate of torch.mm in operations: the product of two matrices takes 2 n^3, the reflections
# 4/3 n^3.
PRODUCT_BAR = 0.6
BFLOAT16_BAR = 1 / 1.15  # of the speed in float32
SMALL, MATRICES, SMALL_BAR = 64, 96, 15.0
AS_LIST = f"orthogonal_ float32 {MATRICES} x {SMALL}x{SMALL}, one list"


@cases("shape", {f"orthogonal_ float32 {m}x{n}": (m, n) for m, n in SHAPES})
def bench_matrix(measure: Measure, device: torch.device, shape: tuple[int, int]) -> None:
    """Fill one matrix, against torch's QR."""
    w = torch.empty(shape, device=device)
    measure(
        Case(
            ours=partial(initstats.orthogonal_, w),
            rival=partial(torch.nn.init.orthogonal_, w),
            count=w.numel(),
            bytes_moved=w.nbytes,
            bar_ratio=SHAPES[shape],
        )
    )


@cases("side", {f"orthogonal_ float32 {SIDE}x{SIDE}, one product": SIDE})
def bench_product(measure: Measure, device: torch.device, side: int) -> None:
    """Fill one matrix, against the rate of the matrix product."""
    a, b, c = (torch.full((side, side), 0.5, device=device) for _ in range(3))
    measure(
        Case(
            ours=partial(initstats.orthogonal_, a),
            rival=partial(torch.mm, b, c, out=torch.empty_like(a)),
            rival_name="torch.mm",
            count=a.numel(),
            bytes_moved=a.nbytes,
            bar_ratio=PRODUCT_BAR * 2 / (4 / 3),
        )
    )


@cases("side", {f"orthogonal_ bfloat16 {SIDE}x{SIDE}, ours in float32": SIDE})
def bench_half(measure: Measure, device: torch.device, side: int) -> None:
    """Fill one matrix in bfloat16, which torch refuses, against ours in float32."""
    half = torch.empty(side, side, dtype=torch.bfloat16, device=device)
    measure(
        Case(
            ours=partial(initstats.orthogonal_, half),
            rival=partial(initstats.orthogonal_, torch.empty(side, side, device=device)),
            rival_name="ours in float32",
            count=half.numel(),
            bytes_moved=half.nbytes,
            bar_ratio=BFLOAT16_BAR,
        )
    )


@cases("as_list", {AS_LIST.replace("list", "batch"): False, AS_LIST: True})
def bench_small(measure: Measure, device: torch.device, as_list: bool) -> None:
    """Fill many small matrices in one call."""
    heads = torch.empty(MATRICES, SMALL, SMALL, device=device)
    gates = [torch.empty(SMALL, SMALL, device=device) for _ in range(MATRICES)]

    def loop() -> None:
        for head in heads:
            torch.nn.init.orthogonal_(head)

    measure(
        Case(
            ours=partial(initstats.orthogonal_, gates)
            if as_list
            else partial(initstats.orthogonal_, heads, batch_dims=1),
            rival=loop,
            rival_name="a torch loop",
            count=MATRICES,
            unit="tensor",
            bytes_moved=heads.nbytes,
            bar_ratio=SMALL_BAR,
        )
    )
