"""Rows of one length in random directions: normals, divided by the norm of their row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_NODES = np.polynomial.legendre.leggauss(64)
_FAR = 12.0  # standard deviations beyond which nothing of the density is left in float64


@dataclass(frozen=True)
class NormalisedRows:
    """Rows uniform on a sphere: independent normals, divided by the norm of their row.

    Args:
        columns: Elements of a row, the dimensions after the first flattened, >= 2.
        norm: Norm of every row, finite and > 0.

    Raises:
        ValueError: If an argument is out of range.

    Source: modula `atom.py`, Embed (rows of norm 1); edm2 `networks_edm2.py`, normalize.
    """

    columns: int
    norm: float = 1.0

    def __post_init__(self) -> None:
        if self.columns < 2:  # noqa: PLR2004  # one element has no direction
            raise ValueError(
                f"initstats.NormalisedRows: expected columns >= 2, got columns={self.columns}"
            )
        if not (math.isfinite(self.norm) and self.norm > 0):
            raise ValueError(
                f"initstats.NormalisedRows: expected norm finite and > 0, got norm={self.norm}"
            )

    @property
    def mean(self) -> float:
        """Always 0."""
        return 0.0

    @property
    def std(self) -> float:
        """Root of the mean square, norm / sqrt(columns): the same for every draw."""
        return self.norm / math.sqrt(self.columns)

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment of one element, 3 n / (n + 2)."""
        return 3 * self.columns / (self.columns + 2)

    @property
    def bounds(self) -> tuple[float, float]:
        """No element is larger than the norm."""
        return -self.norm, self.norm

    def cdf(self, x: float) -> float:
        """Return the probability of a value <= x.

        The square of an element over that of the norm is Beta(1/2, (n - 1) / 2): with x = norm
        sin(t) the density of the angle t is proportional to cos(t)^(n - 2).
        """
        t = math.asin(min(max(x / self.norm, -1.0), 1.0))
        n = self.columns
        far = min(math.pi / 2, _FAR / math.sqrt(n))
        nodes, weights = _NODES
        half = min(abs(t), far) / 2
        total = half * float(weights @ np.cos(half * (nodes + 1)) ** (n - 2))
        whole = math.sqrt(math.pi) * math.exp(math.lgamma((n - 1) / 2) - math.lgamma(n / 2))
        return min(max(0.5 + math.copysign(total / whole, t), 0.0), 1.0)

    def scaled(self, factor: float) -> NormalisedRows:
        """Return the distribution of factor times a value."""
        return NormalisedRows(self.columns, abs(factor) * self.norm)

    def __str__(self) -> str:
        return f"rows of norm {self.norm:.4g}"
