"""Tests of the shape of a sample: its histogram and its extremes."""

from __future__ import annotations

import math

import torch

from initstats.recipes import (
    Computed,
    Constant,
    HalfBasis,
    Normal,
    Orthogonal,
    TruncNormal,
    Uniform,
)
from initstats.recipes.distributions.composite import Simple
from initstats.statistics.histogram import Histogram

_SYMMETRIC = (Normal, Uniform, TruncNormal)
_BIAS = 126  # place p of a histogram of scale 0 ends at 2**(p - 126)


def histogram_problem(
    distribution: Simple,
    histogram: Histogram,
    zeros_left_out: int,
    dtype: torch.dtype,
    rate: float,
) -> str:
    """Compare the empirical distribution function at the edges of a histogram with the promise.

    The largest distance of an empirical distribution function of n values exceeds
    sqrt(ln(2 / rate) / (2 n)) with probability at most `rate`, for any distribution and any n.
    Edges are moved by half a unit in the last place, so that rounding to `dtype` moves no value
    across.

    Args:
        distribution: What the sample comes from.
        histogram: Its histogram at scale 0.
        zeros_left_out: Zeros that are no part of the sample, such as a padding row.
        dtype: The dtype that the sample was rounded to.
        rate: Chance of a false alarm, in (0, 1).

    Returns:
        What is wrong in words, empty when nothing is.

    Source: Massart 1990, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality".
    """
    if isinstance(distribution, (Computed, Constant, HalfBasis, Orthogonal)):
        return ""
    total = histogram.total - zeros_left_out
    if total < 1:
        return ""
    allowed = math.sqrt(math.log(2 / rate) / (2 * total))
    # Any choice of edges will do; those from std / 32 to 8 std tell shapes apart.
    middle = math.frexp(distribution.std)[1] + _BIAS
    first, last = max(middle - 6, 0), min(max(middle + 3, 1), histogram.counts.shape[1])
    cumulative = histogram.counts.cumsum(axis=1)
    below = int(cumulative[1, -1])
    start = below + histogram.zero - zeros_left_out
    worst, where = 0.0, 0.0
    for row, sign in ((cumulative[1], -1.0), (cumulative[0], 1.0)):
        for place, upto in enumerate(row[first:last].tolist(), first):
            edge = math.ldexp(1.0, place - _BIAS)
            # Values beyond a negative edge, or up to a positive one.
            share = (start + upto if sign > 0 else below - upto) / total
            distance = share - distribution.cdf(sign * (edge + _half_unit(edge, dtype)))
            if abs(distance) > abs(worst):
                worst, where = distance, sign * edge
    if abs(worst) <= allowed:
        return ""
    return (
        f"{abs(worst):.2%} of the values too {'many' if worst > 0 else 'few'} below {where:.3g} "
        f"for {distribution}"
    )


def extremes_problem(
    distribution: Simple, count: int, low: float, high: float, rate: float, slack: float = 0.0
) -> str:
    """Check the smallest and the largest value of a sample.

    Args:
        distribution: What the sample comes from.
        count: Number of values, >= 1.
        low: The smallest.
        high: The largest.
        rate: Chance of a false alarm of each of four checks, in (0, 1).
        slack: How far rounding, or a generator of few values, moves a value.

    Returns:
        What is wrong in words, empty when nothing is.
    """
    if not isinstance(distribution, _SYMMETRIC):
        return ""
    mirrored = distribution.scaled(-1.0)
    unbounded = math.isinf(distribution.bounds[1])
    for name, value, beyond, at_least in (
        ("largest", high, mirrored.cdf(-high), mirrored.cdf(-high - slack)),
        ("smallest", low, distribution.cdf(low), distribution.cdf(low - slack)),
    ):
        if unbounded and count * beyond < rate:
            return f"{name} value {value:.4g} is too far out for {count} values of {distribution}"
        if at_least >= 1 or count * math.log1p(-at_least) < math.log(rate):
            return f"{name} value {value:.4g} is not far out enough: cut, or another shape"
    return ""


def _half_unit(edge: float, dtype: torch.dtype) -> float:
    """Return half of the distance from a power of two to the next value of a dtype."""
    info = torch.finfo(dtype)
    return max(edge * info.eps, info.tiny * info.eps) / 2
