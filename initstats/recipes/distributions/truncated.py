"""Truncated normal, with its moments after truncation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from initstats.recipes.distributions.basic import require_finite

# Truncation at two standard deviations leaves .87962566 of the standard deviation; JAX, Keras and
# timm's lecun_normal_ divide by it.
TRUNCATED_AT_TWO = 0.87962566103423978


@dataclass(frozen=True)
class TruncNormal:
    """The normal distribution cut to [low, high].

    The bounds are absolute values, as in torch's `trunc_normal_`: N(0, 0.02) cut at +-2 is a plain
    normal. Three truncations are in use, each with a name: `absolute(std)` cuts at +-2;
    `at(std, 3)` at three standard deviations, which leaves a smaller one; `corrected(std, 2)` at
    two of a wider normal, so that `std` holds afterwards.

    Args:
        parent_std: Standard deviation of the normal before truncation, finite and > 0.
        low: Smallest value; may be -inf.
        high: Largest value, > `low`; may be inf.
        parent_mean: Mean of the normal before truncation, finite.

    Raises:
        ValueError: If `parent_std` is not finite and > 0, `parent_mean` not finite, `low >= high`,
            or less than 1e-6 of the normal lies between the bounds.

    Source: Johnson, Kotz and Balakrishnan 1994, Continuous Univariate Distributions 1, 13.10.1.
    """

    parent_std: float
    low: float = -2.0
    high: float = 2.0
    parent_mean: float = 0.0

    def __post_init__(self) -> None:
        require_finite("TruncNormal", parent_mean=self.parent_mean)
        if not (math.isfinite(self.parent_std) and self.parent_std > 0):
            raise ValueError(
                "initstats.TruncNormal: expected parent_std finite and > 0, "
                f"got parent_std={self.parent_std}"
            )
        if not self.low < self.high or self._share < _SMALLEST_SHARE:
            raise ValueError(
                "initstats.TruncNormal: expected bounds low < high with a share of the normal "
                f"between them, got low={self.low}, high={self.high}"
            )

    @classmethod
    def at(cls, std: float, bound: float, *, corrected: bool = False) -> TruncNormal:
        """Return N(0, std) cut at +-bound standard deviations.

        Args:
            std: Standard deviation, of the normal before truncation unless `corrected`.
            bound: In standard deviations of the normal before truncation, > 0.
            corrected: Widen the normal so that `std` holds after truncation.

        Returns:
            The distribution.

        Raises:
            ValueError: As the class.
        """
        parent = std / cls(1.0, -bound, bound).std if corrected else std
        return cls(parent, -bound * parent, bound * parent)

    @classmethod
    def absolute(cls, std: float, bound: float = 2.0) -> TruncNormal:
        """Return N(0, std) cut at +-bound, as torch's `trunc_normal_`: at small std a plain normal.

        Args:
            std: Standard deviation before truncation, > 0.
            bound: The largest absolute value, > 0.

        Returns:
            The distribution.

        Raises:
            ValueError: As the class.
        """
        return cls(std, -bound, bound)

    @classmethod
    def corrected(cls, std: float, bound: float = 2.0) -> TruncNormal:
        """Return `at(std, bound, corrected=True)`: `std` holds after truncation, as in JAX.

        Args:
            std: Standard deviation after truncation, > 0.
            bound: In standard deviations of the normal before truncation, > 0.

        Returns:
            The distribution.

        Raises:
            ValueError: As the class.
        """
        return cls.at(std, bound, corrected=True)

    @property
    def _ends(self) -> tuple[float, float]:
        """The bounds in standard deviations."""
        a = (self.low - self.parent_mean) / self.parent_std
        return a, (self.high - self.parent_mean) / self.parent_std

    @property
    def _share(self) -> float:
        return _between(*self._ends)

    @cached_property
    def _moments(self) -> tuple[float, float, float, float]:
        """Raw moments 1 to 4 of the standard normal between the ends."""
        ends = self._ends
        # The density vanishes far out; without this inf * 0 would be NaN.
        density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in ends]
        a, b = (x if d else 0.0 for x, d in zip(ends, density, strict=True))
        moments = [1.0, (density[0] - density[1]) / self._share]
        for k in (2, 3, 4):
            edge = b ** (k - 1) * density[1] - a ** (k - 1) * density[0]
            moments.append((k - 1) * moments[k - 2] - edge / self._share)
        return moments[1], moments[2], moments[3], moments[4]

    @property
    def mean(self) -> float:
        """Mean after truncation."""
        return self.parent_mean + self.parent_std * self._moments[0]

    @property
    def std(self) -> float:
        """Standard deviation after truncation."""
        first, second, _, _ = self._moments
        return self.parent_std * math.sqrt(second - first * first)

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment after truncation."""
        m, second, third, fourth = self._moments
        variance = second - m * m
        return (fourth - 4 * m * third + 6 * m * m * second - 3 * m**4) / (variance * variance)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        return self.low, self.high

    def cdf(self, x: float) -> float:
        """Return the probability of a value <= x."""
        if x <= self.low:
            return 0.0
        if x >= self.high:
            return 1.0
        a, _ = self._ends
        z = (x - self.parent_mean) / self.parent_std
        return _between(a, z) / self._share

    def scaled(self, factor: float) -> TruncNormal:
        """Return the distribution of factor times a value."""
        low, high = sorted((factor * self.low, factor * self.high))
        return TruncNormal(abs(factor) * self.parent_std, low, high, factor * self.parent_mean)

    def __str__(self) -> str:
        cut = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"TN({self.parent_mean:g}, {self.parent_std:.4g}) in {cut}"


_SMALLEST_SHARE = 1e-6


def _between(a: float, b: float) -> float:
    """Return the share of a standard normal in [a, b], with its digits in both tails."""
    if a > 0:
        a, b = -b, -a
    return (math.erfc(-b / math.sqrt(2)) - math.erfc(-a / math.sqrt(2))) / 2
