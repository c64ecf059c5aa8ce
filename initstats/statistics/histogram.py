"""The base-2 exponential histogram of a record: buckets, quantiles, shares below a power of two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_SCALE = 2
# Places of one sign at scale 0. Place p holds the bucket p - BIAS, as the kernels write it.
PLACES = 256
BIAS = 127
# Powers of two between which every bucket has its own edges; below and above, one bucket holds all.
_LOWEST, _HIGHEST = -126, 128
_MANTISSA_OF_POWERS = 0.5  # of math.frexp


@dataclass(frozen=True)
class Bucket:
    """One bucket that is not empty: `count` values x with low < x <= high, mirrored if negative."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Histogram:
    """A mergeable histogram over all signs and sizes that needs no range beforehand.

    A finite x other than zero lies in bucket k of its sign where
    `2**(k * 2**-scale) < abs(x) <= 2**((k + 1) * 2**-scale)`. All of 0 < abs(x) <= 2**-126 share
    one bucket, and so do all float64 above 2**128. Zeros and infinities are counted apart, NaN are
    left out.

    Args:
        scale: Buckets per power of two as an exponent of two: 0, 1 or 2 for 1, 2 or 4 buckets.
        counts: Counts, shape [2, 256 << scale]: positive values, then negative ones; the place of
            bucket k is k + (127 << scale).
        zero: How many values are zero.
        pos_inf: How many values are +inf.
        neg_inf: How many values are -inf.

    Determinism: bitwise.
    Source: the exponential histogram of OpenTelemetry (metrics data model) and Prometheus.
    """

    scale: int
    counts: npt.NDArray[np.int64]
    zero: int = 0
    pos_inf: int = 0
    neg_inf: int = 0

    @property
    def total(self) -> int:
        """The number of values that are not NaN."""
        return int(self.counts.sum()) + self.zero + self.pos_inf + self.neg_inf

    @property
    def relative_error(self) -> float:
        """The largest relative error of a quantile: 0.334, 0.172 and 0.0865 for scales 0, 1 and 2.

        It holds where 2**-126 < abs(x) <= 2**128.
        """
        ratio = 2.0 ** (2.0**-self.scale)
        return float((ratio - 1.0) / (ratio + 1.0))

    @property
    def buckets(self) -> list[Bucket]:
        """The buckets that are not empty, in ascending order; zeros are Bucket(0, 0, n)."""
        return list(self._ascending())

    def lower_scale(self, scale: int) -> Histogram:
        """Return the same histogram at a lower scale, exactly.

        Args:
            scale: 0 to the scale of this histogram.

        Returns:
            A histogram whose buckets each join two (or four) of this one.

        Raises:
            ValueError: If scale is negative or above this histogram's.
        """
        if not 0 <= scale <= self.scale:
            msg = (
                f"initstats.Histogram.lower_scale: expected 0 <= scale <= {self.scale}, got"
                f" scale={scale}"
            )
            raise ValueError(msg)
        counts = self.counts.reshape(2, PLACES << scale, 1 << (self.scale - scale)).sum(axis=2)
        return Histogram(scale, counts, self.zero, self.pos_inf, self.neg_inf)

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both sets of values, at the lower of the two scales.

        Args:
            other: The histogram to add.

        Returns:
            A new histogram.

        Determinism: bitwise.
        """
        scale = min(self.scale, other.scale)
        counts = self.lower_scale(scale).counts + other.lower_scale(scale).counts
        return Histogram(
            scale,
            counts,
            self.zero + other.zero,
            self.pos_inf + other.pos_inf,
            self.neg_inf + other.neg_inf,
        )

    def quantile(self, q: float) -> float:
        """Return a value near the q-quantile of the values that are not NaN.

        Its bucket is that of the value with rank floor(q * (total - 1)), exactly; the point that is
        returned is within `relative_error` of everything in the bucket.

        Args:
            q: A share, 0 <= q <= 1; 0.5 is the median.

        Returns:
            The estimate; NaN if there are no values.

        Raises:
            ValueError: If q is outside [0, 1].

        Source: DDSketch (Masson, Rim, Lee 2019, VLDB 12), lemma 2.
        """
        if not 0.0 <= q <= 1.0:
            msg = f"initstats.Histogram.quantile: expected 0 <= q <= 1, got q={q}"
            raise ValueError(msg)
        rank = math.floor(q * (self.total - 1))
        for bucket in self._ascending():
            if rank < bucket.count:
                return _middle(bucket.low, bucket.high)
            rank -= bucket.count
        return math.nan

    def fraction_below(self, x: float) -> float:
        """Return the share of values with abs(value) <= x, zeros included, exactly.

        Args:
            x: Zero, or a power of two from 2**-126 to 2**128: edges of buckets at every scale.

        Returns:
            The share among the values that are not NaN; NaN if there are none.

        Raises:
            ValueError: If x is not such a power.
        """
        mantissa, exponent = math.frexp(x)
        is_power = mantissa == _MANTISSA_OF_POWERS and _LOWEST <= exponent - 1 <= _HIGHEST
        if x != 0 and not is_power:
            msg = (
                "initstats.Histogram.fraction_below: expected x to be 0 or a power of two from"
                f" 2**-126 to 2**128, got x={x}"
            )
            raise ValueError(msg)
        if self.total == 0:
            return math.nan
        places = 0 if x == 0 else (exponent - 1 + BIAS) << self.scale
        return (int(self.counts[:, :places].sum()) + self.zero) / self.total

    def to_dict(self) -> dict[str, Any]:
        """Return what `json.dumps` can write: non-empty counts by bucket number, as text."""
        sides = {}
        for name, row in zip(("positive", "negative"), self.counts, strict=True):
            places = np.flatnonzero(row)
            sides[name] = {str(int(p) - (BIAS << self.scale)): int(row[p]) for p in places}
        return {"scale": self.scale, "zero": self.zero, **sides}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine = (self.scale, self.zero, self.pos_inf, self.neg_inf)
        theirs = (other.scale, other.zero, other.pos_inf, other.neg_inf)
        return mine == theirs and bool(np.array_equal(self.counts, other.counts))

    __hash__ = None  # type: ignore[assignment]

    def _ascending(self) -> Iterator[Bucket]:
        if self.neg_inf:
            yield Bucket(-math.inf, -math.inf, self.neg_inf)
        for place in np.flatnonzero(self.counts[1])[::-1]:
            low, high = edges(int(place), self.scale)
            yield Bucket(-high, -low, int(self.counts[1, place]))
        if self.zero:
            yield Bucket(0.0, 0.0, self.zero)
        for place in np.flatnonzero(self.counts[0]):
            low, high = edges(int(place), self.scale)
            yield Bucket(low, high, int(self.counts[0, place]))
        if self.pos_inf:
            yield Bucket(math.inf, math.inf, self.pos_inf)


@cache
def edges(place: int, scale: int) -> tuple[float, float]:
    """Return low and high of the sizes low < abs(x) <= high that a place counts; 0 and inf too."""
    step = 2.0**-scale
    k = place - (BIAS << scale)
    low = 2.0 ** (k * step) if place >= 1 << scale else 0.0
    high = math.inf if place == (PLACES - 1) << scale else 2.0 ** ((k + 1) * step)
    return low, high


def _middle(low: float, high: float) -> float:
    """Return the point nearest to both edges in ratio; if one end is open, the other end."""
    if low == high or math.isinf(high) or high == 0.0:
        return low
    if math.isinf(low) or low == 0.0:
        return high
    return low / (low + high) * (2.0 * high)


def shifted_places(places: npt.NDArray[np.int64], powers: int, scale: int) -> npt.NDArray[np.int64]:
    """Return histograms of the same elements times 2**powers, exactly.

    What leaves the range of sizes joins the first or the last bucket, as everywhere.
    """
    by = powers << scale
    sides = places.reshape(*places.shape[:-1], 2, -1)
    length = sides.shape[-1]
    target = np.clip(np.arange(length) + by, 0, length - 1)
    out = np.zeros_like(sides)
    for place, to in enumerate(target.tolist()):
        out[..., to] += sides[..., place]
    return out.reshape(places.shape)
