"""Merge tables of records over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist

from initstats.sharding import Domain, Spread
from initstats.statistics.record import Stats
from initstats.statistics.record_array import Groups, RecordRow, Records
from initstats.statistics.reduction import (
    CAPACITY,
    Array,
    Contribution,
    Message,
    merge_over_ranks,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Plain = Literal["replicas", "parts"] | None
_Result = TypeVar("_Result")
OPS = {"min": dist.ReduceOp.MIN, "sum": dist.ReduceOp.SUM}
# What `merge_over_ranks` returned last for each group, or mesh of several: the same on all ranks.
_CAPACITIES: WeakKeyDictionary[dist.ProcessGroup, dict[tuple[str, ...], int]]
_CAPACITIES = WeakKeyDictionary()


class Ranks:
    """The ranks of a process group or of a mesh, as seen by one of them.

    Over a mesh of several dimensions a message is reduced along one after the other, the last one
    first: within a node, then over nodes. As Note [All-merge] says, the bits are the same.

    Args:
        function: The name for messages.
        group: A process group that this rank is in, a mesh, or a domain.

    Attributes:
        ranks: Global ranks of the group, in its order; of a mesh in C order.
        rank: Global rank of this process.
        groups: The groups that a message is reduced over, one after the other.
        shape: Of the mesh; of a process group how many ranks there are.

    Raises:
        TypeError: If it is none.
    """

    def __init__(self, function: str, group: object) -> None:
        self.rank = dist.get_rank()
        if isinstance(group, Domain):
            group = group.mesh
        dims = getattr(group, "ndim", 0) if hasattr(group, "get_group") else 0
        if dims > 1:
            mesh: DeviceMesh = group  # type: ignore[assignment]
            if mesh.get_coordinate() is None:
                raise _refused(function, "a mesh that this rank is not in")
            self.groups = tuple(mesh.get_group(dim) for dim in reversed(range(dims)))
            self.ranks: tuple[int, ...] = tuple(mesh.mesh.flatten().tolist())
            self.shape = tuple(mesh.shape)
        else:
            self.groups = (_process_group(function, group),)
            self.ranks = tuple(dist.get_process_group_ranks(self.groups[0]))
            self.shape = (len(self.ranks),)
        kinds = [device.type for device in self.groups[0]._device_types]  # noqa: SLF001
        self._device = torch.device("cpu" if "cpu" in kinds else kinds[0])

    @property
    def capacity(self) -> int:
        """Room in the first message of a merge."""
        return _CAPACITIES.get(self.groups[0], {}).get(self._names, CAPACITY)

    @capacity.setter
    def capacity(self, value: int) -> None:
        _CAPACITIES.setdefault(self.groups[0], {})[self._names] = value

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(group.group_name for group in self.groups)

    def chosen(self, i: int) -> int:
        """Return the rank that decides whose replica of tensor i is counted: each in turn."""
        return self.ranks[i % len(self.ranks)]

    def reduce(self, message: Message) -> Array:
        """All-reduce one message."""
        data = torch.from_numpy(message.data.copy()).to(self._device)
        for group in self.groups:
            dist.all_reduce(data, op=OPS[message.op], group=group)
        reduced: Array = data.cpu().numpy()
        return reduced


def _process_group(function: str, group: object) -> dist.ProcessGroup:
    found = group
    if callable(get := getattr(group, "get_group", None)) and getattr(group, "ndim", 0) == 1:
        found = get()
    if isinstance(found, dist.ProcessGroup):
        return found
    got = type(group).__name__
    hint = "; pass torch.distributed.group.WORLD to mean all ranks" if group is None else ""
    if found == dist.GroupMember.NON_GROUP_MEMBER:
        got = "one that this rank is not in"
    raise _refused(function, got + hint)


def _refused(function: str, got: str) -> TypeError:
    return TypeError(f"initstats.{function}: expected a process group of this rank, got {got}")


def run(
    messages: Generator[Message, Array, _Result], reduce: Callable[[Message], Array]
) -> _Result:
    """Send the messages of a generator until it returns."""
    try:
        message = next(messages)
        while True:
            message = messages.send(reduce(message))
    except StopIteration as stop:
        result: _Result = stop.value
        return result


def all_merge(table: Mapping[str, Stats], group: object, plain: Plain) -> dict[str, Stats]:
    """Merge a table over the ranks of a group: see `StatsTable.all_merge`."""
    function = "StatsTable.all_merge"
    ranks = Ranks(function, group)
    own: Contribution | Exception
    try:
        own = _contribution(function, table, ranks, plain)
    except Exception as error:  # noqa: BLE001  # told to the other ranks, then raised
        own = error
    merged = run(merge_over_ranks(function, own, ranks.capacity, ranks.rank), ranks.reduce)
    ranks.capacity = merged.capacity
    groups = next((record.groups for record in table.values()), 0)
    moments, counts = merged.records.moments.tolist(), merged.records.counts.tolist()
    assert isinstance(own, Contribution)
    return {
        name: Stats(
            RecordRow(
                moments[i],
                counts[i],
                None if merged.places is None else merged.places[i],
                own.scale,
            ),
            groups=groups,
        )
        for i, name in enumerate(table)
    }


def _contribution(
    function: str, table: Mapping[str, Stats], ranks: Ranks, plain: Plain
) -> Contribution:
    """Read what this rank adds."""
    _check(function, table, plain)
    rows = [record.local._read() for record in table.values()]  # noqa: SLF001  # of this package
    n = len(rows)
    records = Records.empty(n)
    groups = next((record.groups for record in table.values()), 0)
    scale = rows[0].scale if rows else 0
    has_places = bool(groups & Groups.HISTOGRAM)
    places = np.zeros((n, 512 << scale), dtype=np.int64) if has_places else None
    numel = np.full(n, -1, dtype=np.int64)
    shapes = []
    for i, (record, row) in enumerate(zip(table.values(), rows, strict=True)):
        counts = True
        if record.spread is None and plain == "parts":
            shapes.append("parts")
        else:
            spread = record.spread or Spread.alone((row.counts[0],), ranks.rank)
            counts = spread.is_counted(ranks.rank, ranks.chosen(i))
            numel[i] = spread.numel
            shapes.append("replicas of " * (record.spread is None) + str(list(spread.shape)))
        if counts:
            records.moments[i], records.counts[i] = row.moments, row.counts
            if places is not None:
                places[i] = row.histogram.counts.ravel()
    return Contribution(
        tuple(table),
        tuple(shapes),
        records,
        places,
        scale,
        numel,
        fingerprint=bool(groups & Groups.FINGERPRINT),
        rank=ranks.rank,
        ranks=len(ranks.ranks),
    )


def _check(function: str, table: Mapping[str, Stats], plain: Plain) -> None:
    kinds = {record.groups for record in table.values()}
    if len(kinds) > 1:
        msg = f"initstats.{function}: expected records with the same groups, got others in one"
        raise ValueError(msg)
    if plain not in ("replicas", "parts", None):
        msg = f'initstats.{function}: expected plain to be "replicas" or "parts", got {plain!r}'
        raise ValueError(msg)
    odd = [name for name, record in table.items() if record.spread is None]
    if odd and plain is None:
        msg = (
            f"initstats.{function}: expected plain= for tensors that are no DTensors, got none for"
            f' {odd[0]!r}; "replicas" where every rank holds the same tensor, "parts" where each'
            " holds elements of its own"
        )
        raise ValueError(msg)
