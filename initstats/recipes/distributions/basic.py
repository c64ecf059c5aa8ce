"""Normal, uniform and constant distributions, with the moments that `verify` checks."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Normal:
    """The normal distribution with a mean and a standard deviation.

    Args:
        std: Standard deviation, finite and > 0 (use `Constant` for 0).
        mean: Mean, finite.

    Raises:
        ValueError: If `std` is not a finite number > 0 or `mean` is not finite.
    """

    std: float
    mean: float = 0.0

    def __post_init__(self) -> None:
        require_finite("Normal", mean=self.mean)
        if not (math.isfinite(self.std) and self.std > 0):
            raise ValueError(
                f"initstats.Normal: expected std finite and > 0, got std={self.std}; "
                "use Constant for a single value"
            )

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment (3 for a normal)."""
        return 3.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        return -math.inf, math.inf

    def cdf(self, x: float) -> float:
        """Return the probability of a value <= x."""
        return math.erfc((self.mean - x) / (self.std * math.sqrt(2))) / 2

    def scaled(self, factor: float) -> Normal:
        """Return the distribution of factor times a value."""
        return Normal(abs(factor) * self.std, factor * self.mean)

    def __str__(self) -> str:
        return f"N({self.mean:g}, {self.std:.4g})"


@dataclass(frozen=True)
class Uniform:
    """The uniform distribution on [low, high).

    Args:
        low: Lower end, finite.
        high: Upper end, finite and > `low`.

    Raises:
        ValueError: If an end is not finite or `low >= high`.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        require_finite("Uniform", low=self.low, high=self.high)
        if self.low >= self.high:
            raise ValueError(
                f"initstats.Uniform: expected low < high, got low={self.low}, high={self.high}"
            )

    @property
    def mean(self) -> float:
        """Middle of the interval."""
        return (self.low + self.high) / 2

    @property
    def std(self) -> float:
        """Standard deviation, (high - low) / sqrt(12)."""
        return (self.high - self.low) / math.sqrt(12)

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment (9/5 for a uniform)."""
        return 1.8

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        return self.low, self.high

    def cdf(self, x: float) -> float:
        """Return the probability of a value <= x."""
        return min(max((x - self.low) / (self.high - self.low), 0.0), 1.0)

    def scaled(self, factor: float) -> Uniform:
        """Return the distribution of factor times a value."""
        return Uniform(*sorted((factor * self.low, factor * self.high)))

    def __str__(self) -> str:
        return f"U({self.low:.4g}, {self.high:.4g})"


@dataclass(frozen=True)
class Constant:
    """One value for every element.

    Args:
        value: The value, finite.

    Raises:
        ValueError: If `value` is not finite.
    """

    value: float

    def __post_init__(self) -> None:
        require_finite("Constant", value=self.value)

    @property
    def mean(self) -> float:
        """The value itself."""
        return self.value

    @property
    def std(self) -> float:
        """Always 0."""
        return 0.0

    @property
    def kurtosis(self) -> float:
        """Undefined for a constant."""
        return math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        return self.value, self.value

    def scaled(self, factor: float) -> Constant:
        """Return the constant itself: zeros, ones and gates are no matter of variance."""
        del factor
        return self

    def __str__(self) -> str:
        return f"{self.value:g}"


def require_finite(kind: str, **values: float) -> None:
    """Refuse a parameter that is not a finite number.

    Args:
        kind: Name of the distribution, for the message.
        values: The parameters by name.

    Raises:
        ValueError: Naming the first value that is not finite.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"initstats.{kind}: expected {name} finite, got {name}={value}")
