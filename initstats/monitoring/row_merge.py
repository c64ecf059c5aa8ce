"""Merge rows: what the windows of both hold, as if they had been one."""

from __future__ import annotations

import numpy as np

from initstats.monitoring.row import WINDOWED, Places, Row, Table
from initstats.statistics.record_array import Floats, Records


def merge_rows(a: Row, b: Row) -> Row:
    """Return one row that covers the steps of two.

    Args:
        a: The earlier row.
        b: The later row.

    Returns:
        A row with the records of both merged, the extremes of both, the norms of all steps, and the
        alerts of both.
    """
    tables = dict(a.tables)
    for kind, table in b.tables.items():
        tables[kind] = _merged(tables[kind], table, a, b) if kind in tables else table
    before = [a.gradient_norm_before_clipping, b.gradient_norm_before_clipping]
    norms = [a.gradient_norm, b.gradient_norm]
    if any(part.size for part in before):  # a row without clipping has the norm itself
        before = [own if own.size else norm for own, norm in zip(before, norms, strict=True)]
    losses = [row.loss if row.loss.size else np.full(len(row.steps), np.nan) for row in (a, b)]
    return Row(
        step=b.step,
        first_step=a.first_step,
        measured=a.measured + b.measured,
        time=b.time,
        tables=tables,
        gradient_norm=np.concatenate(norms),
        gradient_norm_before_clipping=np.concatenate(before),
        steps=(*a.steps, *b.steps),
        missing={kind: b.missing[kind] for kind in b.missing},
        alerts=(*a.alerts, *b.alerts),
        loss=np.concatenate(losses) if a.loss.size or b.loss.size else np.empty(0),
        learning_rates=b.learning_rates or a.learning_rates,
        calls=_calls([a, b]),
        smooth=tuple(dict.fromkeys((*a.smooth, *b.smooth))),
    )


def _merged(a: Table, b: Table, row_a: Row, row_b: Row) -> Table:
    """Merge two tables of one kind."""
    names = tuple(dict.fromkeys((*a.names, *b.names)))
    index = {name: i for i, name in enumerate(names)}
    sides = []
    for table in (a, b):
        records = Records.empty(len(names))
        rows = [index[name] for name in table.names]
        records.moments[rows], records.counts[rows] = table.records.moments, table.records.counts
        sides.append(records)
    places = None
    if a.places is not None and b.places is not None and a.places.scale == b.places.scale:
        full = np.zeros((len(names), a.places.full(0).size if len(a) else 0), dtype=np.int64)
        for table in (a, b):
            assert table.places is not None
            for i, name in enumerate(table.names):
                full[index[name]] += table.places.full(i).reshape(-1)
        places = Places.cut(full, a.places.scale) if names else None
    weights = (float(row_a.measured), float(row_b.measured))

    def both(column: str, which: str) -> list[Floats]:
        found = []
        for table in (a, b):
            values = np.full(len(names), np.nan)
            values[[index[name] for name in table.names]] = getattr(table, which)[column]
            found.append(values)
        return found

    return Table(
        names,
        sides[0].merge(sides[1]),
        places,
        low={name: np.fmin(*both(name, "low")) for name in WINDOWED},
        high={name: np.fmax(*both(name, "high")) for name in WINDOWED},
        average={name: _weighted(both(name, "average"), weights) for name in WINDOWED},
    )


def _calls(rows: list[Row]) -> dict[str, float]:
    """Return the calls per measured step of both rows together."""
    steps = [row.measured if row.calls else 0 for row in rows]
    names = dict.fromkeys(name for row in rows for name in row.calls)
    return {
        name: sum(n * row.calls.get(name, 0.0) for n, row in zip(steps, rows, strict=True))
        / sum(steps)
        for name in names
    }


def _weighted(values: list[Floats], weights: tuple[float, float]) -> Floats:
    """Return the mean by weights of what is not NaN."""
    known = [~np.isnan(column) for column in values]
    total = sum(w * k for w, k in zip(weights, known, strict=True))
    summed = sum(w * np.where(k, v, 0.0) for w, k, v in zip(weights, known, values, strict=True))
    with np.errstate(all="ignore"):
        mean: Floats = np.asarray(summed / total)
    return mean
