"""Merge tables of records over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist

from initstats.sharding import Domain, Spread
from initstats.statistics.layouts import HELD, Joined, exchange, joined, ranks_text
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

Plain = Literal["replicas", "parts", "held"] | None
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
        own = final = _contribution(function, table, ranks, plain)
    except Exception as error:  # noqa: BLE001  # told to the other ranks, then raised
        own = error

    def join(mine: Contribution) -> Generator[Message, Array, Contribution]:
        nonlocal final
        layouts = yield from exchange(mine, ranks.ranks)
        final = _contribution(function, table, ranks, plain, joined(function, layouts))
        return final

    merged = run(merge_over_ranks(function, own, ranks.capacity, ranks.rank, join), ranks.reduce)
    ranks.capacity = merged.capacity
    moments, counts = merged.records.moments.tolist(), merged.records.counts.tolist()
    return {
        name: Stats(
            RecordRow(
                moments[i],
                counts[i],
                None if merged.places is None else merged.places[i],
                final.scale,
            ),
            groups=final.groups,
        )
        for i, name in enumerate(final.names)
    }


def _contribution(
    function: str,
    table: Mapping[str, Stats],
    ranks: Ranks,
    plain: Plain,
    of_all: Joined | None = None,
) -> Contribution:
    """Read what this rank adds.

    Args:
        function: The name for messages.
        table: What it has.
        ranks: The ranks.
        plain: What plain tensors are.
        of_all: The tensors of all ranks, where they differ; None for those of the table.
    """
    _check(function, table, plain)
    rows = {name: record.local._read() for name, record in table.items()}  # noqa: SLF001  # of this package
    names = tuple(table) if of_all is None else of_all.names
    n = len(names)
    records = Records.empty(n)
    groups = next((record.groups for record in table.values()), 0)
    scale = next((row.scale for row in rows.values()), 0)
    if of_all is not None:
        groups, scale = of_all.groups, of_all.scale
    has_places = bool(groups & Groups.HISTOGRAM)
    places = np.zeros((n, 512 << scale), dtype=np.int64) if has_places else None
    numel = np.full(n, -1, dtype=np.int64)
    shapes = []
    for i, name in enumerate(names):
        if name not in table:
            assert of_all is not None
            numel[i] = of_all.numel[i]
            shapes.append(of_all.shapes[i])
            continue
        row, counts = rows[name], True
        spread = table[name].spread
        if spread is None and plain == "parts":
            shapes.append("parts")
        else:
            kind = "" if spread is not None else _PLAIN_TEXTS[plain]
            spread = spread or Spread.alone((row.counts[0],), ranks.rank)
            holders = ranks.ranks if of_all is None else of_all.holders[i]
            counts = spread.is_counted(ranks.rank, holders[i % len(holders)])
            numel[i] = spread.numel
            shapes.append(f"{kind}{list(spread.shape)}")
        if counts:
            records.moments[i], records.counts[i] = row.moments, row.counts
            if places is not None:
                places[i] = row.histogram.counts.ravel()
    lacking = {}
    if of_all is not None:
        lacking = {i: ranks_text(found) for i, found in enumerate(of_all.lacking) if found}
    return Contribution(
        names,
        tuple(shapes),
        records,
        places,
        scale,
        numel,
        fingerprint=bool(groups & Groups.FINGERPRINT),
        rank=ranks.rank,
        ranks=len(ranks.ranks),
        groups=groups,
        lacking=lacking,
    )


# What the shape of a plain tensor begins with, which must agree.
_PLAIN_TEXTS: dict[Plain, str] = {"replicas": "replicas of ", "held": f"{HELD} "}


def _check(function: str, table: Mapping[str, Stats], plain: Plain) -> None:
    kinds = {record.groups for record in table.values()}
    if len(kinds) > 1:
        msg = f"initstats.{function}: expected records with the same groups, got others in one"
        raise ValueError(msg)
    if plain not in ("replicas", "parts", "held", None):
        msg = (
            f'initstats.{function}: expected plain to be "replicas", "parts" or "held", got'
            f" {plain!r}"
        )
        raise ValueError(msg)
    odd = [name for name, record in table.items() if record.spread is None]
    if odd and plain is None:
        msg = (
            f"initstats.{function}: expected plain= for tensors that are no DTensors, got none for"
            f' {odd[0]!r}; "replicas" where every rank holds the same tensor, "held" where some'
            ' ranks do and others may lack it, "parts" where each holds elements of its own'
        )
        raise ValueError(msg)
