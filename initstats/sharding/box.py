"""Boxes: where a tensor lies in a larger one, and the boxes that make up a rank's share of it."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_TOO_LARGE = 1 << 63  # for the ops, which take int64


@dataclass(frozen=True)
class Box:
    """Where a tensor lies in the whole tensor that it is a block of.

    Its own sizes are those of the tensor that it is given with. A rank that holds rows 4096 to 8191
    of an [8192, 1024] weight gives `Box(offset=(4096, 0), size=(8192, 1024))`.

    Args:
        offset: Index of the tensor's first element in the whole, one integer per dimension.
        size: Sizes of the whole, one integer per dimension, as in `orthogonal_block_`.

    Raises:
        TypeError: offset or size do not hold integers.
        ValueError: they differ in length, or one is negative or no 64-bit integer.
    """

    offset: tuple[int, ...]
    size: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check and keep plain integers."""
        for name in ("offset", "size"):
            value = getattr(self, name)
            try:
                numbers = tuple(map(operator.index, value))
            except TypeError:
                raise TypeError(
                    f"initstats.Box: expected {name} to hold integers, got {name}={value!r}"
                ) from None
            object.__setattr__(self, name, numbers)
        numbers = (*self.offset, *self.size)
        if max(numbers, default=0) >= _TOO_LARGE:
            raise ValueError(
                "initstats.Box: expected offsets and sizes below 2**63, got"
                f" offset={self.offset}, size={self.size}"
            )
        if len(self.offset) != len(self.size) or min(numbers, default=0) < 0:
            raise ValueError(
                "initstats.Box: expected as many offsets as sizes, none negative,"
                f" got offset={self.offset}, size={self.size}"
            )


class Run(NamedTuple):
    """Neighbouring indices of one dimension of the whole tensor."""

    start: int
    length: int


class Piece(NamedTuple):
    """A block of a local tensor, `local[piece.slices]`, and its box in the whole tensor."""

    slices: tuple[slice, ...]
    box: Box


def pieces_of(
    runs: Sequence[Sequence[Run]], offset: Sequence[int], size: Sequence[int]
) -> tuple[Piece, ...]:
    """Return the pieces of a local tensor that lie in one block of the whole tensor.

    The whole is the block with offset 0 and its own sizes; others are the rows of q in a packed
    q k v, or one row of padding. The boxes count from the block's first element, so that a piece
    gets the bits of a tensor of its own.

    Args:
        runs: Per dimension those of the local tensor, in its order (`runs_of`).
        offset: Of the block in the whole tensor.
        size: Of the block.
    """
    inside = []
    for here, first, length in zip(runs, offset, size, strict=True):
        position, found = 0, []
        for start, n in here:
            low, high = max(start, first), min(start + n, first + length)
            if low < high:
                at = position + low - start
                found.append((slice(at, at + high - low), low - first))
            position += n
        inside.append(found)
    sizes = tuple(size)
    return tuple(
        Piece(tuple(cut for cut, _ in each), Box(tuple(start for _, start in each), sizes))
        for each in itertools.product(*inside)
    )
