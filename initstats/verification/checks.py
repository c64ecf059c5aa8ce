"""Check one measured piece of a parameter against its distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Computed, Constant, Derived, NormalisedRows, Orthogonal, Transformed
from initstats.statistics.record import Stats
from initstats.statistics.record_array import Groups
from initstats.verification.causes import (
    Cause,
    cause_of_bounds,
    cause_of_constant,
    cause_of_std,
    cause_of_values,
)
from initstats.verification.confidence import Band, mean_band, std_band
from initstats.verification.entry import VerifyEntry
from initstats.verification.exact_values import (
    distribution_problem,
    moments_problem,
    norms_problem,
    values_problem,
)
from initstats.verification.segments import random_bits
from initstats.verification.shape_tests import extremes_problem, histogram_problem
from initstats.verification.values import Values

_NO_CAUSE = Cause("", "")
_INIT_LAST = "call initstats.init_ with this recipe last"
_TRUNCATED = Cause("another distribution of the same mean and std", _INIT_LAST)
_NOT_NORMALISED = Cause(
    "random, but rows were not divided by their norms", "use initstats.recipes.NormalisedRows"
)
_ONE_VALUE = Cause(
    "single values were overwritten or corrupted; all others are as promised", _INIT_LAST
)


_FEW_VALUES = Cause(
    "a few values were overwritten or corrupted; all others are as promised", _INIT_LAST
)
_ZEROS = Cause("a block was never written, set to 0, or pruned", _INIT_LAST)
_FAR = 10.0  # standard deviations: further than any value of a right sample


@dataclass(frozen=True)
class Judge:
    """The false-alarm rate of each check, and the distributions of the model's rules.

    Attributes:
        rate: Chance of a false alarm of one check.
        z: Half width of two-sided bands in standard errors.
        promises: Label and standard deviation of the rules in the model.
        values: Where the measured values may be looked at again; None where they are gone.
    """

    rate: float
    z: float
    promises: Sequence[tuple[str, float]]
    values: Values | None = None

    def entry(self, entry: PlanEntry, piece: Piece, record: Stats) -> VerifyEntry:
        """Compare the record of a piece with its promise.

        Args:
            entry: The parameter.
            piece: The piece.
            record: Its record, with moments; histogram and fingerprint are used if taken.

        Returns:
            The verdict.
        """
        sample = sample_of(entry, piece, record)
        distribution = piece.distribution
        if isinstance(distribution, Constant):
            # The stored value is the promised one, rounded to the parameter's dtype.
            value = _rounded(distribution.value, piece.dtype)
            means, stds = Band(value, value), Band(0.0, 0.0)
        elif isinstance(distribution, (Computed, Derived)):
            means, stds, _ = moments_problem(piece, record)
        else:
            means = mean_band(distribution, sample.count, self.z)
            stds = std_band(distribution, sample.count, self.z)
        zeros = zeros_problem(entry, piece, record, sample, self.rate, self.values)
        kind, problem, cause = (
            ("zeros", zeros, _ZEROS)
            if zeros
            else self._problem(entry, piece, record, sample, means, stds)
        )
        return VerifyEntry(
            name=piece.name,
            rule=entry.rule,
            distribution=str(distribution),
            count=sample.count,
            mean=sample.mean,
            std=sample.std,
            expected_mean=distribution.mean,
            expected_std=distribution.std,
            mean_band=means,
            std_band=stds,
            problem=problem,
            kind=kind,
            cause=cause.cause,
            fix=cause.fix,
        )

    def _problem(
        self,
        entry: PlanEntry,
        piece: Piece,
        record: Stats,
        sample: Sample,
        means: Band,
        stds: Band,
    ) -> tuple[str, str, Cause]:
        """Return the kind of problem, the problem in words and its cause; empty ones for none."""
        distribution = piece.distribution
        words, cause = not_finite(record)
        if words:
            return "not finite", words, cause
        if isinstance(distribution, (Constant, Computed, Derived)):
            return self._values(entry, piece, record)
        if _is_one_value(piece, record, sample, self.rate):
            return (
                "constant",
                f"{record.min:g} everywhere, expected {distribution}",
                cause_of_constant(record),
            )
        low, high = distribution.bounds
        # A bound may be missed by the rounding of the bound itself to the parameter's dtype.
        slack = torch.finfo(piece.dtype).eps
        outside = self._is_outside(piece, record, slack)
        # Of few values, rounding changes the std too.
        rounding = slack * max(abs(record.min), abs(record.max)) / math.sqrt(sample.count)
        if sample.count > 1 and not stds.low - rounding <= sample.std <= stds.high + rounding:
            ratio = sample.std / distribution.std
            words = f"std {sample.std:.4g}, expected {distribution.std:.4g} (x {ratio:.3g})"
            tolerance = max(1.5 * (stds.high / distribution.std - 1), 0.01)
            # The std of these is the same for every draw: no single value makes it wrong.
            fixed = isinstance(distribution, (Orthogonal, NormalisedRows))
            without = None if fixed else _without_farthest(record, sample)
            if without is not None and stds.holds(without):
                far = max(abs(record.min), abs(record.max))
                words = f"a value of {far:.4g} among {sample.count} of {distribution}"
                return ("bounds" if outside else "extremes"), words, _ONE_VALUE
            if not fixed and self._only_few_are_off(piece, record, sample):
                far = max(abs(record.min), abs(record.max))
                words = f"values of up to {far:.4g} among {sample.count} of {distribution}"
                return ("bounds" if outside else "extremes"), words, _FEW_VALUES
            cause = cause_of_std(entry, piece, sample.std, tolerance, self.promises)
            if not outside:
                return "std", words, cause
            words = f"values outside [{low:g}, {high:g}]: {record.min:.4g} to {record.max:.4g}"
            return "bounds", words, cause
        if outside:
            words = f"values outside [{low:g}, {high:g}]: {record.min:.4g} to {record.max:.4g}"
            return "bounds", words, cause_of_bounds(distribution)
        if not means.holds(sample.mean):
            words = f"mean {sample.mean:.3g}, expected {distribution.mean:.3g}"
            return "mean", words, Cause("a shift was added, or all signs are equal", "centre it")
        return self._shape(entry, piece, record, sample)

    def _is_outside(self, piece: Piece, record: Stats, slack: float) -> bool:
        """Tell whether values lie beyond the bounds, by more than their rounding."""
        low, high = piece.distribution.bounds
        if low - slack * abs(low) <= record.min and record.max <= high + slack * abs(high):
            return False
        if slack > _HALF_EPS or self.values is None or not self.values.is_rounded(piece):
            return True
        return self._is_outside(piece, record, torch.finfo(torch.bfloat16).eps)

    def _only_few_are_off(self, piece: Piece, record: Stats, sample: Sample) -> bool:
        """Tell whether a std is wrong for some values that are far out, and the rest is right."""
        if not record.groups & Groups.HISTOGRAM:
            return False
        distribution = piece.distribution
        assert not isinstance(distribution, Derived)
        shape = histogram_problem(
            distribution, record.histogram, sample.zeros, piece.dtype, self.rate
        )
        far = max(abs(record.min), abs(record.max)) > _FAR * distribution.std
        return far and not shape

    def _values(self, entry: PlanEntry, piece: Piece, record: Stats) -> tuple[str, str, Cause]:
        """Check values that are not random: each of them, or their moments where they are gone."""
        if isinstance(piece.distribution, Constant):
            value = _rounded(piece.distribution.value, piece.dtype)
            if record.min == record.max == value:
                return "", "", _NO_CAUSE
            return (
                "constant",
                f"expected {value:g} everywhere",
                Cause("never written, or initialised like a matrix", _INIT_LAST),
            )
        if self.values is None:
            _, _, words = moments_problem(piece, record)
        else:
            words = values_problem(entry, piece, self.values)
        return ("values", words, cause_of_values(record)) if words else ("", "", _NO_CAUSE)

    def _shape(
        self, entry: PlanEntry, piece: Piece, record: Stats, sample: Sample
    ) -> tuple[str, str, Cause]:
        """Check the shape: histogram and extremes, and what must hold exactly."""
        distribution = piece.distribution
        assert not isinstance(distribution, Derived)
        if isinstance(distribution, NormalisedRows) and self.values:
            words = norms_problem(entry, piece, self.values)
            if words:
                return "norms", words, _NOT_NORMALISED
        if isinstance(distribution, Transformed) and self.values:
            words = distribution_problem(entry, piece, self.values, self.rate)
            if words:
                return "shape", words, _TRUNCATED
        if isinstance(distribution, Orthogonal):
            words = self.values.orthogonality_problem(piece, distribution) if self.values else ""
            cause = "random, but not orthogonal"
            fix = "use initstats.orthogonal_"
            return ("orthogonal" if words else ""), words, Cause(cause, fix) if words else _NO_CAUSE
        if record.groups & Groups.HISTOGRAM:
            words = histogram_problem(
                distribution, record.histogram, sample.zeros, piece.dtype, self.rate
            )
            if words:
                return "shape", words, _TRUNCATED
        words = extremes_problem(
            distribution,
            sample.count,
            record.min,
            record.max,
            self.rate,
            slack=torch.finfo(piece.dtype).eps * max(map(abs, (record.min, record.max))),
        )
        return ("extremes" if words else ""), words, _TRUNCATED if words else _NO_CAUSE


def _is_one_value(piece: Piece, record: Stats, sample: Sample, rate: float) -> bool:
    """Tell whether all values are one, which few that were rounded may be by chance."""
    if sample.count <= 1 or record.min != record.max:
        return False
    bits = random_bits(piece.distribution, piece.dtype)
    return record.min == 0 or not bits or -bits * (sample.count - 1) < math.log2(rate)


def zeros_problem(
    entry: PlanEntry,
    piece: Piece,
    record: Stats,
    sample: Sample,
    rate: float,
    values: Values | None,
) -> str:
    """Say that there are more zeros than a continuous distribution gives; nothing if not.

    A value is 0 with probability at most that of one step of torch's generators, 2**-23 of float32
    and 2 eps of values that were drawn in half precision. The number of zeros is Poisson then, and
    at least k with probability at most exp(k - m) (m / k)**k for its mean m < k (Chernoff).
    """
    is_table = entry.zero_row is not None and len(piece.shape) > 1
    zeros = record.zero - (piece.count // piece.shape[-2] if is_table else 0)
    bits = random_bits(piece.distribution, piece.dtype)
    lost = record.nan or record.pos_inf or record.neg_inf  # reported as such
    if not bits or zeros < 1 or record.zero == record.count or lost:
        return ""
    dtype = piece.dtype
    if torch.finfo(dtype).eps < _HALF_EPS and (
        values is None or values.is_rounded(piece) is not False
    ):
        dtype = torch.bfloat16
    info = torch.finfo(dtype)
    step = info.tiny * info.eps / piece.distribution.std  # a wide bound of the rounding to 0
    expected = sample.count * (2 * info.eps + step)
    if zeros <= expected:
        return ""
    log_chance = zeros - expected + zeros * math.log(expected / zeros)
    return f"{zeros} of {sample.count} values are 0" if log_chance < math.log(rate) else ""


def not_finite(record: Stats) -> tuple[str, Cause]:
    """Return the problem of a record with values that are not finite, and its cause; or nothing."""
    if not (record.nan or record.pos_inf or record.neg_inf):
        return "", _NO_CAUSE
    words = f"{record.nan} NaN and {record.pos_inf + record.neg_inf} infinite values"
    origin = "memory that was never written, or a computation that overflowed"
    return words, Cause(origin, "initialise it: see initstats.init_")


@dataclass(frozen=True)
class Sample:
    """Moments of the random values of a record.

    Attributes:
        count: Number of values.
        mean: Their mean.
        std: Their standard deviation, 0 for a single value.
        zeros: Zeros of the record that are not among them: a padding row.
    """

    count: int
    mean: float
    std: float
    zeros: int


def sample_of(entry: PlanEntry, piece: Piece, record: Stats) -> Sample:
    """Return the moments of a record without the row of zeros that is no part of the sample."""
    zeros = 0
    if entry.zero_row is not None and len(piece.shape) > 1:
        zeros = piece.count // piece.shape[-2]
    count = record.count - zeros
    std = record.std if record.count > 1 else 0.0
    if not zeros or count < 1 or record.zero < zeros:
        return Sample(record.count, record.mean, std, 0)
    # n mean and the sum of squares are those of the whole record: the row adds nothing to them.
    mean = record.mean * record.count / count
    squares = std * std * (record.count - 1) + record.count * record.mean**2
    variance = max(squares - count * mean * mean, 0.0) / max(count - 1, 1)
    return Sample(count, mean, math.sqrt(variance), zeros)


def _without_farthest(record: Stats, sample: Sample) -> float | None:
    """Return the std of a sample without the value farthest from 0; None for too few values."""
    n = sample.count
    if n < _FEWEST_LEFT + 1:
        return None
    far = record.max if abs(record.max) >= abs(record.min) else record.min
    squares = sample.std**2 * (n - 1) - (far - sample.mean) ** 2 * n / (n - 1)
    return math.sqrt(max(squares, 0.0) / (n - 2))


@lru_cache(maxsize=256)
def _rounded(value: float, dtype: torch.dtype) -> float:
    """Return a value as a dtype stores it."""
    return float(torch.tensor(value, dtype=dtype, device="cpu"))


_HALF_EPS = 2.0**-11  # below that of float16
_FEWEST_LEFT = 2  # values that have a std
