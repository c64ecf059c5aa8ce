"""Arithmetic on the records of many tensors at once, as arrays with one row per record."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Columns of the arrays, as csrc/math/stats/moments.h writes them.
MEAN, M2, M3, M4, L1, MIN, MAX, MIN_ABS = range(8)
COUNT, NAN, POS_INF, NEG_INF, ZERO, FINGERPRINT = range(6)
_COLUMNS = 8
# Place of the bucket (1, 2] among those of one sign, at scale 0.
_BIAS = 127
# What is followed through a window, beside the merged record.
WINDOWED = ("mean", "std", "rms", "l2", "abs_max")


@dataclass(frozen=True, eq=False)
class Records:
    """Records of many tensors.

    Attributes:
        moments: float64 `[..., 8]`: mean, m2, m3, m4, l1, min, max, min_abs.
        counts: int64 `[..., 8]`: count, nan, pos_inf, neg_inf, zero, and three more.
    """

    moments: Floats
    counts: Integers

    @property
    def finite(self) -> Integers:
        """Number of finite elements, `[...]`."""
        c = self.counts
        finite: Integers = c[..., COUNT] - c[..., NAN] - c[..., POS_INF] - c[..., NEG_INF]
        return finite

    def __getitem__(self, index: Any) -> Records:
        return Records(self.moments[index], self.counts[index])

    def column(self, name: str) -> Floats:
        """Compute one property of `initstats.Stats` for every record.

        Args:
            name: One of `initstats.statistics.record.FIELDS`, "count" or "finite".

        Returns:
            float64 `[...]`; NaN where the property is not defined.
        """
        m = self.moments
        simple = {"mean": MEAN, "l1": L1, "min": MIN, "max": MAX, "min_abs": MIN_ABS}
        if name in simple:
            return m[..., simple[name]]
        whole = {"count": COUNT, "nan": NAN, "pos_inf": POS_INF, "neg_inf": NEG_INF, "zero": ZERO}
        if name in whole:
            return self.counts[..., whole[name]].astype(np.float64)
        if name == "abs_max":
            return np.maximum(np.abs(m[..., MIN]), np.abs(m[..., MAX]))
        n = self.finite.astype(np.float64)
        with np.errstate(all="ignore"):
            return self._derived(name, n)

    def _derived(self, name: str, n: Floats) -> Floats:
        m = self.moments
        if name in {"var", "std"}:
            var = np.where(n > 1, m[..., M2] / (n - 1), math.nan)
            return var if name == "var" else np.sqrt(var)
        if name in {"rms", "l2"}:
            rms = np.hypot(np.sqrt(m[..., M2] / n), m[..., MEAN])
            return rms if name == "rms" else np.where(n > 0, rms * np.sqrt(n), 0.0)
        spread = np.where((n > 0) & (m[..., M2] > 0), m[..., M2], math.nan)
        if name == "skewness":
            skewness: Floats = np.sqrt(n / spread) * (m[..., M3] / spread)
            return skewness
        if name == "kurtosis":
            kurtosis: Floats = n * (m[..., M4] / spread) / spread - 3.0
            return kurtosis
        if name == "finite":
            return n
        msg = f"initstats.monitoring: expected a field of Stats, got name={name!r}"
        raise ValueError(msg)


def empty(*shape: int) -> Records:
    """Return records of no elements, which change nothing when merged.

    Args:
        *shape: Shape of the records.
    """
    moments = np.zeros((*shape, _COLUMNS))
    moments[..., [MEAN, MIN, MAX, MIN_ABS]] = math.nan
    return Records(moments, np.zeros((*shape, _COLUMNS), dtype=np.int64))


def merge(a: Records, b: Records) -> Records:
    """Merge two sets of records, one by one.

    Args:
        a: Records `[...]`.
        b: Records `[...]`.

    Returns:
        Records of the elements of both.

    Source: Pebay 2008, SAND2008-6212, as `merge_central` of csrc/math/stats/moments.h.
    """
    na, nb = a.finite.astype(np.float64), b.finite.astype(np.float64)
    n = na + nb
    safe = np.where(n > 0, n, 1.0)
    mean_a = np.where(na > 0, a.moments[..., MEAN], np.where(nb > 0, b.moments[..., MEAN], 0.0))
    mean_b = np.where(nb > 0, b.moments[..., MEAN], mean_a)
    share_a, share_b = na / safe, nb / safe
    d = mean_b - mean_a
    weight = na * share_b
    d2 = d * d
    out = np.empty_like(a.moments)
    _, a2, a3, a4 = (a.moments[..., i] for i in (MEAN, M2, M3, M4))
    _, b2, b3, b4 = (b.moments[..., i] for i in (MEAN, M2, M3, M4))
    out[..., MEAN] = np.where(n > 0, mean_a + d * share_b, math.nan)
    out[..., M2] = (a2 + b2) + weight * d2
    out[..., M3] = (a3 + b3) + (
        weight * (share_a - share_b) * d2 * d + 3 * d * (share_a * b2 - share_b * a2)
    )
    out[..., M4] = (a4 + b4) + (
        weight * ((share_a * share_a - share_a * share_b) + share_b * share_b) * d2 * d2
        + (
            6 * d2 * (share_a * share_a * b2 + share_b * share_b * a2)
            + 4 * d * (share_a * b3 - share_b * a3)
        )
    )
    out[..., L1] = a.moments[..., L1] + b.moments[..., L1]
    for column, choose in ((MIN, np.fmin), (MAX, np.fmax), (MIN_ABS, np.fmin)):
        out[..., column] = choose(a.moments[..., column], b.moments[..., column])
    return Records(out, a.counts + b.counts)


def merge_first_axis(records: Records) -> Records:
    """Merge records `[k, ...]` over their first axis by halving, k >= 1, to `[...]`."""
    while records.moments.shape[0] > 1:
        k = records.moments.shape[0]
        half = k // 2
        merged = merge(records[:half], records[half : 2 * half])
        if k % 2:
            rest = records[2 * half :]
            merged = Records(
                np.concatenate((merged.moments, rest.moments)),
                np.concatenate((merged.counts, rest.counts)),
            )
        records = merged
    return records[0]


def scaled(records: Records, factor: Floats) -> Records:
    """Return the records of the same elements times a factor.

    Args:
        records: Records `[k, ...]`.
        factor: float64 `[k]`, finite and > 0; a power of two makes the result exact.
    """
    by = factor.reshape(-1, *(1,) * (records.moments.ndim - 2))
    moments = records.moments.copy()
    for column, power in ((MEAN, 1), (M2, 2), (M3, 3), (M4, 4), (L1, 1), (MIN, 1), (MAX, 1)):
        moments[..., column] *= by**power
    moments[..., MIN_ABS] *= by
    return replace(records, moments=moments)


def shifted_places(places: Integers, powers: int, scale: int) -> Integers:
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
