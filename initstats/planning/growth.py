"""Parameters that grow out of others: how each was made, and what makes its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from initstats.sharding import is_dtensor

Make = Callable[[int], torch.Tensor]  # from the seed


@dataclass(frozen=True)
class Grown:
    """A parameter whose values are made of those of a checkpoint.

    Attributes:
        sources: Names in the checkpoint.
        how: What it holds, in words.
        make: Makes the whole values, in any floating dtype, from the seed; it is called when
            nothing can be refused any more.
    """

    sources: tuple[str, ...]
    how: str
    make: Make


def whole(value: torch.Tensor) -> torch.Tensor:
    """Return the whole of a tensor; of a DTensor it is gathered, which is collective."""
    return value.full_tensor() if is_dtensor(value) else value


def working_dtype(value: torch.Tensor) -> torch.dtype:
    """Return the dtype in which new values are computed: float32 at least."""
    return torch.float64 if value.dtype is torch.float64 else torch.float32
