"""Values of parameters that lie whole in memory: equal slices, and orthogonality."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from initstats.planning.entry import Piece
from initstats.recipes import Orthogonal
from initstats.verification.segments import COMPARED, Copy, find_copies, random_bits
from initstats.verification.values import FLOAT32_SLACK, slice_dims

_CHUNK = 1 << 22  # elements compared at a time
_ROWS_COMPARED = 64
# Slices that are equal by chance once in so many draws, as a power of 2, are looked at.
_CHANCE_BITS = 40
_MOST_BITS = 22  # of float32 values: generators make them from 24 bits


class WholeValues:
    """Looks at the values of pieces where they are."""

    def slice_dims(self, piece: Piece) -> list[int]:
        """Return the dimensions of slices that can be compared: `Values.slice_dims`.

        Slices of less than 8 values are compared where as few are not equal by chance.
        """
        bits = min(random_bits(piece.distribution, piece.dtype), _MOST_BITS)
        if not bits or _is_rounded(piece.tensor):
            return slice_dims(piece)
        pairs = 2 * math.log2(max(2, *piece.shape))
        return slice_dims(piece, min(COMPARED, math.ceil((pairs + _CHANCE_BITS) / bits)))

    def is_rounded(self, piece: Piece) -> bool:
        """Look at a few values: `Values.is_rounded`."""
        return _is_rounded(piece.tensor)

    def copies(self, pieces: Sequence[Piece]) -> Sequence[Copy]:
        """Find copied blocks of all pieces: `Values.copies`."""
        return tuple(find_copies(pieces))

    def equal_slices(
        self, piece: Piece, dim: int, *, look_for_zero: bool
    ) -> tuple[list[int], dict[int, int]]:
        """Find slices that are zero or equal.

        Args:
            piece: The piece.
            dim: The slices are those along this dimension.
            look_for_zero: There are enough zeros for slices of them.

        Returns:
            Indices of slices that are all zero, and the first equal slice of those that equal an
            earlier one, by index.
        """
        return _equal_slices(piece.tensor, dim, look_for_zero=look_for_zero)

    def whole(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Return all elements of a parameter: `Values.whole`."""
        del name
        return parameter.detach()

    def orthogonality_problem(self, piece: Piece, promised: Orthogonal) -> str:
        """Say what keeps a matrix from being orthogonal; nothing if it is."""
        return _orthogonality_problem(piece.tensor, promised)


def _is_rounded(tensor: torch.Tensor) -> bool:
    """Tell whether values were rounded to half precision before: such are equal more often."""
    some = tensor.flatten()[:_ROWS_COMPARED]
    return bool((some == some.bfloat16()).all() or (some == some.half()).all())


def _orthogonality_problem(tensor: torch.Tensor, promised: Orthogonal) -> str:
    """Check the products of up to 64 rows (or columns) for orthogonality."""
    matrix = tensor.reshape(tensor.shape[0], -1)
    if promised.rows > promised.columns:
        matrix = matrix.t()
    some = matrix[:_ROWS_COMPARED].double()
    products = some @ some.t() / promised.gain**2
    off = (products - torch.eye(len(some), dtype=products.dtype, device=products.device)).abs()
    # Rounding of n products of size 1/n each, to the dtype of the matrix.
    allowed = 4 * torch.finfo(tensor.dtype).eps + FLOAT32_SLACK
    worst = float(off.max())
    return "" if worst <= allowed else f"rows are not orthonormal: off by {worst:.2g}"


def _equal_slices(
    tensor: torch.Tensor, dim: int, *, look_for_zero: bool
) -> tuple[list[int], dict[int, int]]:
    """Return the slices along dim that are all zero, and those that equal an earlier one, by index.

    The first elements of every slice find candidates, which are then compared in full.
    """
    slices = tensor.detach().movedim(dim, 0)
    heads = _beginnings(slices).to("cpu", torch.float64).contiguous()
    candidates: list[int] = []
    if look_for_zero:
        candidates = (heads == 0).all(dim=1).nonzero().flatten().tolist()
    zero = [
        i for i, is_zero in zip(candidates, _all_zero(slices, candidates), strict=True) if is_zero
    ]
    # Equal bits are equal bytes; numpy finds them by sorting.
    keys = heads.numpy().view(f"V{heads.shape[1] * heads.element_size()}").ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    leader = first[inverse]
    dead = set(zero)
    copies = [i for i in np.flatnonzero(leader != np.arange(len(leader))).tolist() if i not in dead]
    leads = [int(leader[i]) for i in copies]
    same = _all_equal(slices, copies, leads)
    return zero, {i: lead for i, lead, is_same in zip(copies, leads, same, strict=True) if is_same}


def _beginnings(slices: torch.Tensor) -> torch.Tensor:
    """Return the first elements of every slice, [n, 8], and no copy of more than that."""
    found = 1
    for d in range(slices.dim() - 1, 0, -1):
        slices = slices.narrow(d, 0, min(slices.shape[d], -(-COMPARED // found)))
        found *= slices.shape[d]
    return slices.reshape(slices.shape[0], -1)[:, :COMPARED]


def _all_zero(slices: torch.Tensor, at: Sequence[int]) -> list[bool]:
    """Tell which slices are all zero."""
    return [not bool(slices[i].any()) for i in at]


def _all_equal(slices: torch.Tensor, at: Sequence[int], others: Sequence[int]) -> list[bool]:
    """Tell which of two lists of slices are equal, in chunks."""
    same: list[bool] = []
    step = max(1, _CHUNK * slices.shape[0] // max(1, slices.numel()))
    for i in range(0, len(at), step):
        mine, theirs = (
            slices.index_select(0, torch.tensor(some[i : i + step], device=slices.device))
            for some in (at, others)
        )
        same += (mine == theirs).flatten(1).all(dim=1).tolist()
    return same
