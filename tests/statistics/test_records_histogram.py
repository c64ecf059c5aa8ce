"""The exponential histogram in Python: quantiles with their stated error, exact shares, scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from initstats.statistics.compute import stats
from initstats.statistics.histogram import Bucket, Histogram

SCALES = [0, 1, 2]
STATED = {0: 0.334, 1: 0.172, 2: 0.0865}  # in the docstring of relative_error


def heavy_tailed() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(9001, generator=g) * (3 * torch.randn(9001, generator=g)).exp()
    x[::5] = 0
    return x


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("q", [0.0, 0.001, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 0.999, 1.0])
def test_quantiles_keep_the_stated_relative_error(q: float, scale: int) -> None:
    x = heavy_tailed()
    record = stats(x, scale=scale)
    exact = float(np.quantile(x.double().numpy(), q, method="lower"))
    bound = record.histogram.relative_error
    assert bound == pytest.approx(STATED[scale], rel=5e-3)
    assert bound <= STATED[scale]
    assert abs(record.quantile(q) - exact) <= bound * abs(exact) * (1 + 1e-12)


def test_the_stated_error_is_reached_at_the_edges_of_a_bucket() -> None:
    for scale in SCALES:
        x = torch.tensor([1.0, 2.0 ** (2.0**-scale)], dtype=torch.float64)
        histogram = stats(x, scale=scale).histogram
        middle = histogram.quantile(1.0)
        assert abs(middle - x[1].item()) / x[1].item() == pytest.approx(histogram.relative_error)


def test_extreme_quantiles_are_the_extrema() -> None:
    record = stats(torch.tensor([-7.9, 0.3, 4.1]))
    assert record.quantile(0.0) >= record.min
    assert record.quantile(1.0) <= record.max


def test_quantiles_leave_nan_out_and_count_infinities() -> None:
    x = torch.tensor([-torch.inf, -1.0, 0.0, 0.0, 1.0, torch.inf, torch.nan, torch.nan])
    record = stats(x)
    assert record.quantile(0.0) == -math.inf
    assert record.quantile(1.0) == math.inf
    assert record.quantile(0.5) == 0.0
    assert math.isnan(stats(torch.full((3,), torch.nan)).quantile(0.5))
    assert math.isnan(stats(torch.zeros(0)).fraction_below(1.0))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("exponent", [-126, -25, -10, -1, 0, 3, 127, 128])
def test_shares_below_a_power_of_two_are_exact(scale: int, exponent: int) -> None:
    x = heavy_tailed()
    x[:4] = torch.tensor([2.0**-25, -(2.0**-10), 0.5, 8.0])  # on the edge counts as below
    share = (x.abs().double() <= 2.0**exponent).double().mean().item()
    assert stats(x, scale=scale).fraction_below(2.0**exponent) == share


def test_the_share_below_two_to_the_minus_25_is_what_rounds_to_zero_in_float16() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(20_000, generator=g) * 2.0**-24
    assert stats(x).fraction_below(2.0**-25) == (x.half() == 0).double().mean().item()


@pytest.mark.parametrize("x", [0.3, -1.0, 3.0, math.inf, math.nan, 2.0**-127, 2.0**129])
def test_shares_below_anything_else_are_refused(x: float) -> None:
    with pytest.raises(ValueError, match=r"expected x to be 0 or a power of two from 2\*\*-126"):
        stats(torch.ones(2)).fraction_below(x)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_quantiles_outside_0_to_1_are_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"Histogram\.quantile: expected 0 <= q <= 1"):
        stats(torch.ones(2)).quantile(q)


def test_buckets_ascend_and_hold_their_values() -> None:
    x = heavy_tailed().double()
    for scale in SCALES:
        buckets = stats(x, scale=scale).histogram.buckets
        assert sum(b.count for b in buckets) == x.numel()
        assert [b.low for b in buckets] == sorted(b.low for b in buckets)
        for b in buckets:
            if b.low > 0:
                inside = (x > b.low) & (x <= b.high)
            elif b.high < 0:
                inside = (x >= b.low) & (x < b.high)
            else:
                inside = x == 0
            assert int(inside.sum()) == b.count


def test_buckets_at_both_ends_are_open() -> None:
    x = torch.tensor([1e-300, -1e-310, 1e300, -1e39], dtype=torch.float64)
    for scale in SCALES:
        histogram = stats(x, scale=scale).histogram
        assert histogram.buckets == [
            Bucket(-math.inf, -(2.0**128), 1),
            Bucket(-(2.0**-126), -0.0, 1),
            Bucket(0.0, 2.0**-126, 1),
            Bucket(2.0**128, math.inf, 1),
        ]
        assert histogram.quantile(1.0) == 2.0**128
        assert histogram.quantile(0.0) == -(2.0**128)


def test_a_histogram_lowers_its_scale_exactly_and_not_upwards() -> None:
    x = heavy_tailed()
    fine = stats(x, scale=2).histogram
    assert fine.lower_scale(1) == stats(x, scale=1).histogram
    assert fine.lower_scale(0) == stats(x, scale=0).histogram
    assert fine.lower_scale(2) == fine != fine.lower_scale(1)
    with pytest.raises(ValueError, match=r"lower_scale: expected 0 <= scale <= 1, got scale=2"):
        fine.lower_scale(1).lower_scale(2)


def test_a_histogram_is_equal_only_to_histograms() -> None:
    histogram = Histogram(0, np.zeros((2, 256), np.int64))
    assert histogram != 3
    assert histogram.total == 0


def test_a_dict_names_buckets_by_their_number() -> None:
    record = stats(torch.tensor([1.5, 2.0, 2.5, -0.3, 0.0]))
    expected = {"scale": 0, "zero": 1, "positive": {"0": 2, "1": 1}, "negative": {"-2": 1}}
    assert record.to_dict()["histogram"] == expected
