"""Cosine of momentum and gradient of tensors that several ranks hold, from sums over the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from initstats import _ops
from initstats.monitoring.reader import Measured, table_of
from initstats.monitoring.row import WINDOWED, Places, Table
from initstats.monitoring.window import PRODUCTS
from initstats.statistics.histogram import PLACES
from initstats.statistics.record_array import COUNT, L1, MEAN, Floats, Groups, Integers, Records
from initstats.statistics.reduction import Array

KIND = "momentum_cosine"


def sums_of(products: Mapping[str, Records]) -> Floats:
    """Return the sums of the products by step, `[steps, n, 3]`.

    NaN where there are none, infinity where one is not finite.

    Args:
        products: By `PRODUCTS` the records `[steps, n]` of one number per rank.
    """
    first, *squares = (products[kind] for kind in PRODUCTS)
    with np.errstate(all="ignore"):
        columns = [first.moments[..., MEAN] * first.finite, *(x.moments[..., L1] for x in squares)]
    sums: Floats = np.stack(columns, -1)
    for i, records in enumerate((first, *squares)):
        sums[..., i][records.finite < records.counts[..., COUNT]] = np.inf
        sums[..., i][records.counts[..., COUNT] == 0] = np.nan
    return sums


def cosines_of(names: Sequence[str], steps: Sequence[int], sums: Floats) -> Measured | None:
    """Return the cosines, of steps and tensors that have any; None without.

    Args:
        names: Of the tensors, n of them.
        steps: The steps.
        sums: Products of momentum and gradient, and squares of either, `[steps, n, 3]`, as
            `sums_of` returns them.

    Returns:
        A number per step and tensor, with a histogram; 0 where momentum or gradient is 0, NaN where
        one is not finite.
    """
    known = np.asarray(~np.isnan(sums).any(axis=-1))
    at, of = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    known, sums = known[np.ix_(at, of)], sums[np.ix_(at, of)]
    if not known.any():
        return None
    product, momentum, gradient = np.moveaxis(sums[known], -1, 0)
    with np.errstate(all="ignore"):
        values = product / np.sqrt(momentum) / np.sqrt(gradient)
    values[(momentum == 0) | (gradient == 0)] = 0.0
    values[~np.isfinite(sums[known]).all(axis=-1)] = np.nan
    rows = _ops.stats(list(torch.from_numpy(values).reshape(-1, 1)), Groups.HISTOGRAM, 0)
    moments, counts, places = (x.numpy() for x in rows)
    by_step = Records.empty(*known.shape)
    by_step.moments[known], by_step.counts[known] = moments, counts
    added: Integers = np.zeros((known.shape[1], 2 * PLACES), dtype=np.int64)
    np.add.at(added, np.nonzero(known)[1], places)
    here, found = tuple(names[i] for i in of.tolist()), tuple(steps[k] for k in at.tolist())
    with np.errstate(all="ignore"):
        return Measured(table_of(here, by_step, added, 0), found, by_step)


def add_cosines(
    measured: dict[str, Measured],
    names: Sequence[str],
    steps: Sequence[int],
    sums: Floats,
    order: Sequence[str],
) -> None:
    """Add the cosines of shards to those of tensors that a rank holds whole.

    Args:
        measured: By kind.
        names: Of the shards, n of them.
        steps: The steps.
        sums: As for `cosines_of`, over all ranks.
        order: Names in the order of the model; others come after them.
    """
    found = cosines_of(names, steps, sums)
    if found is not None:
        whole = measured.get(KIND)
        measured[KIND] = found if whole is None else _joined(whole, found, order)


def _joined(whole: Measured, shards: Measured, order: Sequence[str]) -> Measured:
    """Return both in one."""
    names = dict.fromkeys((*order, *whole.table.names, *shards.table.names))
    table = _joined_tables(whole.table, shards.table, list(names))
    steps = tuple(sorted({*whole.steps, *shards.steps}))
    by_step = Records.empty(len(steps), len(table.names))
    for one in (whole, shards):
        at = [steps.index(step) for step in one.steps]
        where = np.ix_(at, [table.index[name] for name in one.table.names])
        by_step.moments[where], by_step.counts[where] = one.by_step.moments, one.by_step.counts
    return Measured(table, steps, by_step)


def _joined_tables(a: Table, b: Table, order: Sequence[str]) -> Table:
    """Return the tensors of two tables in one, those that both have as the second has them."""
    names = tuple(name for name in order if name in a.index or name in b.index)
    sources = [(b, b.index[name]) if name in b.index else (a, a.index[name]) for name in names]

    def column(which: str, field: str) -> Floats:
        return np.array([getattr(table, which)[field][i] for table, i in sources])

    def stacked(which: str) -> Array:
        return np.stack([getattr(table.records, which)[i] for table, i in sources])

    places = None
    if a.places is not None and b.places is not None:
        full = [table.places.full(i).ravel() for table, i in sources if table.places is not None]
        places = Places.cut(np.stack(full), a.places.scale)
    columns = {
        which: {field: column(which, field) for field in WINDOWED}
        for which in ("low", "high", "average")
    }
    return Table(names, Records(stacked("moments"), stacked("counts")), places, **columns)
