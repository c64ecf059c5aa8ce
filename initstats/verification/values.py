"""Where `verify` looks at values that records do not tell: whole tensors, or blocks of them."""

from __future__ import annotations

from typing import Protocol

import torch

from initstats.planning.entry import Piece
from initstats.recipes import Orthogonal

# Elements of a slice that are compared first; equal by chance once in 2**80 even in bfloat16. A
# shorter slice is not looked at: in a narrow dtype it may be zero, or equal to another, by chance.
COMPARED = 8
FLOAT32_SLACK = 2e-5  # of a product of reflections in float32
_BANK_DIMS = 3


class Values(Protocol):
    """The values of the measured pieces."""

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

    def whole(self, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Return all elements of a parameter, of any floating dtype.

        Args:
            name: Its name.
            parameter: The parameter.
        """

    def orthogonality_problem(self, piece: Piece, promised: Orthogonal) -> str:
        """Say what keeps a matrix from being orthogonal; nothing if it is.

        Args:
            piece: The matrix.
            promised: What it should be.
        """


def slice_dims(piece: Piece) -> list[int]:
    """Return the dimensions along which slices of a piece are long enough to be compared."""
    sizes = piece.shape[:_BANK_DIMS]
    return [dim for dim, n in enumerate(sizes) if n > 0 and piece.count >= n * COMPARED]
