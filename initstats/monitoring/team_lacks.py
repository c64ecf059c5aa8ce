"""What ranks lack in a row of what they hold: which replicas stand in for it, and who is named."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from initstats.monitoring.momentum import KIND as COSINE
from initstats.monitoring.reader import REASON, Measured
from initstats.monitoring.team import Kind, Team, hash_of
from initstats.monitoring.window import HIDDEN, PRODUCTS
from initstats.statistics.record_array import COUNT, Integers
from initstats.statistics.reduction import Array, Message

# Kinds that every step should have; of others a rank without any has none to begin with, such as
# the moments of an optimizer that keeps none.
IN_EVERY_STEP = ("weights", "gradients", "updates")
_RANK_BITS = 20
_MOST_NAMED = 8  # ranks of one tensor
_WORD = 64

_Missing = dict[str, dict[str, str]]


def lacks_of(
    kinds: Mapping[str, Kind], measured: Mapping[str, Measured], steps: Sequence[int]
) -> Integers:
    """Return in how many steps this rank lacks what it holds, of the tensors of all kinds.

    Args:
        kinds: What the ranks agreed on.
        measured: By kind, of this rank.
        steps: The steps that it measured.
    """
    lacks = [np.empty(0, dtype=np.int64)]
    for kind, agreed in kinds.items():
        there = np.zeros(len(agreed.names), dtype=np.int64)
        found = measured.get(kind)
        if found is not None:
            rows = [k for k, step in enumerate(found.steps) if step in steps]
            counted = (found.by_step.counts[rows, :, COUNT] > 0).sum(axis=0)
            index = found.table.index
            pairs = [(i, index[name]) for i, name in enumerate(agreed.names) if name in index]
            there[[i for i, _ in pairs]] = counted[[j for _, j in pairs]]
        held = agreed.held
        if kind == COSINE and PRODUCTS[0] in kinds:  # those of shards are made of products
            of_shards = set(kinds[PRODUCTS[0]].names)
            held = held & np.array([name not in of_shards for name in agreed.names], dtype=bool)
        lacks.append(np.where(held, len(steps) - there, 0))
    return np.concatenate(lacks)


def lacks_text(kinds: Mapping[str, Kind], measured: Mapping[str, Measured], lacks: Integers) -> str:
    """Return a text that differs where ranks lack different tensors; empty for none."""
    lost, at = [], 0
    for kind, agreed in kinds.items():
        n = len(agreed.names)
        if kind in IN_EVERY_STEP or kind in measured:
            which = np.flatnonzero(lacks[at : at + n])
            lost += [(kind, agreed.names[i], int(lacks[at + i])) for i in which.tolist()]
        at += n
    return f" without {hash_of(repr(lost))}" if lost else ""


def stand_ins(
    team: Team, lacks: Integers, *, takes_part: bool
) -> Generator[Message, Array, tuple[dict[str, Kind], _Missing]]:
    """Choose for every tensor that some rank lacks another of its replicas: three messages.

    Args:
        team: The ranks.
        lacks: As `lacks_of` returned it.
        takes_part: Whether this rank is in the row; one that is not is named as a whole.

    Yields:
        What is to be reduced over all ranks.

    Returns:
        What this rank counts, by kind, and which ranks lack a tensor, by kind and name.
    """
    lacking: Integers = yield Message("sum", (lacks > 0).astype(np.int64))
    which = np.flatnonzero(lacking)
    kinds = dict(team.kinds)
    if not which.size:
        return kinds, {}
    held, pieces, cuts, holders = (
        np.concatenate([getattr(kind, name) for kind in kinds.values()])
        for name in ("held", "pieces", "cuts", "holders")
    )
    # Of each piece the rank that lacks it in the fewest steps, of several the first.
    ends = np.cumsum(cuts[which])
    at = ends - cuts[which] + pieces[which]
    can = held[which] & (cuts[which] > 0)
    own = (lacks[which].astype(np.float64) * (1 << _RANK_BITS)) + team.rank
    best = np.full(int(ends[-1]), math.inf)
    best[at[can]] = own[can]
    best = yield Message("min", best)
    counted = np.concatenate([kind.is_counted for kind in kinds.values()])
    chosen = np.zeros(len(which), dtype=bool)
    chosen[can] = best[at[can]] == own[can]
    counted[which] = np.where(cuts[which] > 0, chosen, counted[which])
    bits = yield Message("sum", _bits(team, (lacks[which] > 0) & takes_part))
    who = np.unpackbits(bits.view(np.uint8).reshape(len(team.ranks), -1), axis=1)
    parts = np.split(counted, np.cumsum([len(kind.names) for kind in kinds.values()])[:-1])
    changed = {
        name: replace(kind, is_counted=part)
        for (name, kind), part in zip(kinds.items(), parts, strict=True)
    }
    names = [(kind, name) for kind, agreed in kinds.items() for name in agreed.names]
    missing: _Missing = {}
    for k, i in enumerate(which.tolist()):
        kind, name = names[i]
        ranks = [rank for rank, bit in zip(team.ranks, who[:, k].tolist(), strict=True) if bit]
        is_expected = kind in IN_EVERY_STEP or lacking[i] < holders[i]
        if ranks and is_expected and kind not in HIDDEN:
            why = REASON.get(kind, "not measured")
            missing.setdefault(kind, {})[name] = on_ranks(why, ranks)
    return changed, missing


def _bits(team: Team, marks: Array) -> Integers:
    """Return the marks of this rank, one bit each, in a place of its own; others have 0 there."""
    seen = np.zeros((len(team.ranks), -(-len(marks) // _WORD) * _WORD), dtype=bool)
    seen[team.ranks.index(team.rank), : len(marks)] = marks
    words: Integers = np.packbits(seen, axis=1).ravel().view(np.int64)
    return words


def on_ranks(why: str, ranks: Sequence[int]) -> str:
    """Return why a tensor is not there, and on which ranks."""
    named = ", ".join(map(str, ranks[:_MOST_NAMED]))
    if len(ranks) > _MOST_NAMED:
        named += f" and {len(ranks) - _MOST_NAMED} more"
    return f"{why} on rank{'s' * (len(ranks) > 1)} {named}"


def of_elements(count: int, numel: int, why: str | None) -> str:
    """Return of how many elements of a tensor a row is, and why, where it is known."""
    return f"{count} of {numel} elements" + ("" if why is None else f": {why}")
