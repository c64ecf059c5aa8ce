"""Parameters of several parts, each with its own values: packed along a dimension, or slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.computed import Computed
from initstats.recipes.distributions.derived import Derived
from initstats.recipes.distributions.half_basis import HalfBasis
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.normalised_rows import NormalisedRows
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.distributions.transformed import Transformed
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.distributions.unknown import Unknown


@dataclass(frozen=True)
class Kept(Unknown):
    """Keep the values that the model computed, such as fixed positions.

    Args:
        what: What the parameter holds, in words.
    """

    what: str

    def __str__(self) -> str:
        return f"kept: {self.what}"


Simple: TypeAlias = (
    Normal
    | Uniform
    | Constant
    | TruncNormal
    | Orthogonal
    | LogUniform
    | Transformed
    | NormalisedRows
    | HalfBasis
    | Computed
)


@dataclass(frozen=True)
class Part:
    """One part of a `Stacked` parameter.

    Args:
        distribution: What the part holds.
        size: Its extent along the dimension, >= 1.
        label: Name of the part, such as a gate's.
        key: What distinguishes the key of the part; parts with one key get the same random
            numbers. The label when empty.
    """

    distribution: Simple
    size: int
    label: str
    key: str = ""


@dataclass(frozen=True)
class Stacked:
    """Parts stacked along one dimension: gates of a recurrent layer, packed projections.

    Args:
        parts: The parts in order; their sizes add up to the parameter's.
        dim: The dimension.

    Raises:
        ValueError: If there are no parts, or a size is < 1.
    """

    parts: Sequence[Part]
    dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts or any(part.size < 1 for part in self.parts):
            raise ValueError(
                "initstats.Stacked: expected parts of size >= 1, "
                f"got parts={[part.size for part in self.parts]}"
            )

    def _share(self, part: Part) -> float:
        return part.size / sum(other.size for other in self.parts)

    @property
    def mean(self) -> float:
        """Mean over all parts."""
        return sum(self._share(part) * part.distribution.mean for part in self.parts)

    @property
    def std(self) -> float:
        """Standard deviation over all parts, their different means included."""
        mean = self.mean
        return math.sqrt(
            sum(
                self._share(part)
                * (part.distribution.std**2 + (part.distribution.mean - mean) ** 2)
                for part in self.parts
            )
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value of any part."""
        lows, highs = zip(*(part.distribution.bounds for part in self.parts), strict=True)
        return min(lows), max(highs)

    def scaled(self, factor: float) -> Stacked:
        """Return the parameter with every random part scaled."""
        parts = [
            Part(part.distribution.scaled(factor), part.size, part.label, part.key)
            for part in self.parts
        ]
        return Stacked(parts, self.dim)

    def __str__(self) -> str:
        texts: list[str] = []
        for part in self.parts:
            text = str(part.distribution)
            if not texts or texts[-1] != text:
                texts.append(text)
        return " | ".join(texts)


@dataclass(frozen=True)
class Slices:
    """Independent slices with one distribution: taps of a convolution, experts, heads.

    For independent elements, such as those of `Normal`, a whole bank is one sample and needs no
    slices; orthogonal matrices and rows of one norm do.

    Args:
        each: What a slice holds, without the numbering dimensions: `Orthogonal(out, in)` for a tap.
        dims: The dimensions that number the slices: (0,) for [experts, out, in], (2, 3) for the
            taps of [out, in, height, width].

    Raises:
        ValueError: If there are no dimensions, or one occurs twice or is negative.
    """

    each: Simple
    dims: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if not self.dims or len(set(self.dims)) < len(self.dims) or min(self.dims) < 0:
            raise ValueError(
                f"initstats.Slices: expected different dimensions >= 0, got dims={self.dims}"
            )

    @property
    def mean(self) -> float:
        """Mean of every slice."""
        return self.each.mean

    @property
    def std(self) -> float:
        """Standard deviation of every slice."""
        return self.each.std

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        return self.each.bounds

    def scaled(self, factor: float) -> Slices:
        """Return the parameter with every slice scaled."""
        return Slices(self.each.scaled(factor), self.dims)

    def __str__(self) -> str:
        words = f"dimension {self.dims[0]}" if len(self.dims) == 1 else f"dimensions {self.dims}"
        return f"{self.each} in each slice of {words}"


Distribution: TypeAlias = Simple | Derived | Stacked | Slices | Kept
DISTRIBUTIONS = (
    Normal,
    Uniform,
    Constant,
    TruncNormal,
    Orthogonal,
    LogUniform,
    Transformed,
    NormalisedRows,
    HalfBasis,
    Computed,
    Derived,
    Stacked,
    Slices,
    Kept,
)
