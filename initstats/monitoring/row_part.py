"""What a row of one rank keeps for the row that is made of those of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from initstats.monitoring.local_gradients import KIND as LOCAL_GRADIENTS
from initstats.monitoring.momentum import sums_of
from initstats.monitoring.reader import Measured, gradient_norms, gradient_squares, unclipped
from initstats.monitoring.row import Part
from initstats.monitoring.window import BEFORE_CLIPPING, HIDDEN, PRODUCTS
from initstats.statistics.record_array import COUNT, FINGERPRINT


def part_of(
    measured: Mapping[str, Measured],
    peers: Sequence[int],
    seconds: float,
    fingerprints: frozenset[str],
) -> Part:
    """Return what one rank keeps of a window beside its records.

    Args:
        measured: By kind and step.
        peers: Ranks that share a batch with this one, itself included.
        seconds: Mean seconds of a step.
        fingerprints: Kinds whose records have fingerprints.
    """
    shown = {kind: found for kind, found in measured.items() if kind not in HIDDEN}
    by_step = {}
    if len({step for found in shown.values() for step in found.steps}) > 1:
        by_step = {kind: (found.steps, found.by_step) for kind, found in shown.items()}
    prints = {kind: _prints(found) for kind, found in measured.items() if kind in fingerprints}
    local = measured.get(LOCAL_GRADIENTS)
    norm = None if local is None else float(gradient_norms(local.by_step).max())
    mine = Part(tuple(peers), seconds, local_norm=norm, prints=prints, by_step=by_step)
    if PRODUCTS[0] in measured:
        first = measured[PRODUCTS[0]]
        sums = sums_of({kind: measured[kind].by_step for kind in PRODUCTS})
        products = {name: sums[:, i] for i, name in enumerate(first.table.names)}
        mine = replace(mine, products=products, product_steps=first.steps)
    gradients = measured.get("gradients")
    if gradients is None:
        return mine
    squares = gradient_squares(gradients.by_step)
    before = measured.get(BEFORE_CLIPPING)
    clipped = () if before is None else before.steps
    return replace(
        mine,
        steps=gradients.steps,
        squares=squares,
        unclipped=gradient_squares(unclipped(measured)) if clipped else squares[:0],
        clipped=tuple(step in clipped for step in gradients.steps),
    )


def _prints(found: Measured) -> tuple[int | None, ...]:
    """Return the fingerprints of the last step."""
    last = found.by_step.counts[-1]
    pairs = zip(last[:, FINGERPRINT].tolist(), last[:, COUNT].tolist(), strict=True)
    return tuple(print_ if count else None for print_, count in pairs)
