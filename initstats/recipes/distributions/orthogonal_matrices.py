"""Random orthogonal matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
