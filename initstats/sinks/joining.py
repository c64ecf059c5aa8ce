"""Join the rows that each rank wrote into a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from initstats.diagnostics.findings import Finding
from initstats.monitoring.local_gradients import KIND as LOCAL_GRADIENTS
from initstats.monitoring.momentum import KIND as COSINE
from initstats.monitoring.momentum import cosines_of, joined_tables
from initstats.monitoring.rank_alerts import RankAlerts, Together
from initstats.monitoring.rank_norms import norms_of_peers
from initstats.monitoring.rank_rates import common_rates, mean_calls
from initstats.monitoring.reader import gradient_norms, table_of
from initstats.monitoring.row import RankInfo, Row, Shard, Table
from initstats.monitoring.rules import BACKWARD, IN_A_STEP, holds_not_finite
from initstats.monitoring.team import FLOWS, OF_EACH_RANK, alike_ranks
from initstats.monitoring.team_lacks import of_elements, on_ranks
from initstats.monitoring.team_loss import joined_losses
from initstats.monitoring.team_row import MOST_NAMED
from initstats.sinks.jsonl import read_rows
from initstats.sinks.row_matching import Matched, matched
from initstats.statistics.histogram import PLACES
from initstats.statistics.record_array import COUNT, Floats, Integers, Records
from initstats.statistics.replicas import classes_of

_Missing = dict[str, dict[str, str]]


def join_rows(paths: Iterable[str | Path]) -> Iterator[Row]:
    """Join the files of several ranks to rows of the whole model.

    Shards are merged, and of replicas one counts; the outputs of modules are those of all ranks,
    and one that ranks of tensor parallelism have alike counts once. Rows are as those that ranks
    merge while they train, with their norms and the alerts that only several ranks tell, but that
    in rows of several steps the smallest and largest values are those of the row.

    Args:
        paths: One file per rank, as a monitor with `reduce="none"` writes them.

    Yields:
        Rows in the order of steps; `missing["ranks"]` names ranks without one.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a row is not of one rank, or two files are of the same rank.
    """
    rows: dict[int, dict[int, Row]] = {}
    for path in paths:
        for row in read_rows(path):
            if row.ranks is None or row.ranks.scope != "rank":
                msg = f"initstats.merge: expected rows of one rank each, got another in {path}"
                raise ValueError(msg)
            here = rows.setdefault(row.first_step, {})
            if row.ranks.rank in here:
                msg = (
                    "initstats.merge: expected every step of a rank once, got step"
                    f" {row.step} of rank {row.ranks.rank} again in {path}"
                )
                raise ValueError(msg)
            here[row.ranks.rank] = row
    alerts = RankAlerts()
    for found in matched(rows):
        yield _joined(found, alerts)


def _joined(found: Matched, alerts: RankAlerts) -> Row:
    rows = [found.rows[rank] for rank in sorted(found.rows)]
    first = rows[0]
    steps = tuple(sorted({step for row in rows for step in row.steps}))
    kinds = dict.fromkeys(kind for row in rows for kind in row.tables)
    held = {kind: _held(rows, kind) for kind in kinds}
    tables = {kind: _table(counted, kind) for kind, counted in held.items()}
    _add_cosines(rows, tables)
    norms, before = _norms(rows, tables, held.get("gradients", {}))
    missing = _missing(rows, tables, found.missing)
    rates, other_rates = common_rates({_rank(row): row.learning_rates for row in rows})
    together = Together(
        _differing(rows),
        _first_not_finite(held),
        _local_norms(rows),
        _alike(rows),
        _peers_of(rows),
        missing.get("ranks", {}),
        found.updates,
        rates,
        other_rates,
    )
    told: dict[tuple[str, str], Finding] = {}
    for alert in (alert for row in rows for alert in row.alerts):
        told.setdefault((alert.rule, alert.where), alert)
    return replace(
        first,
        step=max(row.step for row in rows),
        steps=steps,
        measured=len(steps),
        tables=tables,
        gradient_norm=norms,
        gradient_norm_before_clipping=before,
        missing=missing,
        alerts=(*told.values(), *alerts.judge(together)),
        calls=mean_calls(rows),
        learning_rates=rates,
        smooth=tuple(dict.fromkeys(name for row in rows for name in row.smooth)),
        ranks=replace(_info(rows), learning_rates=other_rates),
        loss=joined_losses(rows, steps),
        shards={},
        part=None,
    )


def _rank(row: Row) -> int:
    assert row.ranks is not None
    return row.ranks.rank


def _info(rows: Sequence[Row]) -> RankInfo:
    """Return whose row it is, with the slowest and the fastest rank where rows tell."""
    assert rows[0].ranks is not None
    times = [(_rank(row), row.part.seconds) for row in rows if row.part is not None]
    info = replace(rows[0].ranks, scope="merged")
    if not times:
        return info
    slowest, fastest = (best(times, key=lambda each: each[1]) for best in (max, min))
    return replace(info, slowest=slowest, fastest=fastest)


def _missing(
    rows: Sequence[Row], tables: Mapping[str, Table], absent: Mapping[int, str]
) -> _Missing:
    """Say what is in no row, which ranks have none, and of what the ranks hold only a part."""
    missing = _lost(rows, tables)
    missing["ranks"] = {f"rank {rank}": why for rank, why in absent.items()}
    numel = {name: shard.numel for row in rows for name, shard in row.shards.items()}
    for kind, table in tables.items():
        if kind in (*OF_EACH_RANK, COSINE) or rows[0].measured != 1:
            continue
        for name, count in zip(table.names, table.records.column("count").tolist(), strict=True):
            if 0 < count < numel.get(name, 0):
                named = missing.setdefault(kind, {})
                named[name] = of_elements(int(count), numel[name], named.get(name))
    return {kind: names for kind, names in missing.items() if names}


def _lost(rows: Sequence[Row], tables: Mapping[str, Table]) -> _Missing:
    """Say what rows name as missing: of what is there on other ranks, who lacks it."""
    missing: _Missing = {}
    for kind in dict.fromkeys(kind for row in rows for kind in row.missing):
        there = tables[kind].index if kind in tables else {}
        lost: dict[str, dict[int, str]] = {}
        for row in rows:
            for name, why in row.missing.get(kind, {}).items():
                lost.setdefault(name, {})[_rank(row)] = why
        for name, whys in lost.items():
            why = next(iter(whys.values()))
            if kind not in OF_EACH_RANK and len(whys) < len(rows):
                why = on_ranks(why, list(whys))
            elif name in there:
                continue
            missing.setdefault(kind, {})[name] = why
    return missing


def _held(rows: Sequence[Row], kind: str) -> dict[str, list[Row]]:
    """Return by name the rows whose records of it count: of shards all, of replicas one."""
    found = dict.fromkeys(name for row in rows if kind in row.tables for name in row.tables[kind])
    # In the order of the model, whichever rank lacks some.
    order = dict.fromkeys(n for row in rows for n in (row.calls if kind in FLOWS else row.shards))
    names = [*(name for name in order if name in found), *(n for n in found if n not in order)]
    held = {}
    for name in names:
        those = [row for row in rows if kind in row.tables and name in row.tables[kind].index]
        if kind not in OF_EACH_RANK:
            # Of replicas first one that has it in the most steps.
            those = _one_of_replicas(sorted(those, key=lambda row: -_count(row, kind, name)), name)
        elif kind in FLOWS and _is_copied(those, kind, name):
            present = {_rank(row) for row in those}
            those = [row for row in those if _rank(row) == min(present.intersection(_peers(row)))]
        held[name] = those
    return held


def _one_of_replicas(rows: Sequence[Row], name: str) -> list[Row]:
    shards = [row.shards.get(name, Shard(i, 0, -1)) for i, row in enumerate(rows)]
    mesh = min(shard.mesh for shard in shards)
    chosen: dict[int, Row] = {}
    for shard, row in zip(shards, rows, strict=True):
        if shard.mesh == mesh:
            chosen.setdefault(shard.piece, row)
    return [chosen[piece] for piece in sorted(chosen)]


def _count(row: Row, kind: str, name: str) -> int:
    table = row.tables[kind]
    return int(table.records.counts[table.index[name], COUNT])


def _peers(row: Row) -> tuple[int, ...]:
    return row.part.peers if row.part is not None and row.part.peers else (_rank(row),)


def _print(row: Row, kind: str, name: str) -> int | None:
    """Return the fingerprint of a tensor in the last step of a row, None where there is none."""
    if row.part is None or kind not in row.part.prints or name not in row.tables[kind].index:
        return None
    return row.part.prints[kind][row.tables[kind].index[name]]


def _is_copied(rows: Sequence[Row], kind: str, name: str) -> bool:
    """Tell whether ranks that share a batch have a tensor alike, all of them that have it."""
    found: dict[tuple[int, ...], set[int | None]] = {}
    for row in rows:
        found.setdefault(_peers(row), set()).add(_print(row, kind, name))
    alike = all(len(prints) == 1 and None not in prints for prints in found.values())
    return alike and any(len(peers) > 1 for peers in found)


def _norms(
    rows: Sequence[Row], tables: Mapping[str, Table], held: Mapping[str, Sequence[Row]]
) -> tuple[Floats, Floats]:
    """Return the norm of the whole gradient in each step, and before clipping; empty without."""
    nothing = np.empty(0)
    if "gradients" not in tables:
        return nothing, nothing
    having = [row for row in rows if "gradients" in row.tables]
    parts = [row.part for row in having if row.part is not None]
    if len(parts) < len(having):  # written by an earlier version
        records = tables["gradients"].records
        one = Records(records.moments[None], records.counts[None])
        return gradient_norms(one) if rows[0].measured == 1 else nothing, nothing
    steps = sorted({step for part in parts for step in part.steps})
    squares, before = np.zeros(len(steps)), np.zeros(len(steps))
    for name, those in held.items():
        for row in those:
            part, j = row.part, row.tables["gradients"].index[name]
            assert part is not None
            at = [steps.index(step) for step in part.steps]
            squares[at] += part.squares[:, j]
            before[at] += (part.unclipped if len(part.unclipped) else part.squares)[:, j]
    clipped = {step for p in parts for step, was in zip(p.steps, p.clipped, strict=True) if was}
    norms = np.sqrt(squares)
    if not clipped:
        return norms, nothing
    return norms, np.where([step in clipped for step in steps], np.sqrt(before), norms)


def _add_cosines(rows: Sequence[Row], tables: dict[str, Table]) -> None:
    """Add the cosines of momentum and gradient of shards."""
    having = [row for row in rows if row.part is not None and row.part.products]
    parts = {_rank(row): row.part for row in having if row.part is not None}
    names = list(dict.fromkeys(name for part in parts.values() for name in part.products))
    steps = sorted({step for part in parts.values() for step in part.product_steps})
    sums = np.zeros((len(steps), len(names), 3))
    for i, name in enumerate(names):
        for row in _one_of_replicas([r for r in having if name in parts[_rank(r)].products], name):
            part = parts[_rank(row)]
            at = [steps.index(step) for step in part.product_steps]
            sums[at, i] += part.products[name]
    found = cosines_of(names, steps, sums)
    if found is not None:
        whole = tables.get(COSINE)
        order = list(tables.get("gradients", ())) or [*(whole or ()), *names]
        tables[COSINE] = found.table if whole is None else joined_tables(whole, found.table, order)


def _differing(rows: Sequence[Row]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return the ranks of weights whose replicas differ, by what they hold, of 16 at most."""
    found: dict[str, tuple[tuple[int, ...], ...]] = {}
    having = [row for row in rows if "weights" in row.tables]
    for name in dict.fromkeys(name for row in having for name in row.tables["weights"]):
        those = [(row, _print(row, "weights", name)) for row in having if name in row.shards]
        known = [(row, print_) for row, print_ in those if print_ is not None]
        prints = np.array([print_ for _, print_ in known], dtype=np.int64)
        pieces = np.array([row.shards[name].piece for row, _ in known], dtype=np.int64)
        by_mesh: dict[int, set[int]] = {}
        for row, _ in known:
            by_mesh.setdefault(row.shards[name].mesh, set()).add(row.shards[name].piece)
        are_cut_alike = len({len(each) for each in by_mesh.values()}) == 1
        if len(known) > 1 and len(found) < MOST_NAMED and are_cut_alike:
            classes = classes_of(prints, pieces, [_rank(row) for row, _ in known])
            if len(classes) > 1:
                found[name] = classes
    return found


def _first_not_finite(
    held: Mapping[str, Mapping[str, Sequence[Row]]],
) -> tuple[str, str, int] | None:
    """Return kind, name and rank of the first value that is not finite, in the order of a step."""
    turns = {kind: turn for turn, kind in enumerate(IN_A_STEP)}
    for kind in sorted(held, key=lambda kind: turns.get(kind, len(turns))):
        names = list(held[kind])
        having = {_rank(row): row.tables[kind] for rows in held[kind].values() for row in rows}
        bad = {rank: holds_not_finite(kind, table.records) for rank, table in having.items()}
        if any(each.any() for each in bad.values()):
            for name in reversed(names) if kind in BACKWARD else names:
                ranks = [_rank(row) for row in held[kind][name]]
                odd = [rank for rank in ranks if bad[rank][having[rank].index[name]]]
                if odd:
                    return kind, name, min(odd)
    return None


def _local_norms(rows: Sequence[Row]) -> dict[int, float]:
    """Return the norm of the local gradients by rank, of ranks that share a batch one."""
    norms = {_rank(row): row.part.local_norm for row in rows if row.part is not None}
    known = {rank: norm for rank, norm in norms.items() if norm is not None}
    return norms_of_peers(known, _peers_of(rows))


def _peers_of(rows: Sequence[Row]) -> dict[int, tuple[int, ...]]:
    """Return the ranks that share a batch, by the first of them."""
    return {peers[0]: peers for peers in map(_peers, rows)}


def _alike(rows: Sequence[Row]) -> tuple[tuple[int, ...], ...]:
    """Return the ranks that have local gradients of the same parameters together."""
    held = {
        _rank(row): [(n, row.shards[n].numel) for n in row.tables.get(LOCAL_GRADIENTS, ())]
        for row in rows
        if _rank(row) == _peers(row)[0]
    }
    return alike_ranks(held)


def _table(held: Mapping[str, Sequence[Row]], kind: str) -> Table:
    merged = [_record(rows, kind, name) for name, rows in held.items()]
    moments = np.stack([records.moments for records, _ in merged])
    counts = np.stack([records.counts for records, _ in merged])
    places = None
    if all(found is not None for _, found in merged):
        places = np.stack([found for _, found in merged if found is not None])
    with np.errstate(all="ignore"):
        return table_of(tuple(held), Records(moments[None], counts[None]), places, 0)


def _record(rows: Sequence[Row], kind: str, name: str) -> tuple[Records, Integers | None]:
    """Merge the records of one tensor."""
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
