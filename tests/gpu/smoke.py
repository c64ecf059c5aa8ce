"""A few small calls of every CUDA op, for compute-sanitizer, which makes kernels slow."""

from __future__ import annotations

import torch

import initstats
from initstats.init._distributions import DISTRIBUTIONS

SIZES = (0, 1, 3, 4, 5, 1000, 4096, 4097, 70_001)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FILLS = [getattr(initstats, family.name) for family in DISTRIBUTIONS]


def fills() -> None:
    """Fill contiguous, shifted, strided and many tensors; the CPU must give the same bits."""
    for fill in FILLS:
        for dtype in DTYPES:
            for n in SIZES:
                ours = fill(torch.empty(n + 1, dtype=dtype, device="cuda")[1:], seed=1, name="x")
                expected = fill(torch.empty(n, dtype=dtype), seed=1, name="x")
                assert torch.equal(ours.cpu(), expected), f"{fill.__name__} {dtype} {n}"
            strided = fill(torch.empty(65, 33, dtype=dtype, device="cuda").t(), seed=2, name="y")
            expected = fill(torch.empty(33, 65, dtype=dtype), seed=2, name="y")
            assert torch.equal(strided.cpu(), expected), f"{fill.__name__} {dtype} transposed"
    initstats.foreach_normal_([torch.empty(n, device="cuda") for n in SIZES * 20], seed=3)


def statistics() -> None:
    """Take every group of statistics of the same kinds of tensors."""
    for dtype in DTYPES:
        tensors = [torch.randn(n, device="cuda").to(dtype) for n in SIZES]
        tensors.append(torch.randn(65, 33, device="cuda").to(dtype).t())
        ours = initstats.stats(tensors, fingerprint=True)
        expected = initstats.stats([tensor.cpu() for tensor in tensors], fingerprint=True)
        for a, b in zip(ours.values(), expected.values(), strict=True):
            assert a.count == b.count
            assert a.fingerprint == b.fingerprint


if __name__ == "__main__":
    fills()
    statistics()
    torch.cuda.synchronize()
    print("smoke test passed")
