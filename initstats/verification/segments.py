"""Find blocks of values that were copied: equal segments of rows, of one parameter or of two.

A segment is 8 neighbours in a row, from a column that is a multiple of 8 (of 64 if large), or 8 of
a column (which a transposed copy has in a row). Signs do not count. Of large parameters a part of
the segments is looked at, chosen by their values, so that a segment and its copy are chosen
together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from initstats.planning.entry import Piece
from initstats.recipes.distributions.basic import Normal, Uniform
from initstats.recipes.distributions.truncated import TruncNormal

COMPARED = 8  # values of a segment, and of a slice that are compared first
_MOST = 1 << 14  # segments of a parameter that are looked at
_SMALL = 1 << 20  # elements; of larger parameters one segment in 8 is considered
_SKIPPED = 8
_FEWEST = 2  # equal segments that tell a copy
# Bits by which two random values of a piece differ, below which segments may be equal by chance: 60
# bits for 8 values tell 2**24 segments apart, of which two must be equal.
_FEWEST_BITS = 7.5
_MATRIX_DIMS = 2
# Odd constants of splitmix64 and of its finaliser, as signed numbers (Steele, Lea and Flood 2014).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Place(NamedTuple):
    """Where a segment lies.

    Attributes:
        name: Name of the piece.
        row: Its row, all dimensions but the last flattened; of a segment in a column the first.
        column: Its first column.
        upright: It lies in a column.
    """

    name: str
    row: int
    column: int
    upright: bool

    def __str__(self) -> str:
        if self.upright:
            return f"column {self.column}"
        return f"row {self.row} from column {self.column} on"


class Copy(NamedTuple):
    """Equal segments of two pieces, or of one.

    Attributes:
        place: Where the first of them lies.
        of: Where its first occurrence lies.
        others: Number of further ones.
    """

    place: Place
    of: Place
    others: int


def random_bits(distribution: object, dtype: torch.dtype) -> float:
    """Return by how many bits two independent values differ: -log2 of the chance that they agree.

    Args:
        distribution: What they come from.
        dtype: What they are rounded to.

    Returns:
        The bits; 0 for a distribution that is not known to be random and continuous.
    """
    if not isinstance(distribution, (Normal, Uniform, TruncNormal)) or not distribution.std > 0:
        return 0.0
    info = torch.finfo(dtype)
    # Values of the size of the std, of which the density is largest, are this far apart.
    spacing = max(
        info.eps * max(abs(distribution.mean), distribution.std) / 2, info.tiny * info.eps
    )
    return math.log2(distribution.std / spacing) + 1


def find_copies(pieces: Sequence[Piece]) -> Iterator[Copy]:
    """Find pieces of which segments are equal to some of an earlier piece, or of their own.

    Args:
        pieces: Pieces whose values lie in memory; those that are not random are left out.

    Yields:
        For each piece the piece with which it shares most, if it does.
    """
    sets = [
        found
        for piece in pieces
        if random_bits(piece.distribution, piece.dtype) >= _FEWEST_BITS
        for found in _segments(piece.name, piece.tensor)
    ]
    if not sets:
        return
    keys = np.concatenate([_keys(some) for some in _batches(sets)])
    first_of = np.cumsum([0, *(len(found.at) for found in sets)])
    filled = np.flatnonzero(keys != _OF_ZEROS)  # zeros are padding, or found elsewhere
    _, first, inverse = np.unique(keys[filled], return_index=True, return_inverse=True)
    leader = filled[first][inverse]
    shared: dict[str, dict[str, list[tuple[Place, Place]]]] = {}
    copied = np.flatnonzero(filled != leader)
    for i, lead in zip(filled[copied].tolist(), leader[copied].tolist(), strict=True):
        place, of = (_place(sets, first_of, at) for at in (i, lead))
        shared.setdefault(place.name, {}).setdefault(of.name, []).append((place, of))
    for sources in shared.values():
        pairs = max(sources.values(), key=len)
        if len(pairs) >= _FEWEST:
            yield Copy(*pairs[0], len(pairs) - 1)


class _Set(NamedTuple):
    """Segments of one piece.

    Attributes:
        name: Name of the piece.
        at: Number of each segment, [n].
        bits: The bits of the sizes of its values, [n, 8], integers.
        per_row: Segments of a row; of those in columns, columns.
        step: Columns from one segment to the next.
        rows: Rows of one matrix; 0 for segments of rows.
    """

    name: str
    at: torch.Tensor
    bits: torch.Tensor
    per_row: int
    step: int
    rows: int


def _place(sets: Sequence[_Set], first_of: NDArray[np.int64], i: int) -> Place:
    """Return where the segment number i of all sets lies."""
    number = int(np.searchsorted(first_of, i, side="right")) - 1
    found = sets[number]
    row, column = divmod(int(found.at[i - first_of[number]]), found.per_row)
    return Place(found.name, row * max(1, found.rows), column * found.step, found.rows > 0)


def _segments(name: str, tensor: torch.Tensor) -> Iterator[_Set]:
    """Yield the segments of rows, then those of columns, that are looked at."""
    tensor = tensor.detach()
    if tensor.dim() < _MATRIX_DIMS:
        return
    if tensor.shape[-1] < COMPARED:  # kernels of convolutions belong to the row of their filter
        tensor = tensor.flatten(1)
    rows = tensor.flatten(0, -2)
    if rows.shape[1] < COMPARED or not len(rows):
        return
    step = COMPARED if rows.numel() <= _SMALL else COMPARED * _SKIPPED
    per_row = (rows.shape[1] - COMPARED) // step + 1
    discarded = max(0, math.ceil(math.log2(len(rows) * per_row / _MOST)))
    # Segments overlap nowhere, and may lie apart.
    segments = rows.unfold(1, COMPARED, step)
    yield _Set(name, *_looked_at(segments, discarded), per_row, step, 0)
    banks = (tensor if tensor.dim() > _MATRIX_DIMS else tensor[None]).flatten(0, -3)
    if banks.shape[1] >= COMPARED:
        tops = banks[:, :COMPARED].transpose(1, 2)
        yield _Set(name, *_looked_at(tops, discarded), banks.shape[2], 1, banks.shape[1])


def _looked_at(segments: torch.Tensor, discarded: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return numbers and bits of one segment in 2**discarded, chosen by two values of each."""
    columns = segments.shape[1]
    if not discarded:
        bits = _integers(segments).flatten(0, 1)
        return torch.arange(len(bits), device="cpu"), bits.cpu()
    mixed = _integers(segments[..., 0]).flatten().long() * 0x9E3779B1
    mixed += _integers(segments[..., 1]).flatten()
    mixed *= 0x2545F4914F6CDD1D
    # The upper bits are the best mixed; a shift of signed numbers keeps the sign.
    mixed >>= 64 - discarded
    at = (mixed == 0).nonzero().flatten()
    return at.cpu(), _integers(segments[at // columns, at % columns]).cpu()


def _integers(values: torch.Tensor) -> torch.Tensor:
    """Return the bits of the sizes of values."""
    return values.abs().contiguous().view(_INTEGERS[values.element_size()])


def _batches(sets: Sequence[_Set]) -> Iterator[NDArray[np.uint64]]:
    """Yield the bits of all segments, so many at a time that they take little memory."""
    some: list[torch.Tensor] = []
    count = 0
    for found in sets:
        some.append(found.bits.long())
        count += found.at.numel()
        if count >= _MOST:
            yield torch.cat(some).numpy().view(np.uint64)
            some, count = [], 0
    if some:
        yield torch.cat(some).numpy().view(np.uint64)


def _keys(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of every row, [n, 8]."""
    with np.errstate(over="ignore"):
        z = bits + np.arange(1, bits.shape[1] + 1, dtype=np.uint64) * _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _MIX[0]
        z = (z ^ (z >> np.uint64(27))) * _MIX[1]
        keys: NDArray[np.uint64] = (z ^ (z >> np.uint64(31))).sum(axis=1, dtype=np.uint64)
    return keys


_OF_ZEROS = _keys(np.zeros((1, COMPARED), dtype=np.uint64))[0]
