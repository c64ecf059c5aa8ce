"""Values that are known beforehand, or obey a law exactly: formulas, copies, norms of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Computed, Derived, NormalisedRows, Transformed
from initstats.recipes.distributions.computed import TOLERANCE
from initstats.statistics.record import Stats
from initstats.verification.confidence import Band
from initstats.verification.values import Values

_CHUNK = 1 << 22  # elements compared at a time


def values_problem(entry: PlanEntry, piece: Piece, values: Values) -> str:
    """Compare every value of a computed or derived piece with what it should be.

    Args:
        entry: The parameter.
        piece: The piece, `Computed` or `Derived`.
        values: Where the values are.

    Returns:
        What is wrong in words, empty when nothing is.
    """
    promised = piece.distribution
    got = piece.of(values.whole(entry.name, entry.parameter))
    if isinstance(promised, Derived) and promised.is_sampled:
        assert entry.source is not None
        return _rows_problem(got, values.whole(*entry.source).to(piece.dtype), promised)
    if isinstance(promised, Computed):
        want, slack = promised.values(), promised.tolerance
    else:
        assert isinstance(promised, Derived)
        assert entry.source is not None
        source = values.whole(*entry.source)
        want = promised.values(source).reshape(piece.shape)
        slack = 0.0  # a copy is a copy
        if promised.how.endswith("norms"):
            slack = _slack_of_norm(source.numel() // want.numel()) * float(want.abs().max())
    unit = torch.finfo(piece.dtype).eps
    wrong, first = 0, ""
    for start, mine, theirs in _chunks(got, want):
        off = (mine - theirs).abs() > unit * theirs.abs() + slack
        off |= mine.isnan()
        found = off.nonzero()
        if len(found) and not wrong:
            at = tuple(found[0].tolist())
            index = (start + at[0], *at[1:]) if at else ()
            first = f"the first at {list(index)}: {mine[at]:.6g}, expected {theirs[at]:.6g}"
        wrong += len(found)
    return f"{wrong} of {piece.count} values differ, {first}" if wrong else ""


def _rows_problem(got: torch.Tensor, source: torch.Tensor, promised: Derived) -> str:
    """Look for each row among those of the source."""
    source = source.double().flatten(1).cpu()
    wrong = []
    for i, row in enumerate(got.double().flatten(1).cpu()):
        alike = source[source[:, 0] == row[0]]  # few: their first element tells most rows apart
        if not bool((alike == row).all(dim=1).any()):
            wrong.append(i)
    if not wrong:
        return ""
    return f"{len(wrong)} of {len(got)} rows are none of {promised.of}, the first is {wrong[0]}"


def _slack_of_norm(count: int) -> float:
    """Return the relative error of a norm that was summed in some order, maybe in float32.

    Roundings of n squares that are added one after the other grow as sqrt(n); weight norm of torch
    over all dimensions but the last adds them so.
    """
    return max(TOLERANCE, math.sqrt(count) * 2.0**-24)


def moments_problem(piece: Piece, record: Stats) -> tuple[Band, Band, str]:
    """Compare the record of a computed piece with its formula, where the values are gone.

    Returns:
        Where mean and std may lie, and what is wrong in words, empty when nothing is.
    """
    promised = piece.distribution
    if not isinstance(promised, Computed):
        anything = Band(-math.inf, math.inf)
        return anything, anything, ""
    low, high = promised.bounds
    largest = max(abs(low), abs(high))
    slack = torch.finfo(piece.dtype).eps * largest + promised.tolerance
    n = piece.count
    std = promised.std * math.sqrt(n / max(n - 1, 1))  # records divide by n - 1
    means = Band(promised.mean - slack, promised.mean + slack)
    stds = Band(max(std - 2 * slack, 0.0), std + 2 * slack)
    for name, value, want in (("smallest", record.min, low), ("largest", record.max, high)):
        if not abs(value - want) <= slack:
            return means, stds, f"{name} value {value:.6g}, expected {want:.6g}"
    if not means.holds(record.mean):
        return means, stds, f"mean {record.mean:.6g}, expected {promised.mean:.6g}"
    if n > 1 and not stds.holds(record.std):
        return means, stds, f"std {record.std:.6g}, expected {std:.6g}"
    return means, stds, ""


def norms_problem(entry: PlanEntry, piece: Piece, values: Values) -> str:
    """Compare the norm of every row with the promised one.

    Returns:
        What is wrong in words, empty when nothing is.
    """
    promised = piece.distribution
    assert isinstance(promised, NormalisedRows)
    rows = piece.of(values.whole(entry.name, entry.parameter)).flatten(1)
    # Each element is off by half a unit at most, relative; so is their norm. Then float32 sums.
    allowed = torch.finfo(piece.dtype).eps / 2 + TOLERANCE
    worst, where = 0.0, 0
    for start, some, _ in _chunks(rows, rows):
        off = (torch.linalg.vector_norm(some, dim=1) / promised.norm - 1).abs()
        at = int(off.argmax())
        if float(off[at]) > worst:
            worst, where = float(off[at]), start + at
    if worst <= allowed:
        return ""
    return f"the norm of row {where} is off by {worst:.2g}, relative to {promised.norm:g}"


def distribution_problem(entry: PlanEntry, piece: Piece, values: Values, rate: float) -> str:
    """Compare the empirical distribution function with the promised one at every value.

    The bound is that of `histogram_problem`, at all values instead of the edges of bins. Values are
    moved by half a unit in the last place, so that rounding moves none across.

    Args:
        entry: The parameter.
        piece: The piece, `Transformed`.
        values: Where the values are.
        rate: Chance of a false alarm, in (0, 1).

    Returns:
        What is wrong in words, empty when nothing is.

    Source: Massart 1990, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality".
    """
    promised = piece.distribution
    assert isinstance(promised, Transformed)
    whole = piece.of(values.whole(entry.name, entry.parameter))
    found = whole.flatten().double().sort().values.tolist()
    allowed = math.sqrt(math.log(2 / rate) / (2 * len(found)))
    unit = torch.finfo(piece.dtype).eps / 2
    worst, where = 0.0, 0.0
    for i, x in enumerate(found):
        half = unit * abs(x)
        too_few = promised.cdf(x - half) - (i + 1) / len(found)
        too_many = i / len(found) - promised.cdf(x + half)
        distance = max(too_few, too_many)
        if distance > worst:
            worst, where = distance, x
    if worst <= allowed:
        return ""
    return f"{worst:.2%} of the values on the wrong side of {where:.3g} for {promised}"


def _chunks(
    got: torch.Tensor, want: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield the first row of each chunk, and both tensors there, in float64 on the CPU."""
    if got.dim() == 0:
        yield 0, got.cpu().double(), want.cpu().double()
        return
    step = max(1, _CHUNK * len(got) // max(1, got.numel()))
    for start in range(0, len(got), step):
        rows = slice(start, start + step)
        yield start, got[rows].cpu().double(), want[rows].cpu().double()
