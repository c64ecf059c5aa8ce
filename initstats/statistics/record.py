"""Record of one tensor, read lazily."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from initstats.sharding import Spread
from initstats.statistics.histogram import Histogram
from initstats.statistics.record_array import (
    COUNT,
    FINGERPRINT,
    L1,
    MAX,
    MEAN,
    MIN,
    MIN_ABS,
    NAN,
    NEG_INF,
    POS_INF,
    ZERO,
    Batch,
    Groups,
    RecordRow,
)

_MODULUS = 1 << 64  # of fingerprints
_UNMERGED = (
    "initstats.Stats: expected a record of a whole tensor, got that of the shard of one rank; call"
    " stats({name: tensor}).all_merge(group), or take .local for the shard alone"
)


class Stats:
    """The record of one tensor. Nothing is transferred or waited for until a property is read.

    `count` is the number of elements; moments, extrema, l1 and l2 are over the finite ones. A value
    that is not defined (the mean of nothing, the std of one element, the skewness of a constant) is
    NaN. A property whose group was not asked for raises ValueError.

    Determinism: bitwise, on any device and with any number of threads or CPU capability.
    Source: Pebay 2008, SAND2008-6212, for moments that merge.
    """

    __slots__ = ("_index", "_row", "_source", "groups", "spread")

    def __init__(self, source: Batch | RecordRow, index: int = 0, groups: int = 0) -> None:
        self._source: Batch | None = source if isinstance(source, Batch) else None
        self._row: RecordRow | None = source if isinstance(source, RecordRow) else None
        self._index = index
        self.groups = source.groups if isinstance(source, Batch) else groups
        self.spread: Spread | None = None
        if isinstance(source, Batch) and source.spreads:
            self.spread = source.spreads[index]

    @property
    def is_sharded(self) -> bool:
        """Whether this is the record of one rank's shard, which is not read before it is merged."""
        return self.spread is not None and not self.spread.is_whole

    @property
    def local(self) -> Stats:
        """The record of the elements that this rank holds; of a plain tensor the record itself."""
        if self.spread is None:
            return self
        assert self._source is not None
        local = Stats(self._source, self._index)
        local.spread = None
        return local

    def _read(self) -> RecordRow:
        if self._row is None:
            assert self._source is not None
            if self.is_sharded:
                raise ValueError(_UNMERGED)
            self._row = self._source.row(self._index)
        return self._row

    def _require(self, group: int, what: str, flag: str) -> RecordRow:
        if not self.groups & group:
            msg = (
                f"initstats.Stats.{what}: expected a record taken with stats(..., {flag}=True), got"
                " one without"
            )
            raise ValueError(msg)
        return self._row or self._read()

    def _counted(self, what: str) -> RecordRow:
        return self._require(Groups.COUNTED, what, "moments")

    @property
    def row(self) -> RecordRow:
        """The numbers of the record on the host; for merges over ranks."""
        return self._read()

    @property
    def count(self) -> int:
        """The number of elements, finite or not."""
        return self._read().counts[COUNT]

    @property
    def nan(self) -> int:
        """The number of NaN."""
        return self._counted("nan").counts[NAN]

    @property
    def pos_inf(self) -> int:
        """The number of +inf."""
        return self._counted("pos_inf").counts[POS_INF]

    @property
    def neg_inf(self) -> int:
        """The number of -inf."""
        return self._counted("neg_inf").counts[NEG_INF]

    @property
    def zero(self) -> int:
        """The number of zeros of either sign."""
        return self._counted("zero").counts[ZERO]

    @property
    def min(self) -> float:
        """The smallest finite element."""
        return self._counted("min").moments[MIN]

    @property
    def max(self) -> float:
        """The largest finite element."""
        return self._counted("max").moments[MAX]

    @property
    def min_abs(self) -> float:
        """The smallest size of a finite element other than zero."""
        return self._counted("min_abs").moments[MIN_ABS]

    @property
    def abs_max(self) -> float:
        """The largest size of a finite element."""
        return self._counted("abs_max").derive("abs_max")

    @property
    def mean(self) -> float:
        """The mean."""
        return self._counted("mean").moments[MEAN]

    @property
    def var(self) -> float:
        """The unbiased variance (denominator n - 1, as torch)."""
        return self._counted("var").derive("var")

    @property
    def std(self) -> float:
        """The square root of the unbiased variance, as torch."""
        return self._counted("std").derive("std")

    @property
    def rms(self) -> float:
        """The root of the mean square."""
        return self._counted("rms").derive("rms")

    @property
    def l1(self) -> float:
        """The sum of sizes."""
        return self._counted("l1").moments[L1]

    @property
    def l2(self) -> float:
        """The Euclidean norm; 0 if nothing is finite."""
        return self._counted("l2").derive("l2")

    @property
    def skewness(self) -> float:
        """The third standardised moment (population, as scipy's default)."""
        return self._counted("skewness").derive("skewness")

    @property
    def kurtosis(self) -> float:
        """The excess kurtosis: 0 for a normal distribution (population, as scipy's default)."""
        return self._counted("kurtosis").derive("kurtosis")

    @property
    def histogram(self) -> Histogram:
        """The exponential histogram."""
        return self._require(Groups.HISTOGRAM, "histogram", "histogram").histogram

    @property
    def fingerprint(self) -> int:
        """A 64-bit sum over elements of a mix of logical index and stored bits."""
        counts = self._require(Groups.FINGERPRINT, "fingerprint", "fingerprint").counts
        return counts[FINGERPRINT] % _MODULUS

    def quantile(self, q: float) -> float:
        """Return a value near the q-quantile of the elements that are not NaN.

        Args:
            q: A share, 0 <= q <= 1; 0.5 is the median.

        Returns:
            The estimate of `Histogram.quantile`, clamped to [min, max] unless it is infinite. Its
            relative error is at most `histogram.relative_error`.

        Raises:
            ValueError: If q is outside [0, 1] or the record has no histogram.
        """
        row = self._require(Groups.HISTOGRAM, "quantile", "histogram")
        value = row.histogram.quantile(q)
        low, high = row.moments[MIN], row.moments[MAX]
        return value if not math.isfinite(value) else min(max(value, low), high)

    def fraction_below(self, x: float) -> float:
        """Return the share of elements with abs(element) <= x, zeros included, exactly.

        Args:
            x: Zero, or a power of two from 2**-126 to 2**128. At 2**-25 it is the share that rounds
                to zero in float16.

        Returns:
            The share among the elements that are not NaN.

        Raises:
            ValueError: If x is no such power or the record has no histogram.
        """
        return self.histogram.fraction_below(x)

    def merge(self, other: Stats) -> Stats:
        """Return the record of the elements of both.

        Args:
            other: A record with the same groups. Of two scales the lower one is kept, exactly.

        Returns:
            A new record. Fingerprints add: that is the fingerprint of the whole only if the two
            records are of different parts of one logical tensor.

        Raises:
            ValueError: If one record has a group that the other has not.
        """
        if self.groups != other.groups:
            msg = (
                "initstats.Stats.merge: expected records with the same groups, got"
                f" {_group_names(self.groups)} and {_group_names(other.groups)}"
            )
            raise ValueError(msg)
        return Stats(self._read().merge(other._read()), groups=self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return every field of the record as `json.dumps` can write it: NaN becomes None.

        The fingerprint is a text of 16 hexadecimal digits.
        """
        values: dict[str, Any] = {"count": self.count}
        if self.groups & (Groups.COUNTED):
            values |= {name: _jsonable(getattr(self, name)) for name in FIELDS}
        if self.groups & Groups.HISTOGRAM:
            values["histogram"] = self.histogram.to_dict()
        if self.groups & Groups.FINGERPRINT:
            values["fingerprint"] = f"{self.fingerprint:016x}"
        return values

    def __repr__(self) -> str:
        if self.spread is not None and self.is_sharded:
            return f"Stats(shard of {list(self.spread.shape)}, merge with all_merge)"
        if not self.groups & (Groups.COUNTED):
            return f"Stats(count={self.count}, fingerprint={self.fingerprint:016x})"
        text = f"count={self.count}"
        text += "".join(
            f", {name}={getattr(self, name):.6g}" for name in ("mean", "std", "min", "max")
        )
        text += "".join(
            f", {name}={getattr(self, name)}"
            for name in ("nan", "pos_inf", "neg_inf")
            if getattr(self, name)
        )
        return f"Stats({text})"


# The fields of the moments group beside count, in the order in which tables show them.
FIELDS = (
    "mean",
    "std",
    "var",
    "rms",
    "min",
    "max",
    "min_abs",
    "abs_max",
    "l1",
    "l2",
    "skewness",
    "kurtosis",
    "zero",
    "nan",
    "pos_inf",
    "neg_inf",
)


def merged(records: list[Stats]) -> Stats | None:
    """Merge the records of several calls into one.

    Args:
        records: Any number of records.

    Returns:
        Their merge, or None for none.
    """
    return reduce(lambda a, b: a.merge(b), records) if records else None


def _jsonable(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _group_names(groups: int) -> str:
    names = {
        Groups.MOMENTS: "moments",
        Groups.HISTOGRAM: "histogram",
        Groups.FINGERPRINT: "fingerprint",
    }
    return " + ".join(name for group, name in names.items() if groups & group)
