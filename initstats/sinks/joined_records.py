"""Merge the records that ranks have written, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from initstats.monitoring.reader import Measured, table_of
from initstats.monitoring.row import Row
from initstats.monitoring.rules import BACKWARD, IN_A_STEP, holds_not_finite
from initstats.statistics.histogram import PLACES
from initstats.statistics.record_array import COUNT, Records

OfRanks = Mapping[int, Mapping[str, Measured]]  # by rank and kind
Held = Mapping[str, Mapping[str, Sequence[Row]]]  # by kind and name the rows that count


def rank_of(row: Row) -> int:
    """Return the rank that wrote a row."""
    assert row.ranks is not None
    return row.ranks.rank


def measured_of(row: Row) -> dict[str, Measured]:
    """Return what a rank has measured, by kind and step.

    Of rows of several steps earlier versions did not keep each: they are taken for one.
    """
    by_step = {} if row.part is None else row.part.by_step
    found = {}
    for kind, table in row.tables.items():
        one = Records(table.records.moments[None], table.records.counts[None])
        steps, records = by_step.get(kind, ((row.step,), one))
        found[kind] = Measured(table, steps, records)
    return found


def merged(of_ranks: OfRanks, kind: str, held: Mapping[str, Sequence[Row]]) -> Measured | None:
    """Merge the records of one kind; None where nothing was counted.

    Args:
        of_ranks: What each rank has measured.
        kind: The kind.
        held: By name the rows whose records count.
    """
    chosen = {name: {rank_of(row) for row in rows} for name, rows in held.items()}
    here = {rank: found[kind] for rank, found in of_ranks.items() if kind in found}
    steps = sorted({step for found in here.values() for step in found.steps})
    names = tuple(held)
    by_step = Records.empty(len(steps), len(names))
    has_places = all(found.table.places is not None for found in here.values())
    places = np.zeros((len(names), 2 * PLACES), dtype=np.int64)
    for rank, found in here.items():
        index = found.table.index
        pairs = [(i, index[name]) for i, name in enumerate(names) if rank in chosen[name]]
        to, source = [i for i, _ in pairs], [j for _, j in pairs]
        where = np.ix_([steps.index(step) for step in found.steps], to)
        total = by_step[where].merge(found.by_step[:, source])
        by_step.moments[where], by_step.counts[where] = total.moments, total.counts
        if has_places and found.table.places is not None:
            for i, j in pairs:
                places[i] += found.table.places.full(j).ravel()
    counted = by_step.counts[..., COUNT] > 0
    at, of = np.flatnonzero(counted.any(axis=1)), np.flatnonzero(counted.any(axis=0))
    if not at.size:
        return None
    by_step = by_step[np.ix_(at, of)]
    with np.errstate(all="ignore"):
        kept = tuple(names[i] for i in of.tolist())
        table = table_of(kept, by_step, places[of] if has_places else None, 0)
    return Measured(table, tuple(steps[k] for k in at.tolist()), by_step)


def first_not_finite(of_ranks: OfRanks, held: Held) -> tuple[str, str, int] | None:
    """Return kind, name and rank of the first value that is not finite, step by step."""
    turns = {kind: turn for turn, kind in enumerate(IN_A_STEP)}
    found: list[tuple[int, int, int, int, str, str]] = []
    for kind, names in held.items():
        order = {name: i for i, name in enumerate(names)}
        sign = -1 if kind in BACKWARD else 1
        for rank, here in of_ranks.items():
            if kind not in here:
                continue
            bad = holds_not_finite(kind, here[kind].by_step)
            for k, j in zip(*(at.tolist() for at in np.nonzero(bad)), strict=True):
                name = here[kind].table.names[j]
                if rank in map(rank_of, names.get(name, ())):
                    turn = turns.get(kind, len(turns))
                    place = sign * order[name]
                    found.append((here[kind].steps[k], turn, place, rank, kind, name))
    if not found:
        return None
    *_, rank, kind, name = min(found)
    return kind, name, rank
