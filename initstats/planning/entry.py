"""Entries of a plan: the rule of each parameter, why, and the pieces that fills write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from initstats.recipes import Constant
from initstats.recipes.distributions.composite import Distribution, Kept, Simple, Stacked
from initstats.recipes.parameters import Slot
from initstats.sharding import Box, Run, is_dtensor, local_boxes, local_tensor, pieces_of


class Part(NamedTuple):
    """What this rank holds of a piece.

    Attributes:
        tensor: A plain tensor; writing it writes the parameter.
        box: Where it lies in the piece; None where it is all of it.
    """

    tensor: torch.Tensor
    box: Box | None


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a parameter with one distribution; most parameters are one piece.

    Attributes:
        name: Name of the parameter, with the label of the part in brackets if there are several.
        key_name: What makes the key with the seed.
        parameter: The parameter.
        distribution: What it holds.
        dim: Dimension of the parameter of which the piece is a range.
        start: First index of the range.
        size: Length of the range; None for the whole parameter.
    """

    name: str
    key_name: str
    parameter: torch.Tensor = field(repr=False)
    distribution: Simple
    dim: int = 0
    start: int = 0
    size: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        sizes = list(self.parameter.shape)
        if self.size is not None:
            sizes[self.dim] = self.size
        return tuple(sizes)

    @property
    def offset(self) -> tuple[int, ...]:
        """Index of its first element in the parameter."""
        first = [0] * self.parameter.dim()
        if self.size is not None:
            first[self.dim] = self.start
        return tuple(first)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameter."""
        return self.parameter.dtype

    @cached_property
    def tensor(self) -> torch.Tensor:
        """The piece as a view of the parameter; views of a DTensor would be copies."""
        assert not is_dtensor(self.parameter)
        whole = self.parameter.detach()
        return whole if self.size is None else whole.narrow(self.dim, self.start, self.size)

    def parts(self, function: str) -> list[Part]:
        """Return what this rank holds of the piece.

        Args:
            function: Public function on whose behalf this is done, for messages.

        Raises:
            TypeError: If the placements of a DTensor are unknown, or `Partial`.
        """
        if not is_dtensor(self.parameter):
            return [Part(self.tensor, None)]
        local = local_tensor(self.parameter)
        found = local_boxes(function, self.parameter, self.offset, self.shape)
        return [Part(local[slices], box) for slices, box in found]

    def within(self, block: torch.Tensor, offset: Sequence[int]) -> Part | None:
        """Return what a block of the parameter holds of the piece; None for nothing.

        Args:
            block: A block of the parameter.
            offset: Index of its first element in the parameter.
        """
        runs = [[Run(start, n)] for start, n in zip(offset, block.shape, strict=True)]
        found = pieces_of(runs, self.offset, self.shape)
        return Part(block[found[0].slices], found[0].box) if found else None


@dataclass(frozen=True, eq=False)
class PlanEntry:
    """The plan of one parameter.

    Attributes:
        name: Name under which the rule took it.
        key_name: The name that makes the key of its values with the seed: without wrappers.
        shape: Its shape.
        dtype: Its dtype, as text.
        count: Number of elements.
        role: The part it plays in the model.
        rule: Label of the rule that took it.
        why: What of the parameter matched.
        distribution: What the rule promises.
        tied_to: The other names of the same parameter.
        also_matched: Labels of later rules that match too; the first rule wins.
        keep: True when transformers marked the parameter as loaded, or the recipe keeps it:
            `init_` leaves it alone.
        zero_row: Index in dimension -2 of the row that stays 0, the padding of an embedding (of
            each table of a fused one); None without.
        tie_problem: What is odd about the names that share the parameter; empty when nothing is.
        parameter: The parameter itself.
        group: Where it stands in the model, under each of its names.
    """

    name: str
    key_name: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    role: str
    rule: str
    why: str
    distribution: Distribution
    tied_to: tuple[str, ...]
    also_matched: tuple[str, ...]
    keep: bool
    zero_row: int | None
    tie_problem: str
    parameter: torch.Tensor = field(repr=False)
    group: tuple[Slot, ...] = field(repr=False)

    @property
    def slot(self) -> Slot:
        """The slot under the name that the rule matched."""
        return next(slot for slot in self.group if slot.name == self.name)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces in order; none when the parameter is kept without a promise."""
        promised = self.distribution
        if isinstance(promised, Kept):
            return ()
        if not isinstance(promised, Stacked):
            return (Piece(self.name, self.key_name, self.parameter, promised),)
        pieces = []
        start = 0
        for part in promised.parts:
            key, name = f"{self.key_name}[{part.key or part.label}]", f"{self.name}[{part.label}]"
            dim = promised.dim % self.parameter.dim()
            pieces.append(
                Piece(name, key, self.parameter, part.distribution, dim, start, part.size)
            )
            start += part.size
        return tuple(pieces)

    @property
    def padding(self) -> Piece | None:
        """The padding row that stays 0, or None without one."""
        if self.zero_row is None:
            return None
        dim, name = self.parameter.dim() - 2, f"{self.name}@padding"
        row = self.zero_row % self.parameter.shape[dim]
        return Piece(name, self.key_name, self.parameter, Constant(0.0), dim, row, 1)

    @property
    def promise(self) -> str:
        """The distribution, in words."""
        words = str(self.distribution)
        return words if self.zero_row is None else f"{words}, row {self.zero_row} 0"

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-able values."""
        kept = isinstance(self.distribution, Kept)
        return {
            "name": self.name,
            "key_name": self.key_name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "count": self.count,
            "role": self.role,
            "rule": self.rule,
            "why": self.why,
            "distribution": str(self.distribution),
            "mean": None if kept else self.distribution.mean,
            "std": None if kept else self.distribution.std,
            "tied_to": list(self.tied_to),
            "also_matched": list(self.also_matched),
            "keep": self.keep,
            "zero_row": self.zero_row,
        }
