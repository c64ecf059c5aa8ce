"""Records of the slices of one tensor, units or channels, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from initstats.statistics.record import Stats
from initstats.statistics.record_array import (
    COUNT,
    NAN,
    NEG_INF,
    POS_INF,
    ZERO,
    Batch,
    Groups,
    Records,
)


class SliceStats:
    """One record per slice: each field is a tensor of `shape`, on the device of the tensor.

    What `Stats` says of its fields holds of each element; nothing waits for the device. Counts are
    int64, all else is float64. `slices[i]` (or `slices[i, j]`) is the `Stats` of one slice.

    Determinism: bitwise, on any device and with any number of threads or CPU capability.
    Source: Pebay 2008, SAND2008-6212, for moments that merge.
    """

    def __init__(self, moments: Tensor, counts: Tensor, shape: tuple[int, ...]) -> None:
        self.moment_rows, self.count_rows = moments, counts
        self._records = Records(moments, counts)
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
        return Stats(Batch((*rows, no_histogram), Groups.MOMENTS, 0))

    def _number(self, column: int) -> Tensor:
        return self.count_rows[:, column].reshape(self.shape)

    def _field(self, name: str) -> Tensor:
        values: Tensor = self._records.column(name)
        return values.reshape(self.shape)

    @property
    def count(self) -> Tensor:
        """The numbers of elements, finite or not."""
        return self._number(COUNT)

    @property
    def nan(self) -> Tensor:
        """The numbers of NaN."""
        return self._number(NAN)

    @property
    def pos_inf(self) -> Tensor:
        """The numbers of +inf."""
        return self._number(POS_INF)

    @property
    def neg_inf(self) -> Tensor:
        """The numbers of -inf."""
        return self._number(NEG_INF)

    @property
    def zero(self) -> Tensor:
        """The numbers of zeros of either sign."""
        return self._number(ZERO)

    @property
    def finite(self) -> Tensor:
        """The numbers of finite elements."""
        finite: Tensor = self._records.finite
        return finite.reshape(self.shape)

    @property
    def min(self) -> Tensor:
        """The smallest finite elements."""
        return self._field("min")

    @property
    def max(self) -> Tensor:
        """The largest finite elements."""
        return self._field("max")

    @property
    def min_abs(self) -> Tensor:
        """The smallest sizes of finite elements other than zero."""
        return self._field("min_abs")

    @property
    def abs_max(self) -> Tensor:
        """The largest sizes of finite elements."""
        return self._field("abs_max")

    @property
    def mean(self) -> Tensor:
        """The means."""
        return self._field("mean")

    @property
    def var(self) -> Tensor:
        """The unbiased variances (denominator n - 1, as torch)."""
        return self._field("var")

    @property
    def std(self) -> Tensor:
        """The square roots of the unbiased variances, as torch."""
        return self._field("std")

    @property
    def rms(self) -> Tensor:
        """The roots of the mean squares."""
        return self._field("rms")

    @property
    def l1(self) -> Tensor:
        """The sums of sizes."""
        return self._field("l1")

    @property
    def l2(self) -> Tensor:
        """The Euclidean norms."""
        return self._field("l2")

    @property
    def skewness(self) -> Tensor:
        """The third standardised moments (population, as scipy's default)."""
        return self._field("skewness")

    @property
    def kurtosis(self) -> Tensor:
        """The excess kurtosis: 0 for a normal distribution (population, as scipy's default)."""
        return self._field("kurtosis")

    def merge(self, other: SliceStats) -> SliceStats:
        """Return the records of the elements of both, slice by slice.

        Args:
            other: Slices of the same shape.

        Raises:
            ValueError: If the shapes differ.
        """
        if self.shape != other.shape:
            msg = (
                f"initstats.SliceStats.merge: expected slices of shape {tuple(self.shape)}, got"
                f" {tuple(other.shape)}"
            )
            raise ValueError(msg)
        merged = self._records.merge(other._records)
        return SliceStats(merged.moments, merged.counts, tuple(self.shape))

    def __repr__(self) -> str:
        return f"SliceStats(shape={tuple(self.shape)}, device={self.count_rows.device})"
