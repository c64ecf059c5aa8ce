"""The numbers of a record: on the device as the kernels left them, on the host, and merged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from initstats.statistics.histogram import Histogram

_MODULUS = 1 << 64


class Groups:
    """What a record holds, as a sum of these. Counts and moments come with the histogram."""

    MOMENTS = 1
    HISTOGRAM = 2
    FINGERPRINT = 4
    COUNTED = MOMENTS | HISTOGRAM


@dataclass(frozen=True)
class Row:
    """The numbers of one record on the host."""

    count: int
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    zero: int = 0
    fingerprint: int = 0
    mean: float = math.nan
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    l1: float = 0.0
    min: float = math.nan
    max: float = math.nan
    min_abs: float = math.nan
    histogram: Histogram | None = None

    @property
    def finite(self) -> int:
        """The number of finite elements."""
        return self.count - self.nan - self.pos_inf - self.neg_inf


class Batch:
    """The records of one launch, on the device of their tensors until somebody reads one."""

    def __init__(
        self,
        moments: torch.Tensor,
        counts: torch.Tensor,
        histogram: torch.Tensor,
        groups: int,
        scale: int,
    ) -> None:
        self.groups = groups
        self.scale = scale
        self._device_rows: tuple[torch.Tensor, ...] | None = (moments, counts, histogram)
        self._moments: list[list[float]] = []
        self._counts: list[list[int]] = []
        self._histogram: npt.NDArray[np.int64] | None = None

    def row(self, i: int) -> Row:
        """Read row i; the first call transfers all rows."""
        if self._device_rows is not None:
            moments, counts, places = (rows.cpu() for rows in self._device_rows)
            self._moments, self._counts = moments.tolist(), counts.tolist()
            if self.groups & Groups.HISTOGRAM:
                self._histogram = places.numpy()
            self._device_rows = None
        count, nan, pos_inf, neg_inf, zero, fingerprint = self._counts[i][:6]
        mean, m2, m3, m4, l1, low, high, min_abs = self._moments[i]
        histogram = None
        if self._histogram is not None:
            signs = self._histogram[i].reshape(2, -1)
            histogram = Histogram(self.scale, signs, zero, pos_inf, neg_inf)
        return Row(
            count=count,
            nan=nan,
            pos_inf=pos_inf,
            neg_inf=neg_inf,
            zero=zero,
            fingerprint=fingerprint % _MODULUS,
            mean=mean,
            m2=m2,
            m3=m3,
            m4=m4,
            l1=l1,
            min=low,
            max=high,
            min_abs=min_abs,
            histogram=histogram,
        )


def merge_rows(a: Row, b: Row) -> Row:
    """Return the numbers of the elements of both."""
    mean, m2, m3, m4 = _merge_moments(a, b)
    histogram = a.histogram.merge(b.histogram) if a.histogram and b.histogram else None
    return Row(
        count=a.count + b.count,
        nan=a.nan + b.nan,
        pos_inf=a.pos_inf + b.pos_inf,
        neg_inf=a.neg_inf + b.neg_inf,
        zero=a.zero + b.zero,
        fingerprint=(a.fingerprint + b.fingerprint) % _MODULUS,
        mean=mean,
        m2=m2,
        m3=m3,
        m4=m4,
        l1=a.l1 + b.l1,
        min=_first_of(min, a.min, b.min),
        max=_first_of(max, a.max, b.max),
        min_abs=_first_of(min, a.min_abs, b.min_abs),
        histogram=histogram,
    )


def _first_of(choose: Callable[[float, float], float], a: float, b: float) -> float:
    return b if math.isnan(a) else a if math.isnan(b) else choose(a, b)


def _merge_moments(a: Row, b: Row) -> tuple[float, float, float, float]:
    """Merge as csrc/math/stats/moments.h does, operation by operation: the same bits."""
    if b.finite == 0:
        return a.mean, a.m2, a.m3, a.m4
    if a.finite == 0:
        return b.mean, b.m2, b.m3, b.m4
    n = float(a.finite) + float(b.finite)
    share_a, share_b = a.finite / n, b.finite / n
    d = b.mean - a.mean
    weight = a.finite * share_b
    d2 = d * d
    mean = a.mean + d * share_b
    m2 = (a.m2 + b.m2) + weight * d2
    m3 = (a.m3 + b.m3) + (
        weight * (share_a - share_b) * d2 * d + 3 * d * (share_a * b.m2 - share_b * a.m2)
    )
    m4 = (a.m4 + b.m4) + (
        weight * ((share_a * share_a - share_a * share_b) + share_b * share_b) * d2 * d2
        + (
            6 * d2 * (share_a * share_a * b.m2 + share_b * share_b * a.m2)
            + 4 * d * (share_a * b.m3 - share_b * a.m3)
        )
    )
    return mean, m2, m3, m4
