"""Sampling bands of light-tailed samples: false alarms stay below the nominal rate.

Oracles: the probability that n uniforms on [-1, 1] have a sum of squares about their mean of at
most q is at most sqrt(n) 2^-(n-1) V q^((n-1)/2), V the volume of the unit ball of n - 1 dimensions
(exact while that ball fits into the cube); and simulation.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from initstats.recipes import Normal, Uniform
from initstats.verification.confidence import std_band

TAIL = NormalDist().cdf


@pytest.mark.parametrize("n", [6, 7, 8, 10, 12, 16, 20])
@pytest.mark.parametrize("z", [3.5, 4.0, 4.5, 5.0, 6.0])
def test_a_few_uniforms_leave_the_band_downwards_at_most_at_the_nominal_rate(
    n: int, z: float
) -> None:
    low = std_band(Uniform(-1.0, 1.0), n, z).low
    k = n - 1
    ball = k / 2 * math.log(math.pi) - math.lgamma(k / 2 + 1)
    squares = k * math.log(low * math.sqrt(k)) if low > 0 else -math.inf
    assert 0.5 * math.log(n) - k * math.log(2) + ball + squares <= math.log(TAIL(-z))


@pytest.mark.parametrize("n", [8, 32, 128, 1024])
def test_uniforms_leave_the_band_at_most_at_the_nominal_rate(n: int) -> None:
    # A fresh seed would fail with a rate of about 3e-5 per side: four standard errors of a count.
    count, z = 40_000_000 // n // 10, 3.0
    generator = np.random.default_rng(0)
    band = std_band(Uniform(-1.0, 1.0), n, z)
    below = above = 0
    for _ in range(10):
        std = generator.uniform(-1, 1, (count, n)).std(axis=1, ddof=1)
        below += int((std < band.low).sum())
        above += int((std > band.high).sum())
    expected = TAIL(-z) * 10 * count
    assert max(below, above) <= expected + 4 * math.sqrt(expected)


def test_the_band_of_many_values_is_that_of_large_samples() -> None:
    n, z = 1_000_000, 4.0
    for distribution, kurtosis in ((Uniform(-1.0, 1.0), 1.8), (Normal(1.0), 3.0)):
        band = std_band(distribution, n, z)
        half = z * math.sqrt((kurtosis - 1) / (4 * n))
        assert band.low == pytest.approx(distribution.std * (1 - half), abs=0.05 * half)
        assert band.high == pytest.approx(distribution.std * (1 + half), abs=0.05 * half)
