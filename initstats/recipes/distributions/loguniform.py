"""Logarithms of uniforms: the biases of chrono initialisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initstats.recipes.distributions.basic import require_finite


@dataclass(frozen=True)
class LogUniform:
    """The logarithm of a uniform: sign * ln U(low, high).

    Args:
        low: Lower end of the uniform, finite and > 0.
        high: Upper end of the uniform, finite and > `low`.
        sign: 1 or -1.

    Raises:
        ValueError: If an end is not finite, `low <= 0`, `low >= high`, or sign is neither.
    """

    low: float
    high: float
    sign: int = 1

    def __post_init__(self) -> None:
        require_finite("LogUniform", low=self.low, high=self.high)
        if not 0 < self.low < self.high:
            raise ValueError(
                f"initstats.LogUniform: expected 0 < low < high, got low={self.low}, "
                f"high={self.high}"
            )
        if self.sign not in {1, -1}:
            raise ValueError(f"initstats.LogUniform: expected sign 1 or -1, got sign={self.sign}")

    def _raw(self, k: int) -> float:
        """The k-th raw moment of ln U, by parts: I_k = [x ln^k x] - k I_(k-1)."""
        total = self.high - self.low
        for i in range(1, k + 1):
            edge = self.high * math.log(self.high) ** i - self.low * math.log(self.low) ** i
            total = edge - i * total
        return total / (self.high - self.low)

    @property
    def mean(self) -> float:
        """Mean."""
        return self.sign * self._raw(1)

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self._raw(2) - self._raw(1) ** 2)

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment."""
        m = self._raw(1)
        fourth = self._raw(4) - 4 * m * self._raw(3) + 6 * m * m * self._raw(2) - 3 * m**4
        return fourth / self.std**4

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        ends = sorted((self.sign * math.log(self.low), self.sign * math.log(self.high)))
        return ends[0], ends[1]

    def cdf(self, x: float) -> float:
        """Return the probability of a value <= x."""
        low, high = self.bounds
        if not low < x < high:
            return float(x >= high)
        share = (math.exp(self.sign * x) - self.low) / (self.high - self.low)
        return share if self.sign > 0 else 1 - share

    def scaled(self, factor: float) -> LogUniform:
        """Return the distribution itself: a time scale is no matter of variance."""
        del factor
        return self

    def __str__(self) -> str:
        return f"{'-' if self.sign < 0 else ''}ln U({self.low:g}, {self.high:g})"
