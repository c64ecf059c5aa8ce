"""Join the rows that each rank wrote into a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from initstats.diagnostics.findings import Finding
from initstats.monitoring.alerts import Alerts, Subject
from initstats.monitoring.local_gradients import KIND as LOCAL_GRADIENTS
from initstats.monitoring.momentum import KIND as COSINE
from initstats.monitoring.momentum import add_cosines
from initstats.monitoring.rank_alerts import Together
from initstats.monitoring.rank_norms import norms_of_peers
from initstats.monitoring.rank_rates import common_rates, mean_calls
from initstats.monitoring.reader import REASON, Measured, gradient_norms
from initstats.monitoring.row import RankInfo, Row, Shard
from initstats.monitoring.rules import FirstNotFinite
from initstats.monitoring.steps_taken import ended
from initstats.monitoring.team import FLOWS, OF_EACH_RANK, alike_ranks
from initstats.monitoring.team_lacks import IN_EVERY_STEP, of_elements, on_ranks
from initstats.monitoring.team_loss import joined_losses
from initstats.monitoring.team_row import MOST_NAMED
from initstats.sinks.joined_records import (
    Held,
    OfRanks,
    first_not_finite,
    measured_of,
    merged,
    rank_of,
)
from initstats.sinks.jsonl import read_rows
from initstats.sinks.row_matching import Matched, matched
from initstats.statistics.record_array import COUNT, Floats
from initstats.statistics.replicas import classes_of

_Missing = dict[str, dict[str, str]]


def join_rows(paths: Iterable[str | Path]) -> Iterator[Row]:
    """Join the files of several ranks to rows of the whole model.

    Shards are merged, and of replicas one counts; the outputs of modules are those of all ranks,
    and one that ranks of tensor parallelism have alike counts once. Rows are as those that ranks
    merge while they train, with their norms and the alerts that only several ranks tell. Alerts of
    rules are those of each rank alone, but for NaN and infinities, which are looked for again.

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
    judge = _Judge()
    for found in matched(rows):
        yield _joined(found, judge)


class _Judge:
    """Gives the joined rows the alerts of rows that are merged while training.

    Values that are not finite are looked for again, in the order of a step over all ranks, if any
    rank has told of some; what other rules have told stands.
    """

    def __init__(self) -> None:
        self._alerts = Alerts((FirstNotFinite(),), Subject({}), None)
        self._has_told = False

    def alerts_of(
        self, row: Row, measured: Mapping[str, Measured], rows: Sequence[Row], together: Together
    ) -> tuple[Finding, ...]:
        """Return the alerts of a row that was joined.

        Args:
            row: The joined row.
            measured: The same by step.
            rows: The rows of the ranks.
            together: What only the ranks together tell.
        """
        told: dict[tuple[str, str], Finding] = {}
        for alert in (alert for each in rows for alert in each.alerts):
            told.setdefault((alert.rule, alert.where), alert)
        self._has_told |= any(rule == FirstNotFinite.id for rule, _ in told)
        bad = self._alerts.judge(row, measured).alerts if self._has_told else ()
        others = [alert for (rule, _), alert in told.items() if rule != FirstNotFinite.id]
        return (*bad, *others, *self._alerts.across.judge(together))


def _joined(found: Matched, judge: _Judge) -> Row:
    rows = [found.rows[rank] for rank in sorted(found.rows)]
    first = rows[0]
    steps = tuple(sorted({step for row in rows for step in row.steps}))
    kinds = dict.fromkeys(kind for row in rows for kind in row.tables)
    held = {kind: _held(rows, kind) for kind in kinds}
    of_ranks = {rank_of(row): measured_of(row) for row in rows}
    every = {kind: merged(of_ranks, kind, counted) for kind, counted in held.items()}
    measured = {kind: one for kind, one in every.items() if one is not None}
    _add_products(rows, measured, held)
    norms, before = _norms(rows, measured.get("gradients"), held.get("gradients", {}))
    cut = {
        rank_of(row): ended(row.steps[-1])
        for row in rows
        if row.steps and row.steps[-1] < steps[-1]
    }
    missing = _missing(rows, of_ranks, measured, {**found.missing, **cut})
    rates, other_rates = common_rates({rank_of(row): row.learning_rates for row in rows})
    together = Together(
        _differing([row for row in rows if rank_of(row) not in cut]),
        first_not_finite(of_ranks, held),
        _local_norms(rows),
        _alike(rows),
        _peers_of(rows),
        missing.get("ranks", {}),
        found.updates,
        rates,
        other_rates,
    )
    row = replace(
        first,
        step=max(row.step for row in rows),
        steps=steps,
        measured=len(steps),
        tables={kind: one.table for kind, one in measured.items()},
        gradient_norm=norms,
        gradient_norm_before_clipping=before,
        missing=missing,
        alerts=(),
        calls=mean_calls(rows),
        learning_rates=rates,
        smooth=tuple(dict.fromkeys(name for row in rows for name in row.smooth)),
        ranks=replace(_info(rows), learning_rates=other_rates),
        loss=joined_losses(rows, steps),
        shards={},
        part=None,
    )
    return replace(row, alerts=judge.alerts_of(row, measured, rows, together))


def _info(rows: Sequence[Row]) -> RankInfo:
    """Return whose row it is, with the slowest and the fastest rank where rows tell."""
    assert rows[0].ranks is not None
    # Of the first row nothing tells how long its steps took: 0 seconds.
    times = [(rank_of(row), row.part.seconds) for row in rows if row.part and row.part.seconds]
    info = replace(rows[0].ranks, scope="merged")
    if not times:
        return info
    slowest, fastest = (best(times, key=lambda each: each[1]) for best in (max, min))
    return replace(info, slowest=slowest, fastest=fastest)


def _missing(
    rows: Sequence[Row],
    of_ranks: OfRanks,
    measured: Mapping[str, Measured],
    absent: Mapping[int, str],
) -> _Missing:
    """Say what is in no row, which ranks have none, and of what the ranks hold only a part."""
    missing = _lost(rows, of_ranks, measured)
    missing["ranks"] = {f"rank {rank}": why for rank, why in absent.items()}
    numel = {name: shard.numel for row in rows for name, shard in row.shards.items()}
    for kind, found in measured.items():
        if kind in (*OF_EACH_RANK, COSINE):
            continue
        least = found.by_step.counts[..., COUNT].min(axis=0)
        for name, count in zip(found.table.names, least.tolist(), strict=True):
            if 0 < count < numel.get(name, 0):
                named = missing.setdefault(kind, {})
                named[name] = of_elements(int(count), numel[name], named.get(name))
    return {kind: names for kind, names in missing.items() if names}


def _lost(rows: Sequence[Row], of_ranks: OfRanks, measured: Mapping[str, Measured]) -> _Missing:
    """Say what rows lack: of what is there on other ranks, or in other steps, which ranks do."""
    lost = {rank_of(row): _lost_of(row, of_ranks) for row in rows}
    everything = dict.fromkeys(key for each in lost.values() for key in each)
    layouts = set()
    for row in rows:
        told = ((key, n) for key, (_, n) in lost[rank_of(row)].items() if _is_told(row, key[0]))
        layouts.add(frozenset(told))
    missing: _Missing = {}
    for kind, name in everything:
        whys = {rank: each[kind, name][0] for rank, each in lost.items() if (kind, name) in each}
        why = next(iter(whys.values()))
        if len(layouts) > 1 and kind not in OF_EACH_RANK:
            holders = [row for row in rows if name in row.shards] or rows
            if kind in IN_EVERY_STEP or len(whys) < len(holders):
                missing.setdefault(kind, {})[name] = on_ranks(why, list(whys))
                continue
        if kind not in measured or name not in measured[kind].table.index:
            missing.setdefault(kind, {})[name] = why
    return missing


def _is_told(row: Row, kind: str) -> bool:
    """Tell whether ranks must lack the same of a kind; some optimizers keep no moments at all."""
    return kind not in OF_EACH_RANK and (kind in IN_EVERY_STEP or kind in row.tables)


def _lost_of(row: Row, of_ranks: OfRanks) -> dict[tuple[str, str], tuple[str, int]]:
    """Return by kind and name why a rank lacks a tensor, and in how many steps of its row."""
    steps = len(row.steps)
    lost = {(k, name): (why, steps) for k, of in row.missing.items() for name, why in of.items()}
    for kind, (_, records) in ({} if row.part is None else row.part.by_step).items():
        there = (records.counts[..., COUNT] > 0).sum(axis=0)
        for j in np.flatnonzero((there > 0) & (there < steps)).tolist():
            name = of_ranks[rank_of(row)][kind].table.names[j]
            lost[kind, name] = REASON.get(kind, "not measured"), steps - int(there[j])
    return lost


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
            those = _one_of_replicas(those, name, [_count(row, kind, name) for row in those])
        elif kind in FLOWS and _is_copied(those, kind, name):
            present = {rank_of(row) for row in those}
            those = [row for row in those if rank_of(row) == min(present.intersection(_peers(row)))]
        held[name] = those
    return held


def _one_of_replicas(rows: Sequence[Row], name: str, counts: Sequence[int]) -> list[Row]:
    """Return of all replicas of a tensor the one with the highest counts, of several the first."""
    by_mesh: dict[int, dict[int, tuple[int, Row]]] = {}
    for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
        shard = row.shards.get(name, Shard(i, 0, -1))
        pieces = by_mesh.setdefault(shard.mesh, {})
        if shard.piece not in pieces or count > pieces[shard.piece][0]:
            pieces[shard.piece] = count, row
    most = max(sorted(by_mesh), key=lambda mesh: sum(n for n, _ in by_mesh[mesh].values()))
    return [row for _, (_, row) in sorted(by_mesh[most].items(), key=lambda each: each[0])]


def _count(row: Row, kind: str, name: str) -> int:
    table = row.tables[kind]
    return int(table.records.counts[table.index[name], COUNT])


def _peers(row: Row) -> tuple[int, ...]:
    return row.part.peers if row.part is not None and row.part.peers else (rank_of(row),)


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
    rows: Sequence[Row], gradients: Measured | None, held: Mapping[str, Sequence[Row]]
) -> tuple[Floats, Floats]:
    """Return the norm of the whole gradient in each step, and before clipping; empty without."""
    nothing = np.empty(0)
    if gradients is None:
        return nothing, nothing
    having = [row for row in rows if "gradients" in row.tables]
    parts = [row.part for row in having if row.part is not None]
    if len(parts) < len(having):  # written by an earlier version
        return gradient_norms(gradients.by_step) if rows[0].measured == 1 else nothing, nothing
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


def _add_products(rows: Sequence[Row], measured: dict[str, Measured], held: Held) -> None:
    """Add the cosines of momentum and gradient of shards."""
    having = [row for row in rows if row.part is not None and row.part.products]
    parts = {rank_of(row): row.part for row in having if row.part is not None}
    names = list(dict.fromkeys(name for part in parts.values() for name in part.products))
    steps = sorted({step for part in parts.values() for step in part.product_steps})
    sums = np.zeros((len(steps), len(names), 3))
    for i, name in enumerate(names):
        those = [row for row in having if name in parts[rank_of(row)].products]
        steps_of = [len(parts[rank_of(row)].product_steps) for row in those]
        for row in _one_of_replicas(those, name, steps_of):
            part = parts[rank_of(row)]
            at = [steps.index(step) for step in part.product_steps]
            sums[at, i] += part.products[name]
    add_cosines(measured, names, steps, sums, list(held.get("gradients", ())))


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
            classes = classes_of(prints, pieces, [rank_of(row) for row, _ in known])
            if len(classes) > 1:
                found[name] = classes
    return found


def _local_norms(rows: Sequence[Row]) -> dict[int, float]:
    """Return the norm of the local gradients by rank, of ranks that share a batch one."""
    norms = {rank_of(row): row.part.local_norm for row in rows if row.part is not None}
    known = {rank: norm for rank, norm in norms.items() if norm is not None}
    return norms_of_peers(known, _peers_of(rows))


def _peers_of(rows: Sequence[Row]) -> dict[int, tuple[int, ...]]:
    """Return the ranks that share a batch, by the first of them."""
    return {peers[0]: peers for peers in map(_peers, rows)}


def _alike(rows: Sequence[Row]) -> tuple[tuple[int, ...], ...]:
    """Return the ranks that have local gradients of the same parameters together."""
    held = {
        rank_of(row): [(n, row.shards[n].numel) for n in row.tables.get(LOCAL_GRADIENTS, ())]
        for row in rows
        if rank_of(row) == _peers(row)[0]
    }
    return alike_ranks(held)
