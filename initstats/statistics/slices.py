"""Records of the slices of one tensor, units or channels, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from initstats.statistics.record import Stats
from initstats.statistics.record_array import Batch, Groups

_MEAN, _M2, _M3, _M4, _L1, _MIN, _MAX, _MIN_ABS = range(8)
_COUNT, _NAN, _POS_INF, _NEG_INF, _ZERO = range(5)


class SliceStats:
    """One record per slice: each field is a tensor of `shape`, on the device of the tensor.

    What `Stats` says of its fields holds of each element; nothing waits for the device. Counts are
    int64, all else is float64. `slices[i]` (or `slices[i, j]`) is the `Stats` of one slice.

    Determinism: bitwise, on any device and with any number of threads or CPU capability.
    Source: Pebay 2008, SAND2008-6212, for moments that merge.
    """

    def __init__(self, moments: Tensor, counts: Tensor, shape: tuple[int, ...]) -> None:
        self.moment_rows, self.count_rows = moments, counts
        self.shape = torch.Size(shape)

    def __len__(self) -> int:
        if not self.shape:
            msg = "initstats.SliceStats: expected a kept dimension for len(), got none"
            raise TypeError(msg)
        return self.shape[0]

    def __getitem__(self, index: int | tuple[int, ...]) -> Stats:
        numbers = index if isinstance(index, tuple) else (index,)
        if len(numbers) != len(self.shape):
            msg = (
                f"initstats.SliceStats: expected one index per kept dimension, {len(self.shape)},"
                f" got {index}"
            )
            raise IndexError(msg)
        row = 0
        for number, size in zip(numbers, self.shape, strict=True):
            if not -size <= number < size:
                shape = tuple(self.shape)
                msg = f"initstats.SliceStats: expected an index inside {shape}, got {index}"
                raise IndexError(msg)
            row = row * size + number % size
        rows = self.moment_rows[row : row + 1], self.count_rows[row : row + 1]
        no_histogram = torch.empty(0, 0, dtype=torch.int64, device=self.count_rows.device)
        return Stats(Batch(*rows, no_histogram, Groups.MOMENTS, 0))

    def _moment(self, column: int) -> Tensor:
        return self.moment_rows[:, column].reshape(self.shape)

    def _number(self, column: int) -> Tensor:
        return self.count_rows[:, column].reshape(self.shape)

    @property
    def count(self) -> Tensor:
        """The numbers of elements, finite or not."""
        return self._number(_COUNT)

    @property
    def nan(self) -> Tensor:
        """The numbers of NaN."""
        return self._number(_NAN)

    @property
    def pos_inf(self) -> Tensor:
        """The numbers of +inf."""
        return self._number(_POS_INF)

    @property
    def neg_inf(self) -> Tensor:
        """The numbers of -inf."""
        return self._number(_NEG_INF)

    @property
    def zero(self) -> Tensor:
        """The numbers of zeros of either sign."""
        return self._number(_ZERO)

    @property
    def finite(self) -> Tensor:
        """The numbers of finite elements."""
        return self.count - self.nan - self.pos_inf - self.neg_inf

    @property
    def min(self) -> Tensor:
        """The smallest finite elements."""
        return self._moment(_MIN)

    @property
    def max(self) -> Tensor:
        """The largest finite elements."""
        return self._moment(_MAX)

    @property
    def min_abs(self) -> Tensor:
        """The smallest sizes of finite elements other than zero."""
        return self._moment(_MIN_ABS)

    @property
    def abs_max(self) -> Tensor:
        """The largest sizes of finite elements."""
        return torch.maximum(self.min.abs(), self.max.abs())

    @property
    def mean(self) -> Tensor:
        """The means."""
        return self._moment(_MEAN)

    @property
    def var(self) -> Tensor:
        """The unbiased variances (denominator n - 1, as torch)."""
        n = self.finite
        return torch.where(n > 1, self._moment(_M2) / (n - 1).clamp(min=1), torch.nan)

    @property
    def std(self) -> Tensor:
        """The square roots of the unbiased variances, as torch."""
        return self.var.sqrt()

    @property
    def rms(self) -> Tensor:
        """The roots of the mean squares."""
        n = self.finite
        spread = (self._moment(_M2) / n.clamp(min=1)).sqrt()
        return torch.where(n > 0, torch.hypot(spread, self.mean), torch.nan)

    @property
    def l1(self) -> Tensor:
        """The sums of sizes."""
        return self._moment(_L1)

    @property
    def l2(self) -> Tensor:
        """The Euclidean norms."""
        n = self.finite
        return torch.where(n > 0, self.rms * n.sqrt(), 0.0)

    @property
    def skewness(self) -> Tensor:
        """The third standardised moments (population, as scipy's default)."""
        m2 = self._moment(_M2)
        return torch.where(m2 > 0, (self.finite / m2).sqrt() * (self._moment(_M3) / m2), torch.nan)

    @property
    def kurtosis(self) -> Tensor:
        """The excess kurtosis: 0 for a normal distribution (population, as scipy's default)."""
        m2 = self._moment(_M2)
        return torch.where(m2 > 0, self.finite * (self._moment(_M4) / m2) / m2 - 3, torch.nan)

    def merge(self, other: SliceStats) -> SliceStats:
        """Return the records of the elements of both, slice by slice.

        Args:
            other: slices of the same shape.

        Raises:
            ValueError: If the shapes differ.
        """
        if self.shape != other.shape:
            msg = (
                f"initstats.SliceStats.merge: expected slices of shape {tuple(self.shape)}, got"
                f" {tuple(other.shape)}"
            )
            raise ValueError(msg)
        return SliceStats(
            _merge_moments(self, other), self.count_rows + other.count_rows, tuple(self.shape)
        )

    def __repr__(self) -> str:
        return f"SliceStats(shape={tuple(self.shape)}, device={self.count_rows.device})"


def _merge_moments(first: SliceStats, second: SliceStats) -> Tensor:
    """Merge as csrc/math/stats/moments.h does, operation by operation: the same bits on the CPU."""
    a, b = first.moment_rows.unbind(1), second.moment_rows.unbind(1)
    n_a, n_b = first.finite.reshape(-1).double(), second.finite.reshape(-1).double()
    n = n_a + n_b
    safe_n = n.clamp(min=1)
    share_a, share_b = n_a / safe_n, n_b / safe_n
    d = b[_MEAN] - a[_MEAN]
    weight, d2 = n_a * share_b, d * d
    mean = a[_MEAN] + d * share_b
    m2 = (a[_M2] + b[_M2]) + weight * d2
    m3 = (a[_M3] + b[_M3]) + (
        weight * (share_a - share_b) * d2 * d + 3 * d * (share_a * b[_M2] - share_b * a[_M2])
    )
    m4 = (a[_M4] + b[_M4]) + (
        weight * ((share_a * share_a - share_a * share_b) + share_b * share_b) * d2 * d2
        + (
            6 * d2 * (share_a * share_a * b[_M2] + share_b * share_b * a[_M2])
            + 4 * d * (share_a * b[_M3] - share_b * a[_M3])
        )
    )
    merged = [mean, m2, m3, m4]
    for column in (_MEAN, _M2, _M3, _M4):
        merged[column] = torch.where(
            n_b == 0, a[column], torch.where(n_a == 0, b[column], merged[column])
        )
    return torch.stack(
        [
            *merged,
            a[_L1] + b[_L1],
            torch.fmin(a[_MIN], b[_MIN]),
            torch.fmax(a[_MAX], b[_MAX]),
            torch.fmin(a[_MIN_ABS], b[_MIN_ABS]),
        ],
        dim=1,
    )
