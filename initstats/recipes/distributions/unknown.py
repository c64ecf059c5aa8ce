"""What a distribution answers whose values are not known beforehand."""

from __future__ import annotations

import math
from typing import TypeVar

_Self = TypeVar("_Self", bound="Unknown")


class Unknown:
    """Values that the model or another parameter gives: no moments, no bounds, no scale."""

    @property
    def mean(self) -> float:
        """NaN: not known beforehand."""
        return math.nan

    @property
    def std(self) -> float:
        """NaN: not known beforehand."""
        return math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """Infinite: not known beforehand."""
        return -math.inf, math.inf

    def scaled(self: _Self, factor: float) -> _Self:
        """Return the same: what gives the values is not scaled."""
        del factor
        return self
