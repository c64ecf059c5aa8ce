"""Orthogonal matrices against torch's QR, and against the machine's own matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import initstats
from benchmarks.harness import Case

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


def cases(device: torch.device) -> Iterator[Case]:
    """Yield the shapes, the rate of the matrix product, bfloat16, and many small matrices."""
    for (rows, columns), bar in SHAPES.items():
        w = torch.empty(rows, columns, device=device)
        yield Case(
            name=f"orthogonal_ float32 {rows}x{columns}",
            ours=partial(initstats.orthogonal_, w),
            rival=partial(torch.nn.init.orthogonal_, w),
            count=w.numel(),
            bytes_moved=w.nbytes,
            bar_ratio=bar,
        )
    a, b, c = (torch.full((SIDE, SIDE), 0.5, device=device) for _ in range(3))
    yield Case(
        name=f"orthogonal_ float32 {SIDE}x{SIDE}, one product",
        ours=partial(initstats.orthogonal_, a),
        rival=partial(torch.mm, b, c, out=torch.empty_like(a)),
        rival_name="torch.mm",
        count=a.numel(),
        bytes_moved=a.nbytes,
        bar_ratio=PRODUCT_BAR * 2 / (4 / 3),
    )
    half = torch.empty(SIDE, SIDE, dtype=torch.bfloat16, device=device)
    yield Case(
        name=f"orthogonal_ bfloat16 {SIDE}x{SIDE}, ours in float32",
        ours=partial(initstats.orthogonal_, half),
        rival=partial(initstats.orthogonal_, a),
        rival_name="ours in float32",
        count=half.numel(),
        bytes_moved=half.nbytes,
        bar_ratio=BFLOAT16_BAR,
    )
    heads = torch.empty(MATRICES, SMALL, SMALL, device=device)
    gates = [torch.empty(SMALL, SMALL, device=device) for _ in range(MATRICES)]

    def loop() -> None:
        for head in heads:
            torch.nn.init.orthogonal_(head)

    many = {
        "one batch": partial(initstats.orthogonal_, heads, batch_dims=1),
        "one list": partial(initstats.orthogonal_, gates),
    }
    for name, ours in many.items():
        yield Case(
            name=f"orthogonal_ float32 {MATRICES} x {SMALL}x{SMALL}, {name}",
            ours=ours,
            rival=loop,
            rival_name="a torch loop",
            count=MATRICES,
            unit="tensor",
            bytes_moved=heads.nbytes,
            bar_ratio=SMALL_BAR,
        )
