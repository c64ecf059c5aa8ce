"""Sampling bands of the mean and the standard deviation.

The mean of n values has standard error sigma / sqrt(n), the standard deviation of n normal values
sigma / sqrt(2 n). The latter is taken from the chi-square distribution, so that it also holds for
few values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from initstats.recipes import HalfBasis, NormalisedRows, Orthogonal
from initstats.recipes.distributions.composite import Simple

_ROUNDING = 2.0**-8  # of an element to bfloat16, relative
# Of the skewness of squares per unit of kurtosis below 3: (1.79 - 0.64) / 6 / 1.2 = 1 / 6.3 for a
# uniform; more, for the terms that follow at few values.
_LIGHT_TAIL = 2.5
_FEW = 6  # fewest values of a light-tailed distribution whose std has a lower bound


@dataclass(frozen=True)
class Band:
    """Interval of a measured value under sampling alone.

    Attributes:
        low: Lower end, inclusive.
        high: Upper end, inclusive.
    """

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Tell whether a value lies in the band; NaN never does."""
        return self.low <= value <= self.high


def mean_band(distribution: Simple, count: int, z: float) -> Band:
    """Return the band of the mean of a sample.

    Args:
        distribution: What the sample comes from.
        count: Number of values, >= 1.
        z: Half width in standard errors.

    Returns:
        The band, mean +- z sigma / sqrt(count).
    """
    count = _independent(distribution, count)
    half = z * distribution.std / math.sqrt(count)
    return Band(distribution.mean - half, distribution.mean + half)


def std_band(distribution: Simple, count: int, z: float) -> Band:
    """Return the band of the standard deviation of a sample.

    For a normal (n - 1) s^2 / sigma^2 is chi-square with n - 1 degrees of freedom; for another
    kurtosis k the variance of s^2 is that of 2 (n - 1) / (k - 1) degrees. The quantile is that of
    Wilson and Hilferty; for z from 3 to 6 its tails hold at most the nominal probability, down to
    one degree of freedom (tests/planning/test_planning.py). Squares of a uniform are less skewed
    than chi-square has it (0.64 against 1.79 per value), so that its lower tail is longer: z grows
    by the difference in the expansion of Cornish and Fisher, and below 5 degrees of freedom of a
    normal the band has no lower end (tests/verification/test_confidence.py).

    Args:
        distribution: What the sample comes from.
        count: Number of values, >= 1.
        z: Half width in standard errors of a normal.

    Returns:
        The band; [0, inf) for a single value.

    Source: Wilson and Hilferty 1931, "The distribution of chi-square", PNAS 17.
    """
    if count == 1:
        return Band(0.0, math.inf)
    if isinstance(distribution, (Orthogonal, NormalisedRows)):
        # The sum of squares is the same for every draw; only the mean and rounding vary.
        slack = z * z / (2 * count) + _ROUNDING
        return Band(distribution.std * (1 - slack), distribution.std * (1 + slack))
    count = _independent(distribution, count)
    degrees = 2 * (count - 1) / (distribution.kurtosis - 1)

    def quantile(x: float) -> float:
        cube_root = 1 - 2 / (9 * degrees) + x * math.sqrt(2 / (9 * degrees))
        return math.sqrt(max(0.0, cube_root) ** 3)

    light = max(0.0, 3.0 - distribution.kurtosis)
    lower = z + light * (z * z - 1) / (_LIGHT_TAIL * math.sqrt(count))
    low = 0.0 if light and count < _FEW else quantile(-lower)
    return Band(distribution.std * low, distribution.std * quantile(z))


def _independent(distribution: Simple, count: int) -> int:
    """Return how many independent values have as wide a band as the values of a sample.

    In half of a basis the sum of squares is chi-square with count / 2 degrees of freedom, and the
    mean has at most the variance of that of count / 2 values: half of the directions have none.
    """
    return max(count // 2, 1) if isinstance(distribution, HalfBasis) else count
