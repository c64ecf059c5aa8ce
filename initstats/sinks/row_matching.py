"""Match the rows of several ranks by steps of training, where some have left out steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from initstats.monitoring.row import Row, Taken
from initstats.monitoring.steps_taken import left_out, parted

NO_ROW = "wrote no row"


@dataclass(frozen=True)
class Matched:
    """The rows of several ranks for the same steps.

    Attributes:
        rows: By rank.
        missing: Why a rank has none, by rank.
        updates: By rank how many more steps its optimizer has taken than that of the others since
            the row before, negative for fewer.
    """

    rows: dict[int, Row] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)


def matched(rows: Mapping[int, Mapping[int, Row]]) -> Iterator[Matched]:
    """Match the rows of ranks that have left out calls of `Monitor.step` with those of the others.

    The number of the step of such a rank is behind from then on: its rows are of later steps than
    they say. They are moved on; what then fits no row of the others belongs to none.

    Args:
        rows: By first step, as it is written, and rank.

    Yields:
        The rows by steps, in order; those without any rank are left out.
    """
    found = {first: Matched() for first in sorted(rows)}
    everyone = sorted({rank for here in rows.values() for rank in here})
    behind = dict.fromkeys(everyone, 0)
    told = dict.fromkeys(everyone, (0, 0))  # updates and idle calls that a rank has more, so far
    for first, of_step in found.items():
        here = rows[first]
        taken = {r: row.part.taken for r, row in here.items() if row.part and row.part.taken}
        taken = {rank: _less(each, *told[rank]) for rank, each in taken.items()}
        apart = parted(taken)
        for rank, (updates, idle) in apart.apart.items():
            told[rank] = told[rank][0] + updates, told[rank][1] + idle
        of_step.updates.update(apart.updates)
        for rank, row in here.items():
            # Alone it goes on as before: nothing tells more.
            missed = apart.behind.get(rank, 0) if len(taken) > 1 and rank in taken else behind[rank]
            # What was measured between two steps of the optimizer is of both.
            is_mixed = missed > behind[rank]
            behind[rank] = missed
            if first + missed in found and not is_mixed:
                found[first + missed].rows[rank] = _moved(row, missed)
        for rank in everyone:
            of_step.missing[rank] = left_out(behind[rank]) if behind[rank] else NO_ROW
    for of_step in found.values():
        for rank in of_step.rows:
            of_step.missing.pop(rank, None)
        if of_step.rows:
            yield of_step


def _less(taken: Taken, updates: int, idle: int) -> Taken:
    """Return steps without those that were told, so that each is told once."""
    return taken._replace(updates=taken.updates - updates, idle=taken.idle - idle)


def _moved(row: Row, by: int) -> Row:
    """Return a row with later steps."""
    if not by:
        return row
    assert row.part is not None
    part = replace(
        row.part,
        steps=tuple(step + by for step in row.part.steps),
        product_steps=tuple(step + by for step in row.part.product_steps),
        without_loss=tuple(step + by for step in row.part.without_loss),
        by_step={
            kind: (tuple(step + by for step in steps), records)
            for kind, (steps, records) in row.part.by_step.items()
        },
    )
    steps = tuple(step + by for step in row.steps)
    return replace(row, step=row.step + by, first_step=row.first_step + by, steps=steps, part=part)
