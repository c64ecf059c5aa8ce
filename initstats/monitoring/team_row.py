"""One row over the ranks of a team: what a rank adds, the messages, and what comes out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from initstats import _ops
from initstats.monitoring.local_gradients import KIND as LOCAL_GRADIENTS
from initstats.monitoring.momentum import KIND as COSINE
from initstats.monitoring.momentum import add_cosines, sums_of
from initstats.monitoring.rank_norms import norms_of_peers
from initstats.monitoring.reader import Measured, gradient_norms, table_of, unclipped
from initstats.monitoring.row import Part, RankInfo, Row, Table, Taken
from initstats.monitoring.rules import BACKWARD, IN_A_STEP, holds_not_finite
from initstats.monitoring.steps_taken import Parted, ended, left_out
from initstats.monitoring.team import CLIPPING_NAMES, FLOWS, Kind, Team
from initstats.monitoring.team_lacks import lacks_of, lacks_text, of_elements, stand_ins
from initstats.monitoring.team_numbers import (
    agree,
    calls_message,
    calls_of,
    learning_rates,
    look,
    numbers_of,
)
from initstats.monitoring.window import BEFORE_CLIPPING, HIDDEN, PRODUCTS
from initstats.statistics.across_ranks import run
from initstats.statistics.histogram import PLACES
from initstats.statistics.record_array import (
    COUNT,
    FINGERPRINT,
    L1,
    NAN,
    POS_INF,
    Floats,
    Groups,
    Integers,
    Records,
)
from initstats.statistics.reduction import (
    Array,
    Contribution,
    Header,
    Merged,
    Message,
    finish,
)
from initstats.statistics.replicas import classes_of

CLOSED = "closed its monitor"
ELSEWHERE = "was at step {step}: it called step() less or more often"
_CLOSED = 2.0**52  # in the place of the number of a row
MOST_NAMED = 16  # tensors with differing replicas that are looked into
_FUNCTION = "Monitor"


@dataclass(frozen=True, eq=False)
class Offer:
    """What one rank adds to a row.

    Attributes:
        row: Number of the row.
        contribution: Records in the order that the ranks agreed on.
        prints: Fingerprints of this rank's weights, int64 `[n]`.
        has_weights: Which of them were measured, bool `[n]`.
        copies: What tells which outputs ranks that share a batch have in common, int64 `[m]`.
        lacks: Measured steps in which this rank lacks what it holds, by tensor of all kinds, int64.
        numbers: What this rank should have alike with the others, `[k]`.
        told: The row of this rank, None for none.
        again: Makes the same of kinds of which this rank counts others, and of a row with steps up
            to one that this rank may not have measured.
    """

    row: int
    contribution: Contribution
    prints: Integers
    has_weights: Array
    copies: Integers
    lacks: Integers
    numbers: Floats
    told: Row | None
    again: Callable[[Mapping[str, Kind], int | None], Offer]

    @property
    def taken(self) -> Taken | None:
        """Steps of the optimizer of this rank, None where it counts none."""
        return None if self.told is None or self.told.part is None else self.told.part.taken

    @property
    def last(self) -> int | None:
        """The last step that this rank has measured, None for no row."""
        return None if self.told is None else _last_of(self.told)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the ranks made of one row.

    Attributes:
        row: Number of the row.
        measured: By kind, merged over all ranks.
        missing: Why a rank, under "ranks", or a part of a tensor is not in it, by kind and name.
        ranks: Which ranks it is of.
        took_own: Whether this rank's own measurements are in it.
        differing: By tensor, ranks with equal bits together, the most first.
        first_not_finite: Kind, name and rank of the first value that is not finite, or None.
        local_norms: Norm of the gradients before the reduction, the largest of the window; by rank,
            of those that measured it, and of ranks that share a batch by the first of them.
        parted: Ranks that have taken other steps than the rest.
        calls: Of each module per step, the mean over the ranks that watch it.
        learning_rates: Those that most ranks have, by name.
        other_rates: Those of ranks that have others, by rank and name.
    """

    row: int
    measured: dict[str, Measured]
    missing: dict[str, dict[str, str]]
    ranks: RankInfo
    took_own: bool
    differing: dict[str, tuple[tuple[int, ...], ...]]
    first_not_finite: tuple[str, str, int] | None
    local_norms: dict[int, float] = field(default_factory=dict)
    parted: Parted = field(default_factory=Parted)
    calls: dict[str, float] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)
    other_rates: dict[str, dict[str, float]] = field(default_factory=dict)


def offer(
    team: Team,
    measured: Mapping[str, Measured],
    row: int,
    told: Row | None = None,
    kinds: Mapping[str, Kind] | None = None,
    last: int | None = None,
) -> Offer:
    """Return what this rank adds to a row: by kind, step and name, as the ranks agreed.

    Args:
        team: The ranks.
        measured: By kind, of this rank.
        row: Number of the row.
        told: The row of this rank, None for one without anything.
        kinds: What this rank counts, None for what the ranks agreed on.
        last: The last step that any rank has measured, None for that of this one.
    """
    steps = team.schedule.steps_of(row)
    given, kinds = measured, team.kinds if kinds is None else kinds
    part = (told and told.part) or Part()
    if last is None:
        last = steps[-1] if told is None else told.step
    lacks = lacks_of(kinds, given, [step for step in steps if step <= last])
    moments, counts, places, histogram_of, bad = [], [], [], [], []
    at, checks = 0, np.empty(0, dtype=np.int64)
    prints, has_weights = checks, np.empty(0, dtype=bool)
    copies = [checks]
    measured = dict(measured)
    if "gradients" in measured:
        measured[BEFORE_CLIPPING] = _squares(measured, kinds["gradients"])
    for kind, agreed in kinds.items():
        n = len(agreed.names)
        placed = _placed(agreed, measured.get(kind), steps)
        moments.append(placed.records.moments.reshape(-1, 8))
        counts.append(placed.records.counts.reshape(-1, 8))
        places.append(placed.places)
        histogram_of.append(np.tile(np.arange(at, at + n), len(steps)))
        bad.append(holds_not_finite(kind, placed.records).ravel() & (kind not in HIDDEN))
        at += n
        if team.has_peers and kind in FLOWS:
            copies += _copies(team, placed)
        if kind == "weights":
            prints, has_weights = placed.prints, placed.has_print
            owed = np.where(agreed.is_counted, agreed.replicas * prints, 0)
            checks = np.where(has_weights & (agreed.replicas > 1), prints - owed, 0)
    length = sum(map(len, moments))
    contribution = Contribution(
        names=("",) * length,
        shapes=(),
        records=Records(np.concatenate(moments), np.concatenate(counts)),
        places=np.concatenate(places) if team.histograms else None,
        scale=0,
        numel=np.full(length, -1, dtype=np.int64),
        fingerprint=False,
        rank=team.rank,
        ranks=len(team.ranks),
        seconds=part.seconds,
        histogram_of=np.concatenate(histogram_of),
        checks=np.concatenate(
            (
                checks,
                *copies,
                calls_message(team, told),
                _norm_message(team, measured.get(LOCAL_GRADIENTS)),
            )
        ),
        # Ranks that have closed all say the same, whatever each holds.
        tag=f"row {row}{lacks_text(kinds, given, lacks) if row >= 0 else ''}",
        order=_order(kinds, len(steps)),
        not_finite=np.concatenate(bad),
    )
    rates = {} if told is None else told.learning_rates
    numbers = numbers_of(team, part.taken, None if told is None else _last_of(told), rates)
    again = functools.partial(offer, team, given, row, told)
    copied = np.concatenate(copies)
    return Offer(row, contribution, prints, has_weights, copied, lacks, numbers, told, again)


def _last_of(row: Row) -> int:
    return row.steps[-1] if row.steps else row.step


def _copies(team: Team, placed: _Placed) -> tuple[Integers, Integers]:
    """Return what sums to 0 over all ranks where peers have the same bits, and who has any."""
    owed = placed.prints * (len(team.peers) if team.rank == team.peers[0] else 0)
    there = placed.has_print.astype(np.int64)
    return (placed.prints - owed) * there, there


def _learn(team: Team, copies: Integers) -> None:
    """Note which outputs all peers have alike, as far as all ranks have measured them."""
    found, at = team.copied or {}, 0
    for kind in filter(team.kinds.__contains__, FLOWS):
        agreed = team.kinds[kind]
        n = len(agreed.names)
        differs, there = copies[at : at + 2 * n].reshape(2, n)
        before = found.get(kind, np.zeros(n, dtype=bool))
        found[kind] = np.where(there == agreed.holders, differs == 0, before)
        at += 2 * n
    team.copied = found


def _once(team: Team, contribution: Contribution, there: Mapping[int, int]) -> Contribution:
    """Leave out what another rank counts: outputs that its peers have alike.

    Args:
        team: The ranks.
        contribution: What this rank has.
        there: The last measured step of ranks in the row, where some are not in all of it. The
            first of peers that goes furthest counts; empty for the first of all.
    """
    peers = [rank for rank in team.peers if rank in there]
    counting = max(peers, key=there.__getitem__, default=team.peers[0])
    if team.copied is None or team.rank == counting:
        return contribution
    steps, at, rows = team.schedule.window, 0, 0
    moments, counts = contribution.records.moments.copy(), contribution.records.counts.copy()
    places = None if contribution.places is None else contribution.places.copy()
    nothing = Records.empty(1)
    for kind, agreed in team.kinds.items():
        n = len(agreed.names)
        if kind in team.copied:
            copied = np.flatnonzero(team.copied[kind])
            which = (at + np.arange(steps)[:, None] * n + copied).ravel()
            moments[which], counts[which] = nothing.moments[0], nothing.counts[0]
            if places is not None:
                places[rows + copied] = 0
        at, rows = at + steps * n, rows + n
    return replace(contribution, records=Records(moments, counts), places=places)


def merge(team: Team, own: Offer | None) -> Outcome | None:
    """Merge the next row over the ranks; waits for all of them. In the reader's thread.

    Args:
        team: The ranks.
        own: What this rank adds; None when it has closed its monitor.

    Returns:
        What came out, or None when all ranks have closed.

    Raises:
        RuntimeError: If a rank is gone or does not come.
    """
    return run(_rounds(team, own), team.reduce)


def _order(kinds: Mapping[str, Kind], steps: int) -> Integers:
    """Return when each record comes: step by step, in the order of a step, gradients backwards."""
    keys: list[tuple[int, int, int]] = []
    for kind, agreed in kinds.items():
        n, sign = len(agreed.names), -1 if kind in BACKWARD else 1
        turn = IN_A_STEP.index(kind) if kind in IN_A_STEP else len(IN_A_STEP)
        keys += [(k, turn, sign * i) for k in range(steps) for i in range(n)]
    order = np.empty(len(keys), dtype=np.int64)
    # Of kinds with the same turn the sort, which is stable, keeps the order.
    order[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return order


def _squares(measured: Mapping[str, Measured], agreed: Kind) -> Measured:
    """Return what this rank adds to the norm before clipping, step by step.

    Of every gradient those elements count that count in the gradients themselves, so that the norm
    is that of the whole gradient, however it is spread.
    """
    gradients, before = measured["gradients"], measured.get(BEFORE_CLIPPING)
    counted = dict(zip(agreed.names, agreed.is_counted.tolist(), strict=True))
    mine = [i for i, name in enumerate(gradients.table.names) if counted.get(name, False)]
    squares = gradient_norms(unclipped(measured)[:, mine]) ** 2
    values = torch.from_numpy(np.stack((squares, np.ones_like(squares)), 1).reshape(-1, 1))
    moments, counts, _ = (x.numpy().copy() for x in _ops.stats(list(values), Groups.MOMENTS, 0))
    k = len(gradients.steps)
    by_step = Records(moments.reshape(k, 2, 8), counts.reshape(k, 2, 8))
    nothing = Records.empty(1)
    for at, step in enumerate(gradients.steps):
        if before is None or step not in before.steps:
            by_step.moments[at, 1], by_step.counts[at, 1] = nothing.moments[0], nothing.counts[0]
    return Measured(Table(CLIPPING_NAMES, Records.empty(2)), gradients.steps, by_step)


def norms_before_clipping(found: Measured, steps: Sequence[int], norms: Floats) -> Floats:
    """Return the norm before clipping of each step, `[steps]`; empty where nothing was clipped.

    Args:
        found: The merged sums of squares.
        steps: Steps that have gradients.
        norms: The norm of the gradients in each; it stands where nothing was clipped.
    """
    if CLIPPING_NAMES[1] not in found.table.index:
        return np.empty(0)
    squares = found.by_step[:, found.table.index[CLIPPING_NAMES[0]]]
    clipped = found.by_step.counts[:, found.table.index[CLIPPING_NAMES[1]], COUNT] > 0
    totals = np.sqrt(squares.moments[:, L1])
    totals[squares.counts[:, POS_INF] > 0] = math.inf
    totals[squares.counts[:, NAN] > 0] = math.nan
    before: Floats = norms.copy()
    for k in np.flatnonzero(clipped).tolist():
        if found.steps[k] in steps:
            before[steps.index(found.steps[k])] = totals[k]
    return before


def _norm_message(team: Team, found: Measured | None) -> Integers:
    """Return the norm of this rank in a place of its own: pairs of float32 in an int64.

    All other ranks have 0 there, so that the sum is what each has put in.
    """
    if LOCAL_GRADIENTS not in team.kinds:
        return np.empty(0, dtype=np.int64)
    norms = np.zeros(len(team.ranks) + len(team.ranks) % 2, dtype=np.float32)
    if found is not None:
        with np.errstate(all="ignore"):
            largest = np.float32(gradient_norms(found.by_step).max())
        norms[team.ranks.index(team.rank)] = np.fmax(largest, _LEAST) if largest == 0 else largest
    return norms.view(np.int64)


# In place of a norm of 0, which means that there is none: the smallest float32.
_LEAST = np.nextafter(np.float32(0), np.float32(1))


def _norms(team: Team, message: Integers) -> dict[int, float]:
    """Return the norms by rank, of ranks that share a batch one."""
    norms: Floats = message.view(np.float32).astype(np.float64)
    pairs = zip(team.ranks, norms.tolist(), strict=False)
    return norms_of_peers({rank: norm for rank, norm in pairs if norm != 0}, team.peers_of)


@dataclass(frozen=True, eq=False)
class _Placed:
    records: Records  # [steps, n]
    places: Integers  # [n, 512]
    prints: Integers  # [n], of the last step
    has_print: Array  # bool [n]


def _placed(agreed: Kind, found: Measured | None, steps: Sequence[int]) -> _Placed:
    """Put the records of a kind where the ranks agreed to have them."""
    n = len(agreed.names)
    placed = _Placed(
        Records.empty(len(steps), n),
        np.zeros((n, 2 * PLACES), dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=bool),
    )
    rows = (
        []
        if found is None
        else [(steps.index(step), j) for j, step in enumerate(found.steps) if step in steps]
    )
    if found is None or not rows:
        return placed
    index = {name: i for i, name in enumerate(agreed.names)}
    pairs = [(index[name], j) for j, name in enumerate(found.table.names) if name in index]
    for i, j in pairs:
        placed.prints[i] = found.by_step.counts[rows[-1][1], j, FINGERPRINT]
        placed.has_print[i] = found.by_step.counts[rows[-1][1], j, COUNT] > 0
    pairs = [(i, j) for i, j in pairs if agreed.is_counted[i]]
    to, source = [i for i, _ in pairs], [j for _, j in pairs]
    for k, j in rows:
        placed.records.moments[k, to] = found.by_step.moments[j, source]
        placed.records.counts[k, to] = found.by_step.counts[j, source]
    if found.table.places is not None:
        for i, j in pairs:
            placed.places[i] = found.table.places.full(j).ravel()
    return placed


def _rounds(team: Team, own: Offer | None) -> Generator[Message, Array, Outcome | None]:
    """Exchange the messages of one row: three, and more where ranks are not at the same row."""
    nothing = offer(team, {}, -1)
    mine, took_own = own or nothing, own is not None
    room = len(nothing.contribution.names)
    agreed, numbers = yield from agree(mine.contribution, mine.numbers, room)
    differs = Header.read(agreed).digests_differ
    missing: dict[str, str] = {}
    absent: dict[str, dict[str, str]] = {}
    apart = Parted()
    there: dict[int, int] = {}
    row, last = -1 if own is None else own.row, None
    if differs or numbers.differ_in_steps or numbers.differ_in_ends:
        here = _CLOSED if own is None else own.row
        at, apart, ends = yield from look(team, here, mine.taken, mine.last)
        row = int(at.min())
        missing = _missing(team, at, row)
        missing |= {f"rank {rank}": left_out(steps) for rank, steps in apart.behind.items()}
        took_own = own is not None and own.row == row and team.rank not in apart.behind
        pairs = zip(team.ranks, ends.tolist(), strict=True)
        there = {rank: int(end) for rank, end in pairs if f"rank {rank}" not in missing}
        last = max(there.values(), default=None)
        missing |= {f"rank {r}": ended(end) for r, end in there.items() if end != last}
    elif own is None:
        return None
    if differs or missing:
        mine = own.again(team.kinds, last) if own is not None and took_own else nothing
        is_whole = took_own and f"rank {team.rank}" not in missing
        kinds, absent = yield from stand_ins(team, mine.lacks, takes_part=is_whole)
        mine = mine.again(kinds, last)
        agreed, numbers = yield from agree(mine.contribution, mine.numbers, room)
    if team.has_peers and team.copied is None and not missing:
        _learn(team, (yield Message("sum", mine.copies)))
    counted = _once(team, mine.contribution, there)
    merged: Merged = yield from finish(_FUNCTION, counted, agreed)
    ends = np.cumsum([len(mine.prints), len(mine.copies), len(team.modules)])
    replicas, copies, calls, norms = np.split(merged.checks, ends)
    if team.has_peers and not missing:
        _learn(team, copies)
    differing = {}
    if replicas.any() and not missing:
        differing = yield from _differing(team, mine, replicas)
    absent |= {"ranks": missing} if missing else {}
    own_rates = {} if mine.told is None else mine.told.learning_rates
    rates, other_rates = yield from learning_rates(team, numbers, own_rates)
    outcome = _outcome(team, merged, row, absent, took_own, differing)
    return replace(
        outcome,
        local_norms=_norms(team, norms),
        parted=apart,
        calls=calls_of(team, calls),
        learning_rates=rates,
        other_rates=other_rates,
    )


def _missing(team: Team, at: Array, row: int) -> dict[str, str]:
    found = {}
    for rank, its_row in zip(team.ranks, at.tolist(), strict=True):
        if its_row == _CLOSED:
            found[f"rank {rank}"] = CLOSED
        elif its_row != row:
            step = team.schedule.steps_of(int(its_row))[-1]
            found[f"rank {rank}"] = ELSEWHERE.format(step=step)
    return found


def _differing(
    team: Team, mine: Offer, checks: Integers
) -> Generator[Message, Array, dict[str, tuple[tuple[int, ...], ...]]]:
    """Find the ranks whose replicas of some weights differ."""
    weights = team.kinds["weights"]
    named = np.flatnonzero(checks)[:MOST_NAMED]
    seen = np.zeros((3, len(team.ranks), len(named)), dtype=np.int64)
    at = team.ranks.index(team.rank)
    seen[:, at] = mine.prints[named], weights.pieces[named], mine.has_weights[named]
    prints, pieces, there = (yield Message("sum", seen.ravel())).reshape(3, -1, len(named))
    found = {}
    for k, i in enumerate(named.tolist()):
        here = np.flatnonzero(there[:, k])
        ranks = [team.ranks[j] for j in here.tolist()]
        classes = classes_of(prints[here, k], pieces[here, k], ranks)
        if len(classes) > 1:
            found[weights.names[i]] = classes
    return found


def _outcome(
    team: Team,
    merged: Merged,
    row: int,
    missing: Mapping[str, Mapping[str, str]],
    took_own: bool,
    differing: dict[str, tuple[tuple[int, ...], ...]],
) -> Outcome:
    """Take the merged records apart: by kind, the steps and names that any rank measured."""
    steps, at, rows = team.schedule.steps_of(row), 0, 0
    measured: dict[str, Measured] = {}
    absent = {kind: dict(names) for kind, names in missing.items()}
    first = None
    products: dict[str, Records] = {}
    for kind, agreed in team.kinds.items():
        k, n = len(steps), len(agreed.names)
        part = merged.records[at : at + k * n]
        if merged.first_not_finite is not None and 0 <= merged.first_not_finite[0] - at < k * n:
            first = (
                kind,
                agreed.names[(merged.first_not_finite[0] - at) % n],
                merged.first_not_finite[1],
            )
        by_step = Records(part.moments.reshape(k, n, 8), part.counts.reshape(k, n, 8))
        if kind in PRODUCTS:
            products[kind] = by_step
            at, rows = at + k * n, rows + n
            continue
        counted = by_step.counts[..., COUNT]
        there, names = np.flatnonzero(counted.any(axis=1)), np.flatnonzero(counted.any(axis=0))
        if there.size:
            places = None if merged.places is None else merged.places[rows : rows + n][names]
            by_step = by_step[np.ix_(there, names)]
            kept = tuple(agreed.names[i] for i in names.tolist())
            found_steps = tuple(steps[j] for j in there.tolist())
            with np.errstate(all="ignore"):
                table = table_of(kept, by_step, places, 0)
            measured[kind] = Measured(table, found_steps, by_step)
        least = counted[there].min(axis=0, initial=1 << 62) if there.size else np.zeros(n)
        for i in np.flatnonzero((agreed.numel > least) & (least > 0)).tolist():
            named, name = absent.setdefault(kind, {}), agreed.names[i]
            named[name] = of_elements(int(least[i]), int(agreed.numel[i]), named.get(name))
        at, rows = at + k * n, rows + n
    if products:
        shards, order = team.kinds[PRODUCTS[0]].names, team.kinds[COSINE].names
        add_cosines(measured, shards, steps, sums_of(products), order)
    info = replace(team.info, slowest=merged.slowest, fastest=merged.fastest)
    return Outcome(row, measured, absent, info, took_own, differing, first)
