"""Layouts of ranks that hold different tensors: exchange them, and join what can be joined."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initstats.statistics.reduction import Array, Contribution, LayoutsDifferError, Message

_NAMED = 3  # tensors in an error
HELD = "held"  # how shapes of plain tensors begin that some ranks may lack


@dataclass(frozen=True)
class Layout:
    """What one rank has: its records' scale and groups, and shape and elements by name."""

    scale: int
    groups: int
    tensors: Mapping[str, tuple[str, int]]


@dataclass(frozen=True)
class Joined:
    """The tensors of all ranks.

    Attributes:
        scale: Of the histograms.
        groups: A sum of `Groups`.
        names: In the order of the first rank that has each.
        shapes: For each what must agree, as text.
        numel: Elements of each over all ranks, -1 where no rank knows.
        holders: Ranks that have each.
        lacking: Ranks that have none of it.
    """

    scale: int
    groups: int
    names: tuple[str, ...]
    shapes: tuple[str, ...]
    numel: tuple[int, ...]
    holders: tuple[tuple[int, ...], ...]
    lacking: tuple[tuple[int, ...], ...]


def exchange(
    own: Contribution, ranks: Sequence[int]
) -> Generator[Message, Array, dict[int, Layout]]:
    """Tell every rank what each has: the text of equal layouts is sent once.

    Args:
        own: What this rank adds.
        ranks: All of them.

    Yields:
        Two messages.

    Returns:
        The layouts by rank.
    """
    rows = zip(own.names, own.shapes, own.numel.tolist(), strict=True)
    text = json.dumps([own.scale, own.groups, list(rows)]).encode()
    text += b" " * (-len(text) % 8)
    at = list(ranks).index(own.rank)
    sizes = np.zeros((2, len(ranks)), dtype=np.int64)
    sizes[:, at] = int(own.digest()), len(text) // 8
    digests, lengths = (yield Message("sum", sizes.ravel())).reshape(2, -1)
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    ends = np.cumsum(lengths[first])
    texts = np.zeros(int(ends[-1]), dtype=np.int64)
    if at in first:
        end = int(ends[which[at]])
        texts[end - len(text) // 8 : end] = np.frombuffer(text, dtype=np.int64)
    parts = np.split((yield Message("sum", texts)), ends[:-1])
    layouts = [_read(part) for part in parts]
    return {rank: layouts[which[i]] for i, rank in enumerate(ranks)}


def _read(part: Array) -> Layout:
    scale, groups, rows = json.loads(part.tobytes())
    return Layout(scale, groups, {name: (shape, numel) for name, shape, numel in rows})


def joined(function: str, layouts: Mapping[int, Layout]) -> Joined:
    """Join the layouts of all ranks: the same on each of them.

    DTensors say which ranks hold them, and so does `plain="held"`. Any other tensor must be on all
    ranks.

    Args:
        function: The name for messages.
        layouts: By rank.

    Raises:
        LayoutsDifferError: If a tensor has two shapes, records have other groups, or some ranks
            lack a tensor that all should have.
    """
    kinds: dict[tuple[int, int], list[int]] = {}
    holders: dict[str, list[int]] = {}
    shapes: dict[str, dict[tuple[str, int], list[int]]] = {}
    for rank, layout in layouts.items():
        if layout.tensors:
            kinds.setdefault((layout.scale, layout.groups), []).append(rank)
        for name, shape in layout.tensors.items():
            holders.setdefault(name, []).append(rank)
            shapes.setdefault(name, {}).setdefault(shape, []).append(rank)
    if len(kinds) > 1:
        which = " and ".join(
            f"scale={scale}, groups={groups} on {ranks_text(ranks)}"
            for (scale, groups), ranks in kinds.items()
        )
        msg = (
            f"initstats.{function}: expected records with the same groups on all ranks, got {which}"
        )
        raise LayoutsDifferError(msg)
    for name, found in shapes.items():
        if len(found) > 1:
            which = " and ".join(f"{s} on {ranks_text(ranks)}" for (s, _), ranks in found.items())
            msg = (
                f"initstats.{function}: expected one shape of {name!r} on all ranks of the group,"
                f" got {which}; give different tensors different names"
            )
            raise LayoutsDifferError(msg)
    chosen = {name: next(iter(found)) for name, found in shapes.items()}
    _check_holders(function, layouts, chosen, holders)
    (scale, groups), _ = next(iter(kinds.items()))
    return Joined(
        scale,
        groups,
        tuple(holders),
        tuple(chosen[name][0] for name in holders),
        tuple(chosen[name][1] for name in holders),
        tuple(tuple(ranks) for ranks in holders.values()),
        tuple(tuple(r for r in layouts if r not in ranks) for ranks in map(set, holders.values())),
    )


def _check_holders(
    function: str,
    layouts: Mapping[int, Layout],
    shapes: Mapping[str, tuple[str, int]],
    holders: Mapping[str, Sequence[int]],
) -> None:
    """Refuse tensors that some ranks lack, and of which nothing says that they may."""
    odd = [
        name
        for name, ranks in holders.items()
        if len(ranks) < len(layouts) and not shapes[name][0].startswith(("[", HELD))
    ]
    if odd:
        which = ", ".join(f"{n!r} on {ranks_text(holders[n])} alone" for n in odd[:_NAMED])
        more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
        msg = (
            f"initstats.{function}: expected the same plain tensors on all ranks of the group, got"
            f' {which}{more}; plain="{HELD}" takes tensors that only some ranks hold, such as those'
            " of pipeline stages and experts with names of their own"
        )
        raise LayoutsDifferError(msg)


def ranks_text(ranks: Sequence[int]) -> str:
    """Return ranks in words, such as "ranks 0, 2"."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
