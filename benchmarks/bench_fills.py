"""The fills against torch's own, on 4096x4096 elements and on many tensors at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

import initstats
from benchmarks.harness import Case

SIDE = 4096
TENSORS, ELEMENTS = 400, 65536
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# At least so many times as fast as torch, on 2 threads with AVX-512.
BARS = {
    ("uniform_", torch.float32): 9.0,
    ("normal_", torch.float32): 5.0,
    ("normal_", torch.bfloat16): 7.0,
    ("trunc_normal_", torch.float32): 70.0,
    ("trunc_normal_", torch.bfloat16): 70.0,
}
FOREACH_BAR = 6.0

Fill = Callable[[torch.Tensor], object]
FILLS: dict[str, tuple[Fill, Fill]] = {
    "uniform_": (initstats.uniform_, torch.nn.init.uniform_),
    "normal_": (initstats.normal_, torch.nn.init.normal_),
    "trunc_normal_": (initstats.trunc_normal_, torch.nn.init.trunc_normal_),
}


def cases(device: torch.device) -> Iterator[Case]:
    """Yield each fill in each dtype, then many tensors in one call."""
    for name, (ours, rival) in FILLS.items():
        for dtype in DTYPES:
            tensor = torch.empty(SIDE, SIDE, dtype=dtype, device=device)
            yield Case(
                name=f"{name} {str(dtype).removeprefix('torch.')} {SIDE}x{SIDE}",
                ours=partial(ours, tensor),
                rival=partial(rival, tensor),
                count=tensor.numel(),
                bytes_moved=tensor.nbytes,
                floor="fill",
                bar_ratio=BARS.get((name, dtype)),
            )
    yield many_tensors(device)


def many_tensors(device: torch.device) -> Case:
    """Return foreach_normal_ against a loop of torch calls."""
    tensors = [torch.empty(ELEMENTS, device=device) for _ in range(TENSORS)]

    def loop() -> None:
        for tensor in tensors:
            torch.nn.init.normal_(tensor)

    return Case(
        name=f"foreach_normal_ float32 {TENSORS} x {ELEMENTS // 1024}K",
        ours=lambda: initstats.foreach_normal_(tensors),
        rival=loop,
        rival_name="a torch loop",
        count=TENSORS * ELEMENTS,
        bytes_moved=TENSORS * ELEMENTS * 4,
        floor="fill",
        bar_ratio=FOREACH_BAR,
    )
