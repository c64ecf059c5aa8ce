"""One gain per matrix in one call of orthogonal_: the bits of one call per matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

import initstats

SHAPES = [(3, 3), (64, 64), (5, 130), (140, 7), (4, 2, 3), (1, 6), (6, 1)]
GAINS = [1.0, 0.5, 2.0, 0.0, -3.0, 0.1, 7.0]


def test_a_gain_each_has_the_bits_of_one_call_each(device: torch.device) -> None:
    together = [torch.full(shape, 9.0, device=device) for shape in SHAPES]
    alone = [torch.full(shape, 9.0, device=device) for shape in SHAPES]
    names = [f"w{i}" for i in range(len(SHAPES))]
    initstats.orthogonal_(together, GAINS, seed=5, name=names)
    for w, gain, name in zip(alone, GAINS, names, strict=True):
        initstats.orthogonal_(w, gain, seed=5, name=name)
    for mine, one in zip(together, alone, strict=True):
        assert torch.equal(mine, one)


def test_a_gain_stays_with_its_tensor_when_empty_ones_are_left_out() -> None:
    w = [torch.empty(0, 3), torch.empty(4, 4), torch.empty(2, 2, device="meta"), torch.empty(3, 3)]
    initstats.orthogonal_(w, (10.0, 2.0, 10.0, 3.0), seed=1)
    for each, gain in ((w[1], 2.0), (w[3], 3.0)):
        product = each @ each.t() / gain**2
        assert torch.allclose(product, torch.eye(len(each)), atol=1e-5)


@pytest.mark.parametrize(
    ("gains", "error", "message"),
    [
        ([1.0], ValueError, "expected one gain per tensor, 2, got 1"),
        ([1.0, 2.0, 3.0], ValueError, "expected one gain per tensor, 2, got 3"),
        ([1.0, math.inf], ValueError, "expected gain to be finite"),
        ((1.0, "x"), TypeError, "expected gain to be a number"),
    ],
)
def test_bad_gains_are_refused_before_anything_is_written(
    gains: Sequence[float], error: type[Exception], message: str
) -> None:
    w = [torch.full((3, 3), 7.0), torch.full((3, 3), 7.0)]
    with pytest.raises(error, match=f"initstats.orthogonal_: {message}"):
        initstats.orthogonal_(w, gains, seed=0)
    assert all(bool((each == 7).all()) for each in w)


def test_gains_of_one_tensor_are_refused() -> None:
    w = torch.full((3, 3), 7.0)
    with pytest.raises(TypeError, match=r"initstats.orthogonal_: expected gain to be a number"):
        initstats.orthogonal_(w, [1.0], seed=0)  # type: ignore[call-overload]
    assert bool((w == 7).all())
