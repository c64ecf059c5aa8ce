"""Where `verify` looks at values that records do not tell: whole tensors, or blocks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from initstats.planning.entry import Piece
from initstats.recipes import Orthogonal
from initstats.verification.segments import COMPARED, Copy

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

    def slice_dims(self, piece: Piece) -> list[int]:
        """Return the dimensions along which slices of a piece are long enough to be compared.

        Args:
            piece: The piece.
        """

    def is_rounded(self, piece: Piece) -> bool | None:
        """Tell whether values were rounded to half precision before; None if that is not known.

        Args:
            piece: The piece.
        """

    def copies(self, pieces: Sequence[Piece]) -> Sequence[Copy]:
        """Find pieces of which blocks were copied, as far as values are at hand.

        Args:
            pieces: The pieces.
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


def slice_dims(piece: Piece, least: int = COMPARED) -> list[int]:
    """Return the dimensions along which slices of a piece are long enough to be compared.

    Args:
        piece: The piece.
        least: Elements of a slice. 8 are equal by chance once in 2**72 even in bfloat16.
    """
    sizes = piece.shape[:_BANK_DIMS]
    return [dim for dim, n in enumerate(sizes) if n > 0 and piece.count >= n * least]
