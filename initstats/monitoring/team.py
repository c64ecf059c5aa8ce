"""The ranks that write rows together: what they agree on, and how they reduce a message.

With several nodes a message is reduced within each of them and then over them, each rank with those
in its place on the other nodes. The bits are those of one reduction (Note [All-merge]). No gloo
group holds more ranks than a node has, or than there are nodes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from initstats.monitoring.gloo_groups import gloo_groups
from initstats.monitoring.local_gradients import KIND as LOCAL_GRADIENTS
from initstats.monitoring.row import RankInfo, Shard
from initstats.monitoring.window import BEFORE_CLIPPING, LOSS, PRODUCTS, Layout
from initstats.sharding import Spread, is_dtensor, local_tensor
from initstats.statistics.across_ranks import OPS, Ranks
from initstats.statistics.record_array import Integers
from initstats.statistics.reduction import Array, Message

FLOWS = ("activations", "inputs")  # kinds of which peers may have the same tensor
# Kinds of which every rank has elements of its own, for its own batch.
OF_EACH_RANK = (*FLOWS, LOCAL_GRADIENTS)
# Kinds with one number per parameter, the same on all ranks that have it.
_ONE_NUMBER = ("momentum_cosine",)
# What a rank adds to the norm before clipping: the sum of squares, and whether it has clipped.
CLIPPING_NAMES = ("squares", "clipped")
_SILENT_SECONDS = 5.0  # how long survivors wait for each other's sign of life
_LOOK_SECONDS = 1.0  # how often a waiting rank looks whether another has given up
_SHORTEST_PAUSE, _LONGEST_PAUSE = 2e-4, 2e-2  # seconds between two looks at a message
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

    def next_measured(self, step: int) -> int:
        """Return the first measured step from one on."""
        return step + (self.first - step) % self.every

    def place_of(self, step: int) -> int:
        """Return the place of a measured step in its row, from 0."""
        return (step - self.first) // self.every % self.window

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
        holders: Ranks that have a tensor of that name, int64 `[n]`.
        held: Whether this rank has elements of it that others may have too, bool `[n]`.
        cuts: In how many pieces every rank that has it cuts it, int64 `[n]`; 0 where they differ,
            and for elements of each rank's own.
    """

    names: Layout
    numel: Integers
    is_counted: Array
    replicas: Integers
    pieces: Integers
    holders: Integers
    held: Array
    cuts: Integers

    @classmethod
    def of_each_rank(cls, names: Layout, holders: Sequence[int]) -> Kind:
        """Return a kind of which every rank has elements of its own."""
        n = len(names)
        nothing = np.zeros(n, dtype=np.int64)
        numel, here = np.full(n, -1, dtype=np.int64), np.array(holders, dtype=np.int64)
        counted, held = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
        return cls(names, numel, counted, nothing, nothing, here, held, nothing)


class Team:
    """The ranks of a group, on a gloo group of their own. Made by all of them together.

    Args:
        group: The ranks.
        schedule: When to measure.
        names: Names by kind that this rank expects.
        parameters: The watched parameters by name, to learn how they are spread.
        peers: Ranks that share a batch with this one, itself included: those of tensor parallelism.
        rates: Names of the learning rates of this rank.
        histograms: Whether histograms are kept.
        timeout: Seconds to wait for a rank before going on alone.
        ranks_per_node: How many neighbours reduce among themselves before the nodes do; None for
            what torchrun says. A mesh of several dimensions says it itself.

    Raises:
        TypeError: If group is no process group that this rank is in.
        ValueError: If the ranks have different schedules, or nodes are not of that many ranks.
        RuntimeError: If a rank does not come.
    """

    def __init__(
        self,
        group: object,
        schedule: Schedule,
        names: Mapping[str, Layout],
        parameters: Mapping[str, Tensor],
        peers: Sequence[int] = (),
        rates: Sequence[str] = (),
        *,
        histograms: bool,
        timeout: float,
        ranks_per_node: int | None = None,
    ) -> None:
        given = Ranks(_FUNCTION, group)
        self.schedule = schedule
        self.ranks, self.rank = given.ranks, given.rank
        self.histograms = histograms
        limit = dt.timedelta(seconds=timeout)
        lines = lines_of(grid_of(self.ranks, given.shape, ranks_per_node), self.rank)
        self._groups = gloo_groups(lines, self.ranks, limit)
        run_id = os.environ.get("TORCHELASTIC_RUN_ID") or uuid.uuid4().hex[:12]
        everyone = self._gather((schedule, histograms, run_id, uuid.uuid4().hex))
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
        self.peers = peers_in(self.ranks, peers, self.rank)
        self.copied: dict[str, Array] | None = None
        # Steps of the optimizer, and idle calls, that this rank has more than others, as was told.
        self.apart = (0, 0)
        everyones: list[tuple[int, ...]] = self._gather(self.peers)
        self.peers_of = {peers[0]: peers for peers in everyones}
        self.has_peers = any(len(peers) > 1 for peers in everyones)
        self.rates = tuple(dict.fromkeys(n for each in self._gather(tuple(rates)) for n in each))
        self.kinds = self._agree(names, parameters)
        self.modules = next((self.kinds[k].names for k in FLOWS if k in self.kinds), ())
        self.shards = shards_of(parameters, self.rank)
        self._alive = PrefixStore(
            f"initstats/{everyone[0][3]}",
            dist.distributed_c10d._get_default_store(),  # noqa: SLF001
        )

    def _gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        found = {self.rank: value}
        for group in self._groups:
            parts: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(parts, found, group=group)
            found = {rank: each for part in parts for rank, each in part.items()}
        return [found[rank] for rank in self.ranks]

    @property
    def writes(self) -> bool:
        """Whether this rank writes the rows."""
        return self.rank == self.ranks[0]

    def _agree(
        self, names: Mapping[str, Layout], parameters: Mapping[str, Tensor]
    ) -> dict[str, Kind]:
        """Agree on the names of every kind: those of all ranks, and who holds each."""
        shapes = {name: _layout_of(p, self.rank) for name, p in parameters.items()}
        mine = {
            kind: [(name, shapes.get(name, ())) for name in layout]
            for kind, layout in names.items()
        }
        same = len(set(self._gather(hash_of(repr(mine))))) == 1
        everyone = [mine] * len(self.ranks) if same else self._gather(mine)
        held = {
            rank: [(name, layout[:1]) for name, layout in each.get(LOCAL_GRADIENTS, ())]
            for rank, each in zip(self.ranks, everyone, strict=True)
        }
        self.alike = alike_ranks({rank: held[rank] for rank in self.peers_of})
        found = {}
        for kind in dict.fromkeys(kind for each in everyone for kind in each):
            holders: dict[str, list[int]] = {}
            layouts: dict[str, set[Any]] = {}
            for rank, each in zip(self.ranks, everyone, strict=True):
                for name, layout in each.get(kind, ()):
                    holders.setdefault(name, []).append(rank)
                    layouts.setdefault(name, set()).add(layout)
            # The pieces of names that all ranks cut alike: otherwise none holds what another does.
            alike = {name: next(iter(each)) for name, each in layouts.items() if len(each) == 1}
            cuts = {name: layout[1] for name, layout in alike.items() if layout}
            found[kind] = self._kind(kind, holders, parameters, cuts)
        if "gradients" in found:
            here = [len(self.ranks)] * len(CLIPPING_NAMES)
            found[BEFORE_CLIPPING] = Kind.of_each_rank(CLIPPING_NAMES, here)
        found[LOSS] = Kind.of_each_rank((LOSS,), [len(self.ranks)])
        return found

    def _kind(
        self,
        kind: str,
        holders: Mapping[str, Sequence[int]],
        parameters: Mapping[str, Tensor],
        cuts: Mapping[str, int],
    ) -> Kind:
        if kind in OF_EACH_RANK:
            return Kind.of_each_rank(tuple(holders), [len(ranks) for ranks in holders.values()])
        n = len(holders)
        numel, counted = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=bool)
        replicas, pieces = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        held = np.zeros(n, dtype=bool)
        for i, (name, ranks) in enumerate(holders.items()):
            parameter = parameters.get(name)
            if parameter is None:  # of other ranks alone
                continue
            held[i] = self.rank in ranks and local_numel(parameter) > 0
            if kind in _ONE_NUMBER:
                counted[i] = ranks[i % len(ranks)] == self.rank
                continue
            spread = spread_of(parameter, self.rank)
            counted[i] = spread.is_counted(self.rank, ranks[i % len(ranks)])
            if name in cuts:
                replicas[i] = len(ranks) * spread.replicas // len(spread.ranks)
            pieces[i] = spread.piece(self.rank)
            numel[i] = -1 if kind in PRODUCTS else spread.numel
        here = np.array([len(ranks) for ranks in holders.values()], dtype=np.int64)
        one = kind in _ONE_NUMBER
        cut = np.array([1 if one else cuts.get(n, 0) for n in holders], dtype=np.int64)
        return Kind(tuple(holders), numel, counted, replicas, pieces, here, held, cut)

    def reduce(self, message: Message) -> Array:
        """All-reduce one message; give up as soon as another rank has.

        A rank hears of one that is gone only if they are neighbours in the reduction. So those that
        do say it in the store, where the others look while they wait.
        """
        data = torch.from_numpy(message.data.copy())
        for group in self._groups:
            self._wait_for(dist.all_reduce(data, OPS[message.op], group=group, async_op=True))
        reduced: Array = data.numpy()
        return reduced

    def _wait_for(self, work: dist.Work) -> None:
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


def alike_ranks(held: Mapping[int, list[Any]]) -> tuple[tuple[int, ...], ...]:
    """Return the ranks that hold the same parameters together, without those that hold none."""
    found: dict[str, list[int]] = {}
    for rank, names in held.items():
        if names:
            found.setdefault(repr(names), []).append(rank)
    return tuple(map(tuple, found.values()))


def grid_of(ranks: Sequence[int], shape: Sequence[int], ranks_per_node: int | None) -> Integers:
    """Return the ranks by node, `[nodes, ranks per node]`, or `[ranks]` for a single level.

    Args:
        ranks: Of the group.
        shape: Of the mesh that they were given as; of a group how many there are.
        ranks_per_node: As for `Team`; 1 for a single level.

    Raises:
        ValueError: If it does not divide the number of ranks.
    """
    grid: Integers = np.array(ranks, dtype=np.int64)
    if ranks_per_node is None:
        if len(shape) > 1:
            return grid.reshape(tuple(shape))
        ranks_per_node = _per_node(ranks)
    elif ranks_per_node < 1 or len(ranks) % ranks_per_node:
        msg = (
            f"initstats.{_FUNCTION}: expected ranks_per_node to divide the {len(ranks)} ranks of"
            f" the group, got ranks_per_node={ranks_per_node}"
        )
        raise ValueError(msg)
    return grid if ranks_per_node in (1, len(ranks)) else grid.reshape(-1, ranks_per_node)


def _per_node(ranks: Sequence[int]) -> int:
    """Return how many neighbours share a node, 1 where nodes differ or torchrun does not say.

    Where the product holds, all nodes have as many ranks, so that all ranks find the same.
    """
    names = ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "WORLD_SIZE")
    local, nodes, world = (int(os.environ.get(name, "0")) for name in names)
    if local <= 1 or local * nodes != world:
        return 1
    sizes = {len(list(same)) for _, same in itertools.groupby(ranks, lambda rank: rank // local)}
    return sizes.pop() if len(sizes) == 1 and len(set(ranks)) == len(ranks) else 1


def lines_of(grid: Integers, rank: int) -> list[list[int]]:
    """Return the ranks that a rank reduces with: along the last dimension first."""
    place = tuple(int(at[0]) for at in np.nonzero(grid == rank))
    lines = []
    for dim in reversed(range(grid.ndim)):
        index: list[Any] = list(place)
        index[dim] = slice(None)
        line = grid[tuple(index)].tolist()
        if len(line) > 1 or grid.size == 1:
            lines.append(line)
    return lines


def spread_of(parameter: Tensor, rank: int) -> Spread:
    """Return how a parameter is spread: of a plain one this rank holds a replica."""
    if is_dtensor(parameter):
        return Spread.of(parameter)
    return Spread.alone(parameter.shape, rank)


def local_numel(parameter: Tensor) -> int:
    """Return how many elements this rank holds."""
    local = local_tensor(parameter) if is_dtensor(parameter) else parameter
    return local.numel()


def _layout_of(parameter: Tensor, rank: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of a parameter, and in how many pieces it is cut."""
    spread = spread_of(parameter, rank)
    return tuple(parameter.shape), len(spread.ranks) // spread.replicas


def peers_in(ranks: Sequence[int], peers: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return the ranks that share a batch with this one; itself where some are in no group."""
    return tuple(peers) if peers and set(peers) <= set(ranks) else (rank,)


def shards_of(parameters: Mapping[str, Tensor], rank: int) -> dict[str, Shard]:
    """Return what a rank holds of each parameter."""
    spreads = {name: spread_of(p, rank) for name, p in parameters.items()}
    return {n: Shard(s.ranks[0], s.piece(rank), s.numel) for n, s in spreads.items()}


def hash_of(text: str) -> str:
    """Return a digest of a text that is the same in every process."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
