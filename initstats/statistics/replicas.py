"""Compare the replicas of tensors over ranks by their fingerprints."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from initstats.sharding import Spread
from initstats.statistics.across_ranks import Ranks, run
from initstats.statistics.compute import stats
from initstats.statistics.record import Stats
from initstats.statistics.record_array import FINGERPRINT, Groups, Integers, Records
from initstats.statistics.reduction import Array, Contribution, Message, agree
from initstats.statistics.table import StatsTable

_FUNCTION = "replicas_agree"
_NAMED = 16  # tensors that are looked into at once


@dataclass(frozen=True)
class ReplicaReport:
    """Whether the replicas of tensors are equal, bit for bit. It is true when they are.

    Attributes:
        compared: Number of tensors of which several ranks hold the same elements.
        differing: By tensor, ranks with the same bits together, most ranks first: `((0, 1, 3),
            (2,))` when rank 2 differs from the others. Of two replicas the first rank is among the
            most. Of at most 16 tensors, the first ones.
        differing_count: Number of all tensors whose replicas differ.
    """

    compared: int
    differing: Mapping[str, tuple[tuple[int, ...], ...]]
    differing_count: int

    @property
    def ok(self) -> bool:
        """True when all replicas agree."""
        return not self.differing

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"replicas of {self.compared} tensors agree"
        lines = [
            f"{name}: {_listed(classes[1:])} from {_listed(classes[:1])}"
            for name, classes in self.differing.items()
        ]
        if self.differing_count > len(lines):
            lines.append(f"and {self.differing_count - len(lines)} more tensors")
        return "replicas differ: " + "; ".join(lines)


def _listed(classes: tuple[tuple[int, ...], ...]) -> str:
    ranks = sorted(rank for each in classes for rank in each)
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def replicas_agree(model_or_table: nn.Module | StatsTable, group: object) -> ReplicaReport:
    """Compare the replicas of every tensor over the ranks of a group. A collective.

    Replicas differ after a desynchronised random draw, a rank that loaded another file, a buffer
    that was trained on one rank only, or a bit that memory or network changed. Two all-reduces with
    8 bytes per tensor find it; only then one more finds the ranks.

    Args:
        model_or_table: A module, of which the parameters are compared, or records that were taken
            with `stats(..., fingerprint=True)`. Plain tensors are replicas of each other; of
            DTensors those ranks are compared that hold the same elements.
        group: The ranks, as for `StatsTable.all_merge`.

    Returns:
        The report, equal on all ranks.

    Raises:
        TypeError: If group is no process group that this rank is in.
        ValueError: If a table has no fingerprints, ranks have different tensors, or the group does
            not hold every shard as often as every other.

    Determinism: bitwise. One changed element is always found between two replicas; several changes
        escape with a chance near 2**-64.
    """
    ranks = Ranks(_FUNCTION, group)
    own: _Own | Exception
    try:
        own = _own(model_or_table, ranks)
    except Exception as error:  # noqa: BLE001  # told to the other ranks, then raised
        own = error
    return run(_compare(own, ranks), ranks.reduce)


@dataclass(frozen=True, eq=False)
class _Own:
    """What this rank knows of n tensors."""

    layout: Contribution
    fingerprints: Integers  # [n]
    replicas: Integers  # [n], ranks of the group that hold the same elements
    pieces: Integers  # [n], the same number on ranks that do
    counted: Array  # bool [n]


def _own(model_or_table: nn.Module | StatsTable, ranks: Ranks) -> _Own:
    table: Mapping[str, Stats]
    if isinstance(model_or_table, nn.Module):
        table = stats(model_or_table, moments=False, histogram=False, fingerprint=True)
    else:
        table = model_or_table
    if not all(record.groups & Groups.FINGERPRINT for record in table.values()):
        msg = (
            f"initstats.{_FUNCTION}: expected records taken with fingerprint=True, got some without"
        )
        raise ValueError(msg)
    rows = [record.local._read() for record in table.values()]  # noqa: SLF001  # of this package
    spreads = [
        record.spread or Spread.alone((row.counts[0],), ranks.rank)
        for record, row in zip(table.values(), rows, strict=True)
    ]
    n = len(rows)
    layout = Contribution(
        tuple(table),
        tuple(str(list(spread.shape)) for spread in spreads),
        Records.empty(n),
        None,
        0,
        np.zeros(n, dtype=np.int64),
        fingerprint=True,
        rank=ranks.rank,
        ranks=len(ranks.ranks),
    )
    size = len(ranks.ranks)
    return _Own(
        layout,
        np.array([row.counts[FINGERPRINT] for row in rows], dtype=np.int64),
        np.array([size * s.replicas // len(s.ranks) for s in spreads], dtype=np.int64),
        np.array([s.piece(ranks.rank) for s in spreads], dtype=np.int64),
        np.array([s.is_counted(ranks.rank, ranks.chosen(i)) for i, s in enumerate(spreads)]),
    )


def _compare(own: _Own | Exception, ranks: Ranks) -> Generator[Message, Array, ReplicaReport]:
    layout = own.layout if isinstance(own, _Own) else own
    yield from agree(_FUNCTION, layout, 0, ranks.rank)
    assert isinstance(own, _Own)
    # R equal fingerprints less R times the one that is counted are 0, modulo 2**64.
    mine = own.fingerprints - np.where(own.counted, own.replicas * own.fingerprints, 0)
    different = np.flatnonzero((yield Message("sum", mine)))
    found = {}
    if different.size:
        named = different[:_NAMED]
        seen = np.zeros((2, len(ranks.ranks), len(named)), dtype=np.int64)
        at = ranks.ranks.index(ranks.rank)
        seen[:, at] = own.fingerprints[named], own.pieces[named]
        prints, pieces = (yield Message("sum", seen.ravel())).reshape(2, -1, len(named))
        for k, i in enumerate(named.tolist()):
            found[own.layout.names[i]] = classes_of(prints[:, k], pieces[:, k], ranks.ranks)
            if len(found[own.layout.names[i]]) == 1:
                msg = (
                    f"initstats.{_FUNCTION}: expected every shard of {own.layout.names[i]!r} on as"
                    " many ranks of the group as every other, got others"
                )
                raise ValueError(msg)
    return ReplicaReport(int((own.replicas > 1).sum()), found, len(different))


def classes_of(
    fingerprints: Array, pieces: Array, ranks: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return the ranks by what they hold: first those that are with the most of their piece.

    Args:
        fingerprints: int64 `[r]`.
        pieces: int64 `[r]`, the same number on ranks that should hold the same elements.
        ranks: Their numbers.
    """
    usual: list[int] = []
    others: dict[tuple[int, int], list[int]] = {}
    for piece in np.unique(pieces).tolist():
        here = np.flatnonzero(pieces == piece)
        values, first, counts = np.unique(fingerprints[here], return_index=True, return_counts=True)
        most = values[np.lexsort((first, -counts))[0]]  # of two as frequent the first
        for i in here.tolist():
            if fingerprints[i] == most:
                usual.append(ranks[i])
            else:
                others.setdefault((piece, int(fingerprints[i])), []).append(ranks[i])
    odd = sorted(others.values(), key=lambda each: (-len(each), each))
    return tuple(map(tuple, (sorted(usual), *odd)))
