"""Compare the replicas of tensors over ranks by their fingerprints."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from initstats.sharding import Spread
from initstats.statistics.across_ranks import Ranks, run
from initstats.statistics.compute import stats
from initstats.statistics.layouts import exchange, joined
from initstats.statistics.record import Stats
from initstats.statistics.record_array import FINGERPRINT, Groups, Integers, Records
from initstats.statistics.reduction import Array, Contribution, Header, Message, first_round
from initstats.statistics.table import StatsTable

_FUNCTION = "replicas_agree"
_Classes = tuple[tuple[int, ...], ...]
_NAMED = 16  # tensors that are looked into with one message


@dataclass(frozen=True)
class ReplicaReport:
    """Whether the replicas of tensors are there and equal, bit for bit. It is true when they are.

    Attributes:
        compared: Number of tensors of which several ranks hold the same elements.
        differing: By tensor, ranks with the same bits together, most ranks first: `((0, 1, 3),
            (2,))` when rank 2 differs from the others. Of two replicas the first rank is among the
            most. Of at most 16 tensors, the first ones.
        differing_count: Number of all tensors whose replicas differ.
        lacking: By tensor, ranks that have none of that name but should: all ranks of the group for
            a plain one, those of its mesh for a DTensor. Of at most 16 tensors, the first ones.
        lacking_count: Number of all tensors that some ranks lack.
    """

    compared: int
    differing: Mapping[str, tuple[tuple[int, ...], ...]]
    differing_count: int
    lacking: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lacking_count: int = 0

    @property
    def ok(self) -> bool:
        """True when all replicas are there and agree."""
        return not self.differing and not self.lacking

    def ranks_of(self, name: str) -> str:
        """Return in words which ranks differ in a tensor, such as "rank 3 from ranks 0, 1, 2"."""
        said = []
        if name in self.differing:
            usual, *others = self.differing[name]
            said.append(f"{_listed(others)} from {_listed([usual])}")
        if name in self.lacking:
            ranks = self.lacking[name]
            said.append(f"{_listed([ranks])} {'have' if len(ranks) > 1 else 'has'} none")
        return ", ".join(said)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"replicas of {self.compared} tensors agree"
        names = dict.fromkeys((*self.differing, *self.lacking))
        lines = [f"{name}: {self.ranks_of(name)}" for name in names]
        more = self.differing_count - len(self.differing) + self.lacking_count - len(self.lacking)
        if more:
            lines.append(f"and {more} more tensors")
        return "replicas differ: " + "; ".join(lines)


def _listed(classes: Sequence[tuple[int, ...]]) -> str:
    ranks = sorted(rank for each in classes for rank in each)
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def replicas_agree(model_or_table: nn.Module | StatsTable, group: object) -> ReplicaReport:
    """Compare the replicas of every tensor over the ranks of a group. A collective.

    Replicas differ after a desynchronised random draw, a rank that loaded another file, a buffer
    that was trained on one rank only, or a bit that memory or network changed. Two all-reduces with
    16 bytes per tensor find it; only then one more finds the ranks. Where ranks have tensors of
    different names, two more messages tell which: those that some lack are named, the others and
    the replicas that are there are compared.

    Args:
        model_or_table: A module, of which the parameters are compared, or records that were taken
            with `stats(..., fingerprint=True)`. Plain tensors are replicas of each other; of
            DTensors those ranks are compared that hold the same elements.
        group: The ranks, as for `StatsTable.all_merge`.

    Returns:
        The report, equal on all ranks.

    Raises:
        TypeError: If group is no process group that this rank is in, or the first argument is
            neither a module nor a table.
        ValueError: On every rank, if a table has no fingerprints, ranks have tensors of different
            shapes by the same name, or the group does not hold every shard as often as every other.

    Determinism: bitwise. One changed element is always found between two replicas; several changes
        escape with a chance near 2**-64.
    """
    return compare_replicas(_FUNCTION, model_or_table, Ranks(_FUNCTION, group), most=_NAMED)


def compare_replicas(
    function: str, model_or_table: nn.Module | StatsTable, ranks: Ranks, most: int | None = None
) -> ReplicaReport:
    """Compare replicas for another function: see `replicas_agree`.

    Args:
        function: The name for messages.
        model_or_table: As for `replicas_agree`.
        ranks: The ranks.
        most: Of how many tensors the ranks are looked for; None for all, in messages of 16 each.
    """
    own: _Own | Exception
    try:
        own = _own(function, model_or_table, ranks)
    except Exception as error:  # noqa: BLE001  # told to the other ranks, then raised
        own = error
    return run(_compare(function, own, ranks, most), ranks.reduce)


@dataclass(frozen=True, eq=False)
class _Own:
    """What this rank knows of n tensors."""

    layout: Contribution
    fingerprints: Integers  # [n]
    replicas: Integers  # [n], ranks of the group that hold the same elements
    pieces: Integers  # [n], the same number on ranks that do; -1 outside of the tensor's mesh
    expected: Array  # bool [n, ranks], ranks of the group that should have each; none of others'
    spreads: tuple[Spread | None, ...]  # [n], None for tensors of others

    def over(self, names: Sequence[str]) -> _Own:
        """Return the same of the tensors of all ranks, by their names."""
        index = {name: i for i, name in enumerate(self.layout.names)}
        pairs = [(k, index[name]) for k, name in enumerate(names) if name in index]
        to, source = [k for k, _ in pairs], [i for _, i in pairs]

        def spread(values: Array, nothing: int) -> Array:
            found = np.full((len(names), *values.shape[1:]), nothing, dtype=values.dtype)
            found[to] = values[source]
            return found

        return _Own(
            replace(self.layout, names=tuple(names)),
            spread(self.fingerprints, 0),
            spread(self.replicas, 0),
            spread(self.pieces, -1),
            spread(self.expected, 0),
            tuple(self.spreads[index[name]] if name in index else None for name in names),
        )

    def counted(self, ranks: Ranks) -> Array:
        """Return which this rank counts, bool `[n]`; the order must be that of all ranks."""
        pairs = enumerate(self.spreads)
        found = [s is not None and s.is_counted(ranks.rank, ranks.chosen(i)) for i, s in pairs]
        return np.array(found, dtype=bool)


def _own(function: str, model_or_table: nn.Module | StatsTable, ranks: Ranks) -> _Own:
    given: object = model_or_table
    table: Mapping[str, Stats]
    if isinstance(given, nn.Module):
        table = stats(given, moments=False, histogram=False, fingerprint=True)
    elif isinstance(given, StatsTable):
        table = given
    else:
        msg = (
            f"initstats.{function}: expected a module or records of stats(), got"
            f" {type(given).__name__}"
        )
        raise TypeError(msg)
    if not all(record.groups & Groups.FINGERPRINT for record in table.values()):
        msg = (
            f"initstats.{function}: expected records taken with fingerprint=True, got some without"
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
    everybody = np.array(ranks.ranks)
    expected = np.zeros((n, size), dtype=bool)
    for i, record in enumerate(table.values()):
        expected[i] = True if record.spread is None else np.isin(everybody, record.spread.ranks)
    return _Own(
        layout,
        np.array([row.counts[FINGERPRINT] for row in rows], dtype=np.int64),
        np.array([size * s.replicas // len(s.ranks) for s in spreads], dtype=np.int64),
        np.array([_piece(s, ranks.rank) for s in spreads], dtype=np.int64),
        expected,
        tuple(spreads),
    )


def _compare(
    function: str, own: _Own | Exception, ranks: Ranks, most: int | None
) -> Generator[Message, Array, ReplicaReport]:
    layout = own.layout if isinstance(own, _Own) else own
    agreed = yield from first_round(function, layout, 0, ranks.rank)
    assert isinstance(own, _Own)
    if Header.read(agreed).digests_differ:
        layouts = yield from exchange(own.layout, ranks.ranks)
        own = own.over(joined(function, layouts).names)
    # R equal fingerprints less R times the one that is counted are 0, modulo 2**64.
    mine = own.fingerprints - np.where(own.counted(ranks), own.replicas * own.fingerprints, 0)
    holders = (own.pieces >= 0).astype(np.int64)
    sums, holding = (yield Message("sum", np.concatenate([mine, holders]))).reshape(2, -1)
    held = holding == len(ranks.ranks)
    compared = int((held & (own.replicas > 1)).sum())
    # Of a tensor that some ranks do not hold, nobody knows R: its ranks are always looked at.
    different = np.flatnonzero((sums != 0) & held)
    found: dict[str, tuple[tuple[int, ...], ...]] = {}
    count, lacking = len(different), {}
    for at in _sixteens(different[:most]):
        for name, classes, *_ in (yield from _classes(own, ranks, at)):
            if len(classes) == 1:
                msg = (
                    f"initstats.{function}: expected every shard of {name!r} on as many ranks of"
                    " the group as every other, got others"
                )
                raise ValueError(msg)
            found[name] = classes
    for at in _sixteens(np.flatnonzero(~held)):
        for name, classes, has_replicas, absent in (yield from _classes(own, ranks, at)):
            compared += has_replicas
            if absent:
                lacking[name] = absent
            if len(classes) > 1:
                count += 1
                if most is None or len(found) < most:
                    found[name] = classes
    named = dict(itertools.islice(lacking.items(), most))
    return ReplicaReport(compared, found, count, named, len(lacking))


def _sixteens(at: Integers) -> Iterator[Integers]:
    return (at[start : start + _NAMED] for start in range(0, len(at), _NAMED))


def _piece(spread: Spread, rank: int) -> int:
    return spread.piece(rank) if rank in spread.ranks else -1


def _classes(
    own: _Own, ranks: Ranks, at: Integers
) -> Generator[Message, Array, list[tuple[str, _Classes, bool, tuple[int, ...]]]]:
    """Return of some tensors what ranks hold.

    Returns:
        For each the name, the ranks by what they hold, whether it has replicas, and the ranks that
        should hold it and do not.
    """
    seen = np.zeros((3, len(ranks.ranks), len(at)), dtype=np.int64)
    seen[:2, ranks.ranks.index(ranks.rank)] = own.fingerprints[at], own.pieces[at]
    seen[2] = own.expected[at].T
    prints, pieces, expected = (yield Message("sum", seen.ravel())).reshape(3, -1, len(at))
    everybody = np.array(ranks.ranks)
    found = []
    for k, i in enumerate(at.tolist()):
        here = pieces[:, k] >= 0
        classes = classes_of(prints[here, k], pieces[here, k], everybody[here].tolist())
        has_replicas = len(np.unique(pieces[here, k])) < int(here.sum())
        absent = tuple(everybody[(expected[:, k] > 0) & ~here].tolist())
        found.append((own.layout.names[i], classes, has_replicas, absent))
    return found


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
