"""Join the rows that each rank wrote into a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from initstats.monitoring.reader import gradient_norms, table_of
from initstats.monitoring.row import Row, Shard, Table
from initstats.monitoring.team import OF_EACH_RANK
from initstats.sinks.jsonl import read_rows
from initstats.statistics.histogram import PLACES
from initstats.statistics.record_array import Integers, Records


def join_rows(paths: Iterable[str | Path]) -> Iterator[Row]:
    """Join the files of several ranks to rows of the whole model.

    Shards are merged, and of replicas one counts; the outputs of modules are those of all ranks.
    Rows of one step in each are as those that ranks merge while they train. In rows of several
    steps the smallest and largest values are those of the row, and there is no gradient norm.

    Args:
        paths: One file per rank, as a monitor with `reduce="none"` writes them.

    Yields:
        Rows in the order of steps; `missing["ranks"]` names ranks without one.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a row is not of one rank, or two files are of the same rank.
    """
    rows: dict[tuple[int, int], dict[int, Row]] = {}
    everyone: set[int] = set()
    for path in paths:
        for row in read_rows(path):
            if row.ranks is None or row.ranks.scope != "rank":
                msg = f"initstats.merge: expected rows of one rank each, got another in {path}"
                raise ValueError(msg)
            here = rows.setdefault((row.first_step, row.step), {})
            if row.ranks.rank in here:
                msg = (
                    "initstats.merge: expected every step of a rank once, got step"
                    f" {row.step} of rank {row.ranks.rank} again in {path}"
                )
                raise ValueError(msg)
            here[row.ranks.rank] = row
            everyone.add(row.ranks.rank)
    for key in sorted(rows):
        yield _joined([rows[key][rank] for rank in sorted(rows[key])], everyone)


def _joined(rows: Sequence[Row], everyone: set[int]) -> Row:
    first = rows[0]
    assert first.ranks is not None
    kinds = dict.fromkeys(kind for row in rows for kind in row.tables)
    tables = {kind: _table([row for row in rows if kind in row.tables], kind) for kind in kinds}
    missing: dict[str, dict[str, str]] = {}
    for row in rows:
        for kind, names in row.missing.items():
            there = tables[kind].index if kind in tables else {}
            lost = {name: why for name, why in names.items() if name not in there}
            missing.setdefault(kind, {}).update(lost)
    here = {row.ranks.rank for row in rows if row.ranks is not None}
    missing["ranks"] = {f"rank {rank}": "wrote no row" for rank in sorted(everyone - here)}
    norms = np.empty(0)
    if "gradients" in tables and first.measured == 1:
        records = tables["gradients"].records
        norms = gradient_norms(Records(records.moments[None], records.counts[None]))
    return replace(
        first,
        tables=tables,
        gradient_norm=norms,
        gradient_norm_before_clipping=np.empty(0),
        missing={kind: names for kind, names in missing.items() if names},
        alerts=tuple(finding for row in rows for finding in row.alerts),
        calls={
            name: sum(row.calls.get(name, 0.0) for row in rows) / len(rows)
            for name in dict.fromkeys(name for row in rows for name in row.calls)
        },
        smooth=tuple(dict.fromkeys(name for row in rows for name in row.smooth)),
        ranks=replace(first.ranks, scope="merged"),
        shards={},
    )


def _table(rows: Sequence[Row], kind: str) -> Table:
    names = tuple(dict.fromkeys(name for row in rows for name in row.tables[kind].names))
    holders = [[row for row in rows if name in row.tables[kind].index] for name in names]
    merged = [_record(held, kind, name) for held, name in zip(holders, names, strict=True)]
    moments = np.stack([records.moments for records, _ in merged])
    counts = np.stack([records.counts for records, _ in merged])
    places = None
    if all(found is not None for _, found in merged):
        places = np.stack([found for _, found in merged if found is not None])
    with np.errstate(all="ignore"):
        return table_of(names, Records(moments[None], counts[None]), places, 0)


def _record(rows: Sequence[Row], kind: str, name: str) -> tuple[Records, Integers | None]:
    """Merge the records of one tensor: of shards all, of replicas one."""
    if kind not in OF_EACH_RANK:
        shards = [row.shards.get(name, Shard(i, 0, -1)) for i, row in enumerate(rows)]
        mesh = min(shard.mesh for shard in shards)
        chosen: dict[int, Row] = {}
        for shard, row in zip(shards, rows, strict=True):
            if shard.mesh == mesh:
                chosen.setdefault(shard.piece, row)
        rows = [chosen[piece] for piece in sorted(chosen)]
    total, places = None, np.zeros(2 * PLACES, dtype=np.int64)
    has_places = True
    for row in rows:
        table = row.tables[kind]
        i = table.index[name]
        record = table.records[i]
        total = record if total is None else total.merge(record)
        if table.places is None:
            has_places = False
        else:
            places += table.places.full(i).ravel()
    assert total is not None
    return total, places if has_places else None
