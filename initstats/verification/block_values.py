"""Values of parameters that lie in blocks: in chunks of files, or in shards over many ranks.

What is looked for is written as sums over elements, so that blocks add up in any order: hashes of
the first elements of every slice, hashes of whole slices where those are equal, and products with a
few random vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch

from initstats.init.random import normal_
from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Orthogonal
from initstats.sharding import Box, Domain
from initstats.statistics.blocks import NamedBlock, merge_over_ranks, stats_of_blocks
from initstats.verification.segments import COMPARED, Copy
from initstats.verification.values import FLOAT32_SLACK, slice_dims

Blocks = Callable[[str, torch.Tensor], Iterable[tuple[torch.Tensor, Sequence[int]]]]
_T = TypeVar("_T")

_CHUNK = 1 << 22  # elements converted at a time
_VECTORS = 4
# The finaliser of splitmix64, as signed numbers (Steele, Lea and Flood 2014).
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


class BlockValues:
    """Reads the blocks once, and again where slices may be equal.

    Args:
        entries: The parameters with a promise.
        rest: Others, by the name of their record.
        blocks: Returns the blocks of a parameter, given its name and the parameter itself.
        domain: The ranks among which blocks lie; None if this process has them all.

    Attributes:
        table: The records of pieces, padding rows and the rest.
    """

    def __init__(
        self,
        entries: Sequence[PlanEntry],
        rest: Mapping[str, tuple[str, torch.Tensor]],
        blocks: Blocks,
        domain: Domain | None,
    ) -> None:
        self._blocks, self._domain = blocks, domain
        self._owners = {piece.name: entry for entry in entries for piece in entry.pieces}
        pieces = [piece for entry in entries for piece in entry.pieces]
        self._heads = {
            (piece.name, dim): torch.zeros(piece.shape[dim], dtype=torch.int64)
            for piece in pieces
            for dim in slice_dims(piece)
        }
        self._products = {
            piece.name: torch.zeros(max(_matrix(piece)), _VECTORS, dtype=torch.float64)
            for piece in pieces
            if isinstance(piece.distribution, Orthogonal)
        }
        names = [piece.name for piece in pieces]
        names += [f"{entry.name}@padding" for entry in entries if entry.padding is not None]
        self.table = stats_of_blocks(self._pass(entries, rest), fingerprint=True)
        if domain is not None:
            self.table = merge_over_ranks(self.table, [*names, *rest], domain)
            self._heads = _summed(domain, self._heads)
            self._products = _summed(domain, self._products)

    def _pass(
        self, entries: Sequence[PlanEntry], rest: Mapping[str, tuple[str, torch.Tensor]]
    ) -> Iterator[list[NamedBlock]]:
        """Read every block, add to the sums, and yield what has a record."""
        for entry in entries:
            measured = [*entry.pieces, *([] if entry.padding is None else [entry.padding])]
            for block, offset in self._blocks(entry.name, entry.parameter):
                found: list[NamedBlock] = []
                for piece in measured:
                    part = piece.within(block, offset)
                    if part is not None and part.box is not None:
                        found.append((piece.name, part.tensor, part.box))
                        self._add(piece, part.tensor, part.box)
                if found:
                    yield found
        for record, (name, tensor) in rest.items():
            for block, offset in self._blocks(name, tensor):
                yield [(record, block, Box(tuple(offset), tuple(tensor.shape)))]

    def _add(self, piece: Piece, block: torch.Tensor, box: Box) -> None:
        """Add what a block tells of the beginnings of slices, and of products."""
        for dim in slice_dims(piece):
            heads = self._heads.get((piece.name, dim))
            if heads is not None:
                first, n = box.offset[dim], block.shape[dim]
                heads[first : first + n] += _hashes(block, box, dim, COMPARED).cpu()
        products = self._products.get(piece.name)
        if products is not None:
            _add_products(products, piece, block, box)

    def slice_dims(self, piece: Piece) -> list[int]:
        """Return the dimensions of slices that can be compared: `Values.slice_dims`."""
        return slice_dims(piece)

    def is_rounded(self, piece: Piece) -> bool | None:
        """Say that it is not known: `Values.is_rounded` needs values in memory."""
        del piece
        return None

    def copies(self, pieces: Sequence[Piece]) -> Sequence[Copy]:
        """Find nothing: `Values.copies` needs values in memory."""
        del pieces
        return ()

    def equal_slices(
        self, piece: Piece, dim: int, *, look_for_zero: bool
    ) -> tuple[list[int], dict[int, int]]:
        """Find slices that are zero or equal: `Values.equal_slices`. Collective over a domain."""
        heads = self._heads[piece.name, dim].numpy()
        others = piece.count // piece.shape[dim]
        zeros = np.flatnonzero(heads == _of_zeros(min(COMPARED, others)))
        _, first, inverse = np.unique(heads, return_index=True, return_inverse=True)
        leader = first[inverse]
        copies = np.flatnonzero(leader != np.arange(len(leader)))
        zeros = zeros if look_for_zero else zeros[:0]
        if not len(zeros) and not len(copies):
            return [], {}
        sums = self._slice_hashes(piece, dim)
        zero = [i for i in zeros.tolist() if sums[i] == _of_zeros(others)]
        dead = set(zero)
        pairs = ((i, int(leader[i])) for i in copies.tolist() if i not in dead)
        return zero, {i: lead for i, lead in pairs if sums[i] == sums[lead]}

    def _slice_hashes(self, piece: Piece, dim: int) -> list[int]:
        """Return a hash of every slice: equal slices have equal ones, others one in 2**64."""
        sums = torch.zeros(piece.shape[dim], dtype=torch.int64)
        entry = self._owners[piece.name]
        for block, offset in self._blocks(entry.name, entry.parameter):
            part = piece.within(block, offset)
            if part is not None and part.box is not None:
                first, n = part.box.offset[dim], part.tensor.shape[dim]
                sums[first : first + n] += _hashes(part.tensor, part.box, dim, None).cpu()
        found: list[int] = (sums if self._domain is None else self._domain.sum(sums)).tolist()
        return found

    def whole(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Return all elements of a parameter: `Values.whole`. Collective over a domain."""
        found = torch.zeros(parameter.shape, dtype=torch.float64, device="cpu")
        for block, offset in self._blocks(name, parameter):
            ends = zip(offset, block.shape, strict=True)
            found[tuple(slice(first, first + n) for first, n in ends)] = block.cpu().double()
        return found if self._domain is None else self._domain.sum(found)

    def orthogonality_problem(self, piece: Piece, promised: Orthogonal) -> str:
        """Compare the lengths and angles of a few vectors before and after the matrix."""
        rows, columns = _matrix(piece)
        before = _vectors(min(rows, columns))
        after = self._products[piece.name] / promised.gain
        expected, got = before.t() @ before, after.t() @ after
        lengths = expected.diagonal().sqrt()
        worst = float(((got - expected).abs() / (lengths[:, None] * lengths)).max())
        # Rounding of each element to the dtype: half a unit at most, and independent, so that a sum
        # of n products of size 1/n grows with 1/sqrt(n); six standard errors. Then their squares.
        eps = torch.finfo(piece.dtype).eps
        allowed = 6 * eps / math.sqrt(max(rows, columns)) + eps * eps + FLOAT32_SLACK
        return "" if worst <= allowed else f"rows are not orthonormal: off by {worst:.2g}"


def _summed(domain: Domain, sums: dict[_T, torch.Tensor]) -> dict[_T, torch.Tensor]:
    """Sum tensors over the ranks in one go."""
    if not sums:
        return sums
    flat = domain.sum(torch.cat([x.flatten() for x in sums.values()]))
    parts = torch.split(flat, [x.numel() for x in sums.values()])
    return {key: part.view(x.shape) for (key, x), part in zip(sums.items(), parts, strict=True)}


def _mixed(bits: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Return int64 hashes of bits at positions."""
    z = bits + (position + 1) * _GAMMA
    z = (z ^ (z >> 30)) * _MIX[0]
    z = (z ^ (z >> 27)) * _MIX[1]
    return z ^ (z >> 31)


def _of_zeros(count: int) -> int:
    """Return the hash of a slice of zeros."""
    total = 0
    for start in range(0, count, _CHUNK):
        position = torch.arange(start, min(count, start + _CHUNK), device="cpu")
        total += int(_mixed(torch.zeros_like(position), position).sum())
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _hashes(block: torch.Tensor, box: Box, dim: int, most: int | None) -> torch.Tensor:
    """Return a hash of every slice of a block along a dimension, int64 [n].

    Args:
        block: The block.
        box: Where it lies.
        dim: The dimension.
        most: Elements of the slice of the whole that count, the first ones; None for all.
    """
    lengths, found = list(box.size), 1
    for d in reversed(range(block.dim())):
        if d != dim and most is not None:
            lengths[d] = min(box.size[d], -(-most // found))
            found *= lengths[d]
    position = torch.zeros((), dtype=torch.int64, device=block.device)
    for d in range(block.dim()):
        if d == dim:
            continue
        n = max(0, min(block.shape[d], lengths[d] - box.offset[d]))
        block = block.narrow(d, 0, n)
        index = torch.arange(box.offset[d], box.offset[d] + n, device=block.device)
        position = position[..., None] * lengths[d] + index
    slices = block.movedim(dim, 0)
    total = torch.zeros(len(slices), dtype=torch.int64, device=block.device)
    if not slices.numel():
        return total
    step = max(1, _CHUNK * len(slices) // slices.numel())
    for start in range(0, len(slices), step):
        # Adding 0 makes -0 a 0: they are equal.
        bits = (slices[start : start + step].double() + 0.0).view(torch.int64)
        mixed = _mixed(bits, position)
        if most is not None:
            mixed = mixed * (position < most)
        total[start : start + step] = mixed.flatten(1).sum(dim=1)
    return total


def _matrix(piece: Piece) -> tuple[int, int]:
    """Return the rows and columns of a piece, the dimensions after the first flattened."""
    return piece.shape[0], math.prod(piece.shape[1:])


def _vectors(n: int) -> torch.Tensor:
    """Return the random vectors of R^n, [n, vectors], the same on every rank."""
    vectors = torch.empty(n, _VECTORS, dtype=torch.float64, device="cpu")
    return normal_(vectors, seed=0, name="vectors of verify")


def _add_products(products: torch.Tensor, piece: Piece, block: torch.Tensor, box: Box) -> None:
    """Add the product of a block and the vectors, from the shorter side of the matrix."""
    rows, columns = _matrix(piece)
    vectors = _vectors(min(rows, columns))
    place = torch.zeros((), dtype=torch.int64, device="cpu")
    for full, first, n in zip(box.size[1:], box.offset[1:], block.shape[1:], strict=True):
        place = place[..., None] * full + torch.arange(first, first + n, device="cpu")
    place = place.flatten()
    matrix = block.flatten(1) if block.dim() > 1 else block[:, None]
    step = max(1, _CHUNK // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), step):
        some = matrix[start : start + step].double().cpu()
        first = box.offset[0] + start
        if rows <= columns:
            products.index_add_(0, place, some.t() @ vectors[first : first + len(some)])
        else:
            products[first : first + len(some)] += some @ vectors[place]
