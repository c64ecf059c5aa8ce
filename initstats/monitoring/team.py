"""The ranks that write one row together: what they agree on, and how a row is merged over them."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from initstats.monitoring.reader import Measured, table_of
from initstats.monitoring.row import RankInfo, Shard
from initstats.monitoring.window import Layout
from initstats.sharding import Spread, is_dtensor
from initstats.statistics.across_ranks import OPS, Ranks, run
from initstats.statistics.histogram import PLACES
from initstats.statistics.record_array import COUNT, FINGERPRINT, Integers, Records
from initstats.statistics.reduction import (
    Array,
    Contribution,
    Header,
    Merged,
    Message,
    finish,
    first_message,
)
from initstats.statistics.replicas import classes_of

# Kinds of which every rank has elements of its own: outputs of modules for its own batch.
OF_EACH_RANK = ("activations", "inputs")
CLOSED = "closed its monitor"
ELSEWHERE = "was at step {step}: it called step() less or more often"
_SILENT_SECONDS = 5.0  # how long survivors wait for each other's sign of life
_LOOK_SECONDS = 1.0  # how often a waiting rank looks whether another has given up
_SHORTEST_PAUSE, _LONGEST_PAUSE = 2e-4, 2e-2  # seconds between two looks at a message
_CLOSED = 2.0**52  # in the place of the number of a row
_NAMED = 16  # tensors with differing replicas that are looked into
_FUNCTION = "Monitor"


@dataclass(frozen=True)
class Schedule:
    """Which steps are measured, and which row each belongs to: the same on all ranks.

    Attributes:
        first: Number of the first step.
        every: Steps from one measured step to the next.
        window: Measured steps per row.
    """

    first: int
    every: int
    window: int

    def row_of(self, step: int) -> int:
        """Return the number of the row of a measured step, from 0."""
        return (step - self.first) // (self.every * self.window)

    def steps_of(self, row: int) -> list[int]:
        """Return the measured steps of a row."""
        begin = self.first + row * self.window * self.every
        return [begin + i * self.every for i in range(self.window)]


@dataclass(frozen=True, eq=False)
class Kind:
    """The tensors of one kind, over all ranks.

    Attributes:
        names: Their names.
        numel: Elements over all ranks, int64 `[n]`; -1 where it is not known.
        is_counted: Whether this rank counts its elements, bool `[n]`.
        replicas: Ranks that hold each element, int64 `[n]`; 0 for those of each rank's own.
        pieces: The same number on ranks that hold the same elements, int64 `[n]`.
    """

    names: Layout
    numel: Integers
    is_counted: Array
    replicas: Integers
    pieces: Integers


@dataclass(frozen=True, eq=False)
class Offer:
    """What one rank adds to a row.

    Attributes:
        row: Number of the row.
        contribution: Records in the order that the ranks agreed on.
        prints: Fingerprints of this rank's weights, int64 `[n]`.
        has_weights: Which of them were measured, bool `[n]`.
    """

    row: int
    contribution: Contribution
    prints: Integers
    has_weights: Array


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
    """

    row: int
    measured: dict[str, Measured]
    missing: dict[str, dict[str, str]]
    ranks: RankInfo
    took_own: bool
    differing: dict[str, tuple[tuple[int, ...], ...]]
    first_not_finite: tuple[str, str, int] | None


class Team:
    """The ranks of a group, on a gloo group of their own. Made by all of them together.

    Args:
        group: The ranks.
        schedule: When to measure.
        names: Names by kind that this rank expects.
        parameters: The watched parameters by name, to learn how they are spread.
        histograms: Whether histograms are kept.
        timeout: Seconds to wait for a rank before going on alone.

    Raises:
        TypeError: If group is no process group that this rank is in.
        ValueError: If the ranks have different schedules.
        RuntimeError: If a rank does not come.
    """

    def __init__(
        self,
        group: object,
        schedule: Schedule,
        names: Mapping[str, Layout],
        parameters: Mapping[str, Tensor],
        *,
        histograms: bool,
        timeout: float,
    ) -> None:
        given = Ranks(_FUNCTION, group)
        self.schedule = schedule
        self.ranks, self.rank = given.ranks, given.rank
        self.histograms = histograms
        limit = dt.timedelta(seconds=timeout)
        own = dist.new_group(
            list(given.ranks), timeout=limit, backend="gloo", use_local_synchronization=True
        )
        self._group = Ranks(_FUNCTION, own)
        everyone: list[Any] = [None] * len(self.ranks)
        run_id = os.environ.get("TORCHELASTIC_RUN_ID") or uuid.uuid4().hex[:12]
        dist.all_gather_object(everyone, (schedule, histograms, run_id), group=own)
        if any(each[:2] != everyone[0][:2] for each in everyone):
            odd = next(i for i, each in enumerate(everyone) if each[:2] != everyone[0][:2])
            msg = (
                f"initstats.{_FUNCTION}: expected the same every, window, first_step and histograms"
                f" on all ranks, got {everyone[odd][:2]} on rank {self.ranks[odd]} and"
                f" {everyone[0][:2]} on rank {self.ranks[0]}"
            )
            raise ValueError(msg)
        self.info = RankInfo(
            self.rank,
            "merged",
            len(self.ranks),
            everyone[0][2],
            int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )
        self.kinds = self._agree(names, parameters)
        self.shards = shards_of(parameters, self.rank)
        self._alive = PrefixStore(
            f"initstats/{own.group_name}",
            dist.distributed_c10d._get_default_store(),  # noqa: SLF001
        )

    @property
    def writes(self) -> bool:
        """Whether this rank writes the rows."""
        return self.rank == self.ranks[0]

    def _agree(
        self, names: Mapping[str, Layout], parameters: Mapping[str, Tensor]
    ) -> dict[str, Kind]:
        """Agree on the names of every kind: those of all ranks, and who holds each."""
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        mine = {
            kind: [(name, shapes.get(name, ())) for name in layout]
            for kind, layout in names.items()
        }
        everyone: list[Any] = [None] * len(self.ranks)
        digests: list[Any] = [None] * len(self.ranks)
        dist.all_gather_object(digests, hash_of(repr(mine)), group=self._group.group)
        if len(set(digests)) == 1:
            everyone = [mine] * len(self.ranks)
        else:
            dist.all_gather_object(everyone, mine, group=self._group.group)
        found = {}
        for kind in dict.fromkeys(kind for each in everyone for kind in each):
            holders: dict[str, list[int]] = {}
            for rank, each in zip(self.ranks, everyone, strict=True):
                for name, _ in each.get(kind, ()):
                    holders.setdefault(name, []).append(rank)
            found[kind] = self._kind(kind, holders, parameters)
        return found

    def _kind(
        self, kind: str, holders: Mapping[str, Sequence[int]], parameters: Mapping[str, Tensor]
    ) -> Kind:
        n = len(holders)
        numel, counted = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=bool)
        replicas, pieces = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        for i, (name, ranks) in enumerate(holders.items()):
            if kind in OF_EACH_RANK:
                counted[i] = True
                continue
            parameter = parameters.get(name)
            if parameter is None:  # of other ranks alone
                continue
            spread = spread_of(parameter, self.rank)
            counted[i] = spread.is_counted(self.rank, ranks[i % len(ranks)])
            replicas[i] = len(ranks) * spread.replicas // len(spread.ranks)
            pieces[i] = spread.piece(self.rank)
            numel[i] = spread.numel
        return Kind(tuple(holders), numel, counted, replicas, pieces)

    # ---- one row

    def offer(self, measured: Mapping[str, Measured], row: int, seconds: float) -> Offer:
        """Return what this rank adds to a row: by kind, step and name, as the ranks agreed."""
        return _offer(self, measured, row, seconds)

    def merge(self, own: Offer | None) -> Outcome | None:
        """Merge the next row over the ranks; waits for all of them. In the reader's thread.

        Args:
            own: What this rank adds; None when it has closed its monitor.

        Returns:
            What came out, or None when all ranks have closed.

        Raises:
            RuntimeError: If a rank is gone or does not come.
        """
        return run(_rounds(self, own), self._reduce)

    def _reduce(self, message: Message) -> Array:
        """All-reduce one message; give up as soon as another rank has.

        A rank hears of one that is gone only if they are neighbours in the reduction. So those that
        do say it in the store, where the others look while they wait.
        """
        data = torch.from_numpy(message.data.copy())
        work = dist.all_reduce(data, OPS[message.op], group=self._group.group, async_op=True)
        pause, look = _SHORTEST_PAUSE, time.monotonic() + _LOOK_SECONDS
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK_SECONDS
                if self._alive.check(["failed"]):
                    msg = "another rank had no answer"
                    raise RuntimeError(msg)
        work.wait()
        reduced: Array = data.numpy()
        return reduced

    def silent(self) -> list[int]:
        """Return the ranks that give no sign of life after a failure; waits for the others."""
        try:
            self._alive.set("failed", "1")
            self._alive.set(f"alive/{self.rank}", "1")
            until = time.monotonic() + _SILENT_SECONDS
            while True:
                silent = [r for r in self.ranks if not self._alive.check([f"alive/{r}"])]
                if not silent or time.monotonic() > until:
                    return silent
                time.sleep(_LONGEST_PAUSE)
        except RuntimeError:  # the store went with the rank that kept it
            return [self.ranks[0]]


def spread_of(parameter: Tensor, rank: int) -> Spread:
    """Return how a parameter is spread: of a plain one this rank holds a replica."""
    if is_dtensor(parameter):
        return Spread.of(parameter)
    return Spread.alone(parameter.shape, rank)


def shards_of(parameters: Mapping[str, Tensor], rank: int) -> dict[str, Shard]:
    """Return what a rank holds of each parameter."""
    spreads = {name: spread_of(p, rank) for name, p in parameters.items()}
    return {n: Shard(s.ranks[0], s.piece(rank), s.numel) for n, s in spreads.items()}


def hash_of(text: str) -> str:
    """Return a digest of a text that is the same in every process."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _offer(team: Team, measured: Mapping[str, Measured], row: int, seconds: float) -> Offer:
    steps = team.schedule.steps_of(row)
    moments, counts, places, histogram_of = [], [], [], []
    at, checks = 0, np.empty(0, dtype=np.int64)
    prints, has_weights = checks, np.empty(0, dtype=bool)
    for kind, agreed in team.kinds.items():
        n = len(agreed.names)
        placed = _placed(agreed, measured.get(kind), steps)
        moments.append(placed.records.moments.reshape(-1, 8))
        counts.append(placed.records.counts.reshape(-1, 8))
        places.append(placed.places)
        histogram_of.append(np.tile(np.arange(at, at + n), len(steps)))
        at += n
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
        seconds=seconds,
        histogram_of=np.concatenate(histogram_of),
        checks=checks,
        tag=f"row {row}",
    )
    return Offer(row, contribution, prints, has_weights)


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
        placed.has_print[i] = True
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
    nothing = team.offer({}, -1, 0.0)
    mine = own or nothing
    room = len(nothing.contribution.names)
    agreed = yield Message("min", first_message(mine.contribution, room))
    missing: dict[str, str] = {}
    if Header.read(agreed).digests_differ:
        at = np.full(len(team.ranks), math.inf)
        at[team.ranks.index(team.rank)] = _CLOSED if own is None else own.row
        at = yield Message("min", at)
        row = int(at.min())
        missing = _missing(team, at, row)
        mine = own if own is not None and own.row == row else nothing
        agreed = yield Message("min", first_message(mine.contribution, room))
    elif own is None:
        return None
    else:
        row = own.row
    merged: Merged = yield from finish(_FUNCTION, mine.contribution, agreed)
    differing = {}
    if merged.checks.any() and not missing:
        differing = yield from _differing(team, mine, merged)
    return _outcome(team, merged, row, missing, mine is own, differing)


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
    team: Team, mine: Offer, merged: Merged
) -> Generator[Message, Array, dict[str, tuple[tuple[int, ...], ...]]]:
    """Find the ranks whose replicas of some weights differ."""
    weights = team.kinds["weights"]
    named = np.flatnonzero(merged.checks)[:_NAMED]
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
    missing: Mapping[str, str],
    took_own: bool,
    differing: dict[str, tuple[tuple[int, ...], ...]],
) -> Outcome:
    """Take the merged records apart: by kind, the steps and names that any rank measured."""
    steps, at, rows = team.schedule.steps_of(row), 0, 0
    measured: dict[str, Measured] = {}
    absent: dict[str, dict[str, str]] = {"ranks": dict(missing)} if missing else {}
    first = None
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
            why = f"{int(least[i])} of {int(agreed.numel[i])} elements"
            absent.setdefault(kind, {})[agreed.names[i]] = why
        at, rows = at + k * n, rows + n
    info = replace(team.info, slowest=merged.slowest, fastest=merged.fastest)
    return Outcome(row, measured, absent, info, took_own, differing, first)
