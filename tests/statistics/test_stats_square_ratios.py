"""`square_ratio_stats`: the statistics of x^2 / max(y, 1e-16) * factor without making it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from initstats import _ops

SIZES = [0, 1, 3, 4095, 4096, 4097, 140_001]
FLOATING = [torch.float32, torch.float64]
FACTOR = 0.271


def pair(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return gradients and second moments, with all that is odd among them."""
    generator = torch.Generator().manual_seed(n)
    x, y = torch.randn(n, generator=generator), torch.rand(n, generator=generator) * 1e-3
    if n > 9:
        x[1], x[2], x[3], x[4] = float("nan"), float("inf"), 0.0, 1e-30
        y[4], y[5], y[6], y[7], y[8] = 0.0, 1e-20, -1.0, float("inf"), float("nan")
    return x.to(dtype), y.to(dtype)


def by_numpy(x: Tensor, y: Tensor, factor: float) -> Tensor:
    """Return the ratio in the precision that it is promised in, by NumPy."""
    kind = np.float64 if x.dtype is torch.float64 else np.float32
    a, b = (each.to(torch.float64).cpu().numpy().astype(kind) for each in (x, y))
    with np.errstate(all="ignore"):
        return torch.from_numpy(a * a / np.maximum(b, kind(1e-16)) * kind(factor))


def bits(rows: tuple[Tensor, ...]) -> list[bytes]:
    return [part.cpu().numpy().tobytes() for part in rows]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_a_square_ratio_has_the_bits_of_numpys(
    dtype: torch.dtype, n: int, device: torch.device
) -> None:
    x, y = pair(n, dtype)
    expected = by_numpy(x, y, FACTOR)
    here = [x.to(device)], [y.to(device)], [FACTOR]
    for groups, scale in ((1, 0), (3, 0), (3, 2)):
        theirs = _ops.stats([expected.to(device)], groups, scale)
        assert bits(_ops.square_ratio_stats(*here, groups, scale)) == bits(theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_make_a_ratio_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    x, y = pair(9001, dtype)
    mine = _ops.square_ratio_stats([x.to(device)], [y.to(device)], [FACTOR], 3, 0)
    theirs = _ops.stats([by_numpy(x, y, FACTOR).to(device)], 3, 0)
    assert mine[1].tolist() == theirs[1].tolist()
    assert mine[2].tolist() == theirs[2].tolist()  # the histogram
    # The order of summation is that of halves: at most 17 roundings each (test_stats.py).
    assert mine[0][0, :5].tolist() == pytest.approx(theirs[0][0, :5].tolist(), rel=4 * 17 * 2**-24)


def test_each_tensor_has_a_factor_and_a_layout_of_its_own(device: torch.device) -> None:
    x, y = pair(5600, torch.float32)
    a, b = x.to(device).view(70, 80), y.to(device).view(70, 80)
    turned = b.t().contiguous().t()
    wide = torch.zeros(71, 161, device=device)[:70, 1:81]
    wide.copy_(b)
    pairs = [(a, b), (a, turned), (a, wide), (a.flatten()[1:], b.flatten()[1:])]
    factors = [0.5, 1.0, 3.0, 0.001]
    left, right = ([each[i] for each in pairs] for i in range(2))
    together = _ops.square_ratio_stats(left, right, factors, 3, 0)
    for i, factor in enumerate(factors):
        expected = by_numpy(left[i], right[i], factor).to(device)
        assert bits(tuple(part[i : i + 1] for part in together)) == bits(
            _ops.stats([expected], 3, 0)
        )


@pytest.mark.parametrize("threads", [1, 3])
def test_records_of_second_moments_follow_with_their_own_bits(
    threads: int, device: torch.device
) -> None:
    pairs = [pair(n, torch.float32) for n in SIZES]
    x, y = ([each[i].to(device) for each in pairs] for i in range(2))
    square = pair(6400, torch.float32)
    x.append(square[0].to(device).view(80, 80))
    y.append(square[1].to(device).view(80, 80).t())
    factors = [FACTOR] * len(x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for groups, scale in ((1, 0), (3, 0), (3, 2)):
            both = _ops.square_ratio_stats(x, y, factors, groups, scale, with_over=True)
            ratios, seconds = (tuple(part[half] for part in both) for half in halves(len(x)))
            alone = _ops.square_ratio_stats(x, y, factors, groups, scale)
            assert bits(ratios) == bits(alone)
            assert bits(seconds) == bits(_ops.stats(y, groups, scale))
    finally:
        torch.set_num_threads(before)


def halves(n: int) -> tuple[slice, slice]:
    return slice(n), slice(n, None)


A = torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([A], [A, A], [1.0], 1, 0), "expected one tensor to divide by per tensor, 1, got 2"),
        (([A], [A], [1.0, 2.0], 1, 0), "expected one factor per tensor, 1, got 2"),
        (([A], [A], [1.0], 4, 0), "expected neither fingerprint nor box with over"),
        (([A], [A.double()], [1.0], 1, 0), "expected tensors and over of one floating dtype"),
        (([A.int()], [A.int()], [1.0], 1, 0), "expected tensors and over of one floating dtype"),
        (([A], [A[:2]], [1.0], 1, 0), "expected tensors and over of the same sizes"),
        (([A], [A], [1.0], 0, 0), "expected groups to be a sum of 1, 2 and 4"),
    ],
)
def test_the_op_refuses_what_makes_no_ratio(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"initstats.square_ratio_stats: {message}"):
        torch.ops.initstats.square_ratio_stats(*arguments)
