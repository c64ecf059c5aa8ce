"""A few small calls that launch every kernel, for compute-sanitizer, which makes kernels slow.

python tests/gpu/smoke.py [--device cuda]
"""

from __future__ import annotations

import sys

import torch

import initstats
from initstats import _ops
from initstats.init._distributions import DISTRIBUTIONS

DEVICE = "cuda"
SIZES = (0, 1, 3, 4, 5, 1000, 4096, 4097, 70_001)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGE = 513 * 4096
FILLS = [getattr(initstats, family.name) for family in DISTRIBUTIONS]


def fills() -> None:
    """Fill contiguous, shifted, strided and many tensors; the CPU must give the same bits."""
    for fill in FILLS:
        for dtype in DTYPES:
            for n in SIZES:
                ours = fill(torch.empty(n + 1, dtype=dtype, device=DEVICE)[1:], seed=1, name="x")
                expected = fill(torch.empty(n, dtype=dtype), seed=1, name="x")
                assert torch.equal(ours.cpu(), expected), f"{fill.__name__} {dtype} {n}"
            strided = fill(torch.empty(65, 33, dtype=dtype, device=DEVICE).t(), seed=2, name="y")
            expected = fill(torch.empty(33, 65, dtype=dtype), seed=2, name="y")
            assert torch.equal(strided.cpu(), expected), f"{fill.__name__} {dtype} transposed"
        # More than a small batch of a launch holds.
        for dtype in DTYPES:
            ours, expected = (
                [torch.empty(n, dtype=dtype, device=device) for n in SIZES]
                for device in (DEVICE, "cpu")
            )
            for tensors in (ours, expected):
                getattr(initstats, f"foreach_{fill.__name__}")(tensors, seed=3)
            assert torch.equal(ours[-1].cpu(), expected[-1]), f"{fill.__name__} {dtype}, a list"
    initstats.foreach_normal_([torch.empty(n, device=DEVICE) for n in SIZES * 20], seed=3)


def statistics() -> None:
    """Take every group of statistics of the same kinds of tensors."""
    for dtype in DTYPES:
        tensors = [torch.randn(n, device=DEVICE).to(dtype) for n in SIZES]
        tensors.append(torch.randn(65, 33, device=DEVICE).to(dtype).t())
        ours = initstats.stats(tensors, fingerprint=True)
        expected = initstats.stats([tensor.cpu() for tensor in tensors], fingerprint=True)
        for a, b in zip(ours.values(), expected.values(), strict=True):
            assert a.count == b.count
            assert a.fingerprint == b.fingerprint
    for dtype in (*DTYPES, torch.int8, torch.int32):
        for count in (1, 6):  # strided ones, in a small batch and in a large one
            strided = [torch.ones(33, 130, dtype=dtype, device=DEVICE)[:, ::2]] * count
            assert {record.mean for record in initstats.stats(strided).values()} == {1.0}
    # Two levels of merging: more than 512 tiles of 4096 elements.
    large = torch.ones(LARGE, dtype=torch.uint8, device=DEVICE)
    for tensors in ([large], [large] * 6):
        records = initstats.stats(tensors, histogram=False)
        assert {record.count for record in records.values()} == {LARGE}


def other_fills() -> None:
    """Make matrices with structure, in every kernel that does: small, large, batched, sparse."""
    for dtype in DTYPES:
        for fill, shape, arguments in (
            (initstats.sparse_, (70, 33), {"sparsity": 0.3, "seed": 4, "name": "x"}),
            (initstats.dirac_, (12, 4, 3, 3), {"groups": 2}),
            (initstats.eye_, (33, 17), {}),
        ):
            ours = fill(torch.empty(shape, dtype=dtype, device=DEVICE), **arguments)
            assert torch.equal(ours.cpu(), fill(torch.empty(shape, dtype=dtype), **arguments))
    # Small; large, also of two panels; a large batch; reflectors of more matrices than a launch.
    small, large = [(3, 64, 64), (5, 33, 20), (2, 128, 100)], [(1, 150, 400), (1, 600, 520)]
    for shape in (*small, *large, (3, 140, 150), (66, 132, 8)):
        for dtype in (torch.float32, torch.float64):
            w = torch.empty(shape, dtype=dtype, device=DEVICE)
            initstats.orthogonal_(w, batch_dims=1, seed=5)
            tall = w if shape[1] >= shape[2] else w.mT
            eye = torch.eye(tall.shape[-1], dtype=dtype, device=DEVICE)
            assert (tall.mT @ tall - eye).abs().max() < 1e-5, f"{shape} {dtype}"
            expected = initstats.orthogonal_(torch.empty(shape, dtype=dtype), batch_dims=1, seed=5)
            assert (w.cpu() - expected).abs().max() < 1e-5, f"{shape} {dtype}: another matrix"
    for dtype in (torch.bfloat16, torch.float32):
        tensors = [torch.empty(140, 150, dtype=dtype, device=DEVICE) for _ in range(3)]
        initstats.orthogonal_(tensors, seed=5)
        expected = initstats.orthogonal_(torch.empty(140, 150, dtype=dtype), seed=5)
        assert (tensors[0].cpu() - expected).abs().max() < 2e-3, f"{dtype}, a list"


def other_statistics() -> None:
    """Statistics of slices, of differences, at every scale, and of types of one byte."""
    integers = (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)
    for dtype in (*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2, *integers):
        x = (torch.randn(70, 130) * 3).to(dtype)
        for dim in (0, 1):
            ours, expected = (initstats.stats(t, dim=dim).mean for t in (x.to(DEVICE), x))
            assert torch.equal(ours.cpu(), expected), f"{dtype} dim={dim}"
        for scale in (0, 1, 2):
            ours, expected = (
                initstats.stats(t, scale=scale, fingerprint=True) for t in (x.to(DEVICE), x)
            )
            assert ours.fingerprint == expected.fingerprint, f"{dtype} scale={scale}"
            assert ours.mean == expected.mean or dtype == torch.int64
    long = torch.randn(3, 70_000)
    ours, expected = (initstats.stats(t, dim=1).mean for t in (long.to(DEVICE), long))
    assert torch.equal(ours.cpu(), expected), "slices of more than one group"
    x, y = torch.randn(5000), torch.randn(5000)
    for dtype in DTYPES:
        pair = x.to(dtype), y.square().to(dtype) + 1
        on_device = [each.to(DEVICE) for each in pair]
        ours, expected = (initstats.stats(a, minus=b).std for a, b in (on_device, pair))
        assert ours == expected, f"difference {dtype}"
        for groups in (1, 3):
            ours, expected = (
                _ops.square_ratio_stats([a], [b], [1.5], groups, 1) for a, b in (on_device, pair)
            )
            for mine, right in zip(ours, expected, strict=True):
                assert torch.equal(mine.cpu(), right), f"square ratios {dtype}"
    copy = torch.empty_like(x.to(DEVICE))
    ours = _ops.copy_stats_([x.to(DEVICE)], [copy], 7, 0)
    for mine, right in zip(ours, _ops.stats([x], 7, 0), strict=True):
        assert torch.equal(mine.cpu(), right)
    assert torch.equal(copy.cpu(), x)


def everything() -> None:
    """Call all ops."""
    fills()
    other_fills()
    statistics()
    other_statistics()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--device"]:
        DEVICE = sys.argv[2]
    everything()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    print("smoke test passed")
