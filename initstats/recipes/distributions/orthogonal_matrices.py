"""Orthogonal matrices and log-uniform gates: what a rule promises beyond the common fills."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initstats.recipes.distributions.basic import require_finite


@dataclass(frozen=True)
class Orthogonal:
    """A random (semi-)orthogonal matrix times a gain, uniform on the orthogonal group (Haar).

    Args:
        rows: Rows of the matrix, >= 1.
        columns: Columns of the matrix, the dimensions after the first flattened, >= 1.
        gain: Factor, finite and > 0.

    Raises:
        ValueError: If an argument is out of range.

    Source: Saxe et al. 2013, "Exact solutions to the nonlinear dynamics of learning in deep linear
        neural networks".
    """

    rows: int
    columns: int
    gain: float = 1.0

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise ValueError(
                "initstats.Orthogonal: expected rows and columns >= 1, "
                f"got rows={self.rows}, columns={self.columns}"
            )
        if not (math.isfinite(self.gain) and self.gain > 0):
            raise ValueError(
                f"initstats.Orthogonal: expected gain finite and > 0, got gain={self.gain}"
            )

    @property
    def mean(self) -> float:
        """Always 0."""
        return 0.0

    @property
    def std(self) -> float:
        """Root of the mean square, gain / sqrt(max(rows, columns)): the same for every draw."""
        return self.gain / math.sqrt(max(self.rows, self.columns))

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment of one element, 3 n / (n + 2)."""
        n = max(self.rows, self.columns)
        return 3 * n / (n + 2)

    @property
    def bounds(self) -> tuple[float, float]:
        """No element is larger than the gain."""
        return -self.gain, self.gain

    def scaled(self, factor: float) -> Orthogonal:
        """Return the distribution of factor times a value."""
        return Orthogonal(self.rows, self.columns, abs(factor) * self.gain)

    def __str__(self) -> str:
        return "orthogonal" if self.gain == 1 else f"{self.gain:.4g} x orthogonal"


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
