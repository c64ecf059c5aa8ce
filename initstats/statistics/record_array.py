"""The numbers of records, of one or of many as columns: merged and derived here, and nowhere else.

The formulas are written once, over the functions that NumPy, torch and `_Scalars` have in common:
a column `m[M2]` is an array, a tensor or a Python float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from initstats.sharding import Spread
from initstats.statistics.histogram import Histogram
from initstats.text import nearest

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Columns, as csrc/math/stats/moments.h writes them.
MEAN, M2, M3, M4, L1, MIN, MAX, MIN_ABS = range(8)
COUNT, NAN, POS_INF, NEG_INF, ZERO, FINGERPRINT = range(6)
MOMENT_NAMES = ("mean", "m2", "m3", "m4", "l1", "min", "max", "min_abs")
COUNT_NAMES = ("count", "nan", "pos_inf", "neg_inf", "zero")
_COLUMNS = 8
_MOMENTS, _COUNTS = Struct(f"={_COLUMNS}d"), Struct(f"={_COLUMNS}q")  # a row, as bytes


class Groups:
    """What a record holds, as a sum of these. Counts and moments come with the histogram."""

    MOMENTS = 1
    HISTOGRAM = 2
    FINGERPRINT = 4
    COUNTED = MOMENTS | HISTOGRAM


# ---- the formulas: xp is the namespace, n the number of finite elements as a float, m the moments


class _Scalars:
    """The functions of NumPy and torch that the formulas call, for Python floats."""

    sqrt, hypot, maximum = math.sqrt, math.hypot, max

    @staticmethod
    def where(condition: bool, x: float, y: float) -> float:
        return x if condition else y

    @staticmethod
    def fmin(x: float, y: float) -> float:
        return y if math.isnan(x) else x if math.isnan(y) else min(x, y)

    @staticmethod
    def fmax(x: float, y: float) -> float:
        return y if math.isnan(x) else x if math.isnan(y) else max(x, y)


def _abs_max(xp: Any, _n: Any, m: Any) -> Any:
    return xp.maximum(abs(m[MIN]), abs(m[MAX]))


def _var(xp: Any, n: Any, m: Any) -> Any:
    return m[M2] / xp.where(n > 1, n - 1, math.nan)


def _std(xp: Any, n: Any, m: Any) -> Any:
    return xp.sqrt(_var(xp, n, m))


def _rms(xp: Any, n: Any, m: Any) -> Any:
    return xp.hypot(xp.sqrt(m[M2] / xp.where(n > 0, n, math.nan)), m[MEAN])


def _l2(xp: Any, n: Any, m: Any) -> Any:
    return xp.where(n > 0, _rms(xp, n, m) * xp.sqrt(n), 0.0)


def _skewness(xp: Any, n: Any, m: Any) -> Any:
    m2 = xp.where(m[M2] > 0, m[M2], math.nan)
    return xp.sqrt(n / m2) * (m[M3] / m2)


def _kurtosis(xp: Any, n: Any, m: Any) -> Any:
    m2 = xp.where(m[M2] > 0, m[M2], math.nan)
    return n * (m[M4] / m2) / m2 - 3.0


_DERIVED = {
    "abs_max": _abs_max,
    "var": _var,
    "std": _std,
    "rms": _rms,
    "l2": _l2,
    "skewness": _skewness,
    "kurtosis": _kurtosis,
}


def _merged(xp: Any, a: Any, n_a: Any, b: Any, n_b: Any) -> list[Any]:
    """Merge moments as csrc/math/stats/moments.h does, operation by operation: the same bits.

    Source: Pebay 2008, SAND2008-6212.
    """
    n = n_a + n_b
    safe_n = xp.where(n > 0, n, 1.0)
    share_a, share_b = n_a / safe_n, n_b / safe_n
    d = b[MEAN] - a[MEAN]
    weight, d2 = n_a * share_b, d * d
    central = (
        a[MEAN] + d * share_b,
        (a[M2] + b[M2]) + weight * d2,
        (a[M3] + b[M3])
        + (weight * (share_a - share_b) * d2 * d + 3 * d * (share_a * b[M2] - share_b * a[M2])),
        (a[M4] + b[M4])
        + (
            weight * ((share_a * share_a - share_a * share_b) + share_b * share_b) * d2 * d2
            + (
                6 * d2 * (share_a * share_a * b[M2] + share_b * share_b * a[M2])
                + 4 * d * (share_a * b[M3] - share_b * a[M3])
            )
        ),
    )
    no_a, no_b = n_a == 0, n_b == 0
    return [
        *[xp.where(no_b, a[i], xp.where(no_a, b[i], x)) for i, x in enumerate(central)],
        a[L1] + b[L1],
        xp.fmin(a[MIN], b[MIN]),
        xp.fmax(a[MAX], b[MAX]),
        xp.fmin(a[MIN_ABS], b[MIN_ABS]),
    ]


def _finite(counts: Any) -> Any:
    return counts[COUNT] - counts[NAN] - counts[POS_INF] - counts[NEG_INF]


# ---- one record, and many


class RecordRow:
    """The numbers of one record on the host.

    Args:
        moments: Mean, m2, m3, m4, l1, min, max, min_abs.
        counts: Count, nan, pos_inf, neg_inf, zero, fingerprint, and two more.
        places: Counts of the histogram, `[2, 256 << scale]` in any shape, or a function that
            returns them, called once and late; None without.
        scale: Scale of the histogram.
    """

    __slots__ = ("_histogram", "_places", "_scale", "counts", "moments")

    def __init__(
        self,
        moments: Sequence[float],
        counts: Sequence[int],
        places: Integers | Callable[[], Integers] | None = None,
        scale: int = 0,
    ) -> None:
        self.moments, self.counts = moments, counts
        self._places, self._scale = places, scale
        self._histogram: Histogram | None = None

    @property
    def scale(self) -> int:
        """Scale of the histogram, 0 without."""
        return self._scale

    @property
    def histogram(self) -> Histogram:
        """The histogram; there must be one."""
        if self._histogram is None:
            assert self._places is not None
            _, _, pos_inf, neg_inf, zero = self.counts[: ZERO + 1]
            places = self._places() if callable(self._places) else self._places
            self._histogram = Histogram(self._scale, places.reshape(2, -1), zero, pos_inf, neg_inf)
        return self._histogram

    def derive(self, name: str) -> float:
        """Compute a property of `initstats.Stats` that is no column."""
        value: float = _DERIVED[name](_Scalars, float(_finite(self.counts)), self.moments)
        return value

    def merge(self, other: RecordRow) -> RecordRow:
        """Return the numbers of the elements of both."""
        n, m = float(_finite(self.counts)), float(_finite(other.counts))
        moments = _merged(_Scalars, self.moments, n, other.moments, m)
        counts = [x + y for x, y in zip(self.counts, other.counts, strict=True)]
        if self._places is None or other._places is None:
            return RecordRow(moments, counts)
        histogram = self.histogram.merge(other.histogram)
        return RecordRow(moments, counts, histogram.counts, histogram.scale)


_FEW = 512  # kFewElements of csrc/cpu/stats/stats.h


class _PackedHistograms:
    """The histograms of a direct call, Note [Direct records] of csrc/ops/direct.h.

    Args:
        packed: A row for each record: of at most `_FEW` elements the uint16 place of each, padded
            to 8 bytes, otherwise the int64 counts.
        counts: Counts of each record.
        scale: Of the histograms.
    """

    def __init__(self, packed: bytes, counts: Sequence[Sequence[int]], scale: int) -> None:
        self._packed, self._counts, self._scale = packed, counts, scale
        self._starts: Sequence[int] = ()

    def row(self, i: int) -> Integers:
        """Return the counts of histogram i, `[512 << scale]`."""
        places = 512 << self._scale
        if not self._starts:
            sizes = [
                -(-count[COUNT] // 4) * 8 if count[COUNT] <= _FEW else 8 * places
                for count in self._counts
            ]
            self._starts = [0, *accumulate(sizes)]
        count, start = self._counts[i][COUNT], self._starts[i]
        if count > _FEW:
            return np.frombuffer(self._packed, np.int64, places, start)
        of_elements = np.frombuffer(self._packed, np.uint16, count, start)
        return np.bincount(of_elements, minlength=places)[:places]  # beyond are those in no bucket


class Batch:
    """The records of one launch, on the device of their tensors until somebody reads one.

    Args:
        rows: Moments float64 `[n, 8]`, counts int64 `[n, 8]` and, with that group, histogram int64
            `[n, 512 << scale]`; as tensors, or as the bytes of a direct call, Note [Direct
            records].
        groups: Sum of `Groups`.
        scale: Of the histogram.
        spreads: For each record that of its DTensor, None for a plain tensor; empty for all plain.
    """

    __slots__ = (
        "_counts",
        "_moments",
        "_packed",
        "_places",
        "_unread",
        "groups",
        "scale",
        "spreads",
    )

    def __init__(
        self,
        rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | tuple[bytes, bytes, bytes],
        groups: int,
        scale: int,
        spreads: Sequence[Spread | None] = (),
    ) -> None:
        self.spreads = spreads
        self.groups = groups
        self.scale = scale
        self._unread: tuple[Any, Any, Any] | None = rows
        self._moments: Sequence[Sequence[float]] = ()
        self._counts: Sequence[Sequence[int]] = ()
        self._places: Integers | None = None
        self._packed: _PackedHistograms | None = None

    def _read(self, rows: tuple[Any, Any, Any]) -> None:
        moments, counts, places = rows
        if not isinstance(moments, bytes):
            self._moments, self._counts = moments.cpu().tolist(), counts.cpu().tolist()
            if self.groups & Groups.HISTOGRAM:
                self._places = places.cpu().numpy()
        else:
            self._moments = list(_MOMENTS.iter_unpack(moments))
            self._counts = list(_COUNTS.iter_unpack(counts))
            if self.groups & Groups.HISTOGRAM:
                self._packed = _PackedHistograms(places, self._counts, self.scale)
        self._unread = None

    def row(self, i: int) -> RecordRow:
        """Read row i; the first call transfers all rows."""
        if self._unread is not None:
            self._read(self._unread)
        places: Integers | Callable[[], Integers] | None = None
        if self._packed is not None:
            places = partial(self._packed.row, i)
        elif self._places is not None:
            places = self._places[i]
        return RecordRow(self._moments[i], self._counts[i], places, self.scale)


@dataclass(frozen=True, eq=False)
class Records:
    """Records of many tensors, as NumPy arrays or as torch tensors on any device.

    Attributes:
        moments: float64 `[..., 8]`: mean, m2, m3, m4, l1, min, max, min_abs.
        counts: int64 `[..., 8]`: count, nan, pos_inf, neg_inf, zero, fingerprint, and two more.
    """

    moments: Any
    counts: Any

    @classmethod
    def empty(cls, *shape: int) -> Records:
        """Return records of no elements, which change nothing when merged.

        Args:
            *shape: Shape of the records.
        """
        moments = np.zeros((*shape, _COLUMNS))
        moments[..., [MEAN, MIN, MAX, MIN_ABS]] = math.nan
        return cls(moments, np.zeros((*shape, _COLUMNS), dtype=np.int64))

    @property
    def finite(self) -> Any:
        """Number of finite elements, int64 `[...]`."""
        return _finite(_columns(self.counts))

    def __getitem__(self, index: Any) -> Records:
        return Records(self.moments[index], self.counts[index])

    def column(self, name: str) -> Any:
        """Compute one property of `initstats.Stats` for every record.

        Args:
            name: One of `initstats.statistics.record.FIELDS`, "count" or "finite".

        Returns:
            float64 `[...]`; NaN where the property is not defined.
        """
        if name in MOMENT_NAMES:
            return self.moments[..., MOMENT_NAMES.index(name)]
        if name in COUNT_NAMES:
            return _as_float(self.counts[..., COUNT_NAMES.index(name)])
        n = _as_float(self.finite)
        if name == "finite":
            return n
        if name not in _DERIVED:
            hint = nearest(name, [*MOMENT_NAMES, *COUNT_NAMES, "finite", *_DERIVED])
            msg = f"initstats.statistics: expected a field of Stats, got name={name!r}{hint}"
            raise ValueError(msg)
        with np.errstate(all="ignore"):
            return _DERIVED[name](self._namespace, n, _columns(self.moments))

    def merge(self, other: Records) -> Records:
        """Merge with as many records, one by one."""
        xp, a, b = self._namespace, _columns(self.moments), _columns(other.moments)
        n_a, n_b = _as_float(self.finite), _as_float(other.finite)
        with np.errstate(all="ignore"):
            moments = xp.stack(_merged(xp, a, n_a, b, n_b), -1)
        return Records(moments, self.counts + other.counts)

    def merge_first_axis(self) -> Records:
        """Merge records `[k, ...]` over their first axis by halving, k >= 1, to `[...]`."""
        records, xp = self, self._namespace
        while (k := len(records.moments)) > 1:
            half = k // 2
            merged = records[:half].merge(records[half : 2 * half])
            if k % 2:
                merged = Records(
                    xp.concatenate((merged.moments, records.moments[-1:])),
                    xp.concatenate((merged.counts, records.counts[-1:])),
                )
            records = merged
        return records[0]

    def scaled(self, factor: Floats) -> Records:
        """Return the NumPy records of the same elements times a factor.

        Args:
            factor: float64 `[k]` for records `[k, ...]`, finite and > 0; a power of two makes the
                result exact.
        """
        by = factor.reshape(-1, *(1,) * (self.moments.ndim - 2))
        powers = (1, 2, 3, 4, 1, 1, 1, 1)  # of the moments, in their order
        return Records(self.moments * np.stack([by**power for power in powers], -1), self.counts)

    @property
    def _namespace(self) -> Any:
        return torch if isinstance(self.moments, torch.Tensor) else np


def _columns(rows: Any) -> Any:
    if isinstance(rows, torch.Tensor):
        return rows.unbind(-1)
    return [rows[..., i] for i in range(_COLUMNS)]


def _as_float(counts: Any) -> Any:
    return counts.double() if isinstance(counts, torch.Tensor) else counts.astype(np.float64)
