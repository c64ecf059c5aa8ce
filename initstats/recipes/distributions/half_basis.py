"""Two matrices in complementary halves of one random basis: neither is 0, and their product is."""

from __future__ import annotations

import math
from dataclasses import dataclass

_HALVES = ("odd", "even")


@dataclass(frozen=True)
class HalfBasis:
    """Normals in the span of every other row of a random orthogonal matrix Q.

    With Q_half, [rank / 2, rank], the odd (first, third, ...) or the even rows, and N standard
    normals: scale Q_half.T N, [rank, n], or its transpose. A matrix of the odd rows and one of the
    even rows with the same basis have a product of 0.

    Args:
        rank: Size of the basis, even, >= 2.
        half: "odd" or "even".
        basis: Name whose key draws Q, the same for both matrices.
        dim: Dimension of the parameter along the rank, 0 or 1; all others are flattened.
        scale: Factor, finite and > 0.

    Raises:
        ValueError: If an argument is out of range.

    Source: peft `tuners/lora/layer.py`, orthogonal_init.
    """

    rank: int
    half: str
    basis: str
    dim: int = 0
    scale: float = 0.1

    def __post_init__(self) -> None:
        if self.rank < 2 or self.rank % 2:  # noqa: PLR2004  # the smallest even rank
            raise ValueError(
                f"initstats.HalfBasis: expected an even rank >= 2, got rank={self.rank}"
            )
        if self.half not in _HALVES:
            raise ValueError(
                f"initstats.HalfBasis: expected half among {', '.join(_HALVES)}, got "
                f"half={self.half!r}"
            )
        if self.dim not in (0, 1):
            raise ValueError(f"initstats.HalfBasis: expected dim 0 or 1, got dim={self.dim}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"initstats.HalfBasis: expected scale finite and > 0, got scale={self.scale}"
            )

    @property
    def mean(self) -> float:
        """Always 0."""
        return 0.0

    @property
    def std(self) -> float:
        """Root of the mean square: half of the directions have the variance of a normal."""
        return self.scale / math.sqrt(2)

    @property
    def kurtosis(self) -> float:
        """3, with half as many independent values as there are elements."""
        return 3.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Infinite."""
        return -math.inf, math.inf

    def scaled(self, factor: float) -> HalfBasis:
        """Return the distribution of factor times a value."""
        return HalfBasis(self.rank, self.half, self.basis, self.dim, abs(factor) * self.scale)

    def __str__(self) -> str:
        return f"N(0, {self.std:.4g}) in the {self.half} half of a basis of {self.rank}"
