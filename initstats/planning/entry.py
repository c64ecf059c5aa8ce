"""Entries of a plan: the rule of each parameter, why, and the pieces that fills write."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from initstats.recipes import Constant, Derived
from initstats.recipes.distributions.composite import (
    Distribution,
    Kept,
    Simple,
    Slices,
    Stacked,
)
from initstats.recipes.multipliers import PLAIN, Multipliers
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
        start: Index of its first element in the parameter; empty for the whole parameter.
        size: Its extent in each dimension of the parameter; empty for the whole parameter.
        dropped: Dimensions of the parameter, of extent 1, that the piece does not have.
    """

    name: str
    key_name: str
    parameter: torch.Tensor = field(repr=False)
    distribution: Simple | Derived
    start: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()

    @classmethod
    def of_range(
        cls,
        name: str,
        key_name: str,
        parameter: torch.Tensor,
        distribution: Simple,
        ranges: Mapping[int, tuple[int, int]],
        *,
        drop: bool = False,
    ) -> Piece:
        """Return a piece that is a range of some dimensions.

        Args:
            name: As the class.
            key_name: As the class.
            parameter: As the class.
            distribution: As the class.
            ranges: First index and length, by dimension.
            drop: The ranges are single indices, and their dimensions are dropped.
        """
        shape = parameter.shape
        start = tuple(ranges[d][0] if d in ranges else 0 for d in range(len(shape)))
        size = tuple(ranges[d][1] if d in ranges else n for d, n in enumerate(shape))
        return cls(
            name, key_name, parameter, distribution, start, size, tuple(ranges) if drop else ()
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return self._kept(self.size or tuple(self.parameter.shape))

    @property
    def _offset(self) -> tuple[int, ...]:
        return self.start or (0,) * self.parameter.dim()

    def _kept(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Leave out the dimensions that the piece does not have."""
        return tuple(n for dim, n in enumerate(sizes) if dim not in self.dropped)

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
        return self.of(self.parameter.detach())

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the piece of a tensor that has the parameter's shape, as a view."""
        if not self.size:
            return whole
        ends = zip(self.start, self.size, strict=True)
        ranged = whole[tuple(slice(first, first + n) for first, n in ends)]
        return ranged.squeeze(self.dropped) if self.dropped else ranged

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
        size = self.size or tuple(self.parameter.shape)
        found = local_boxes(function, self.parameter, self._offset, size)
        return [self._part(local[slices], box) for slices, box in found]

    def _part(self, tensor: torch.Tensor, box: Box) -> Part:
        if not self.dropped:
            return Part(tensor, box)
        kept = Box(self._kept(box.offset), self._kept(box.size))
        return Part(tensor.squeeze(self.dropped), kept)

    def within(self, block: torch.Tensor, offset: Sequence[int]) -> Part | None:
        """Return what a block of the parameter holds of the piece; None for nothing.

        Args:
            block: A block of the parameter.
            offset: Index of its first element in the parameter.
        """
        runs = [[Run(start, n)] for start, n in zip(offset, block.shape, strict=True)]
        found = pieces_of(runs, self._offset, self.size or tuple(self.parameter.shape))
        return self._part(block[found[0].slices], found[0].box) if found else None


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
        multipliers: Of its hyperparameters, for AdamW.
        tie_problem: What is odd about the names that share the parameter; empty when nothing is.
        parameter: The parameter itself.
        group: Where it stands in the model, under each of its names.
        source: Name and parameter that a `Derived` distribution takes its values from.
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
    source: tuple[str, torch.Tensor] | None = field(default=None, repr=False)
    multipliers: Multipliers = PLAIN

    @property
    def is_buffer(self) -> bool:
        """True for a buffer."""
        return self.group[0].is_buffer

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
        if isinstance(promised, Slices):
            return self._slices(promised)
        if not isinstance(promised, Stacked):
            return (Piece(self.name, self.key_name, self.parameter, promised),)
        pieces = []
        start = 0
        for part in promised.parts:
            key, name = f"{self.key_name}[{part.key or part.label}]", f"{self.name}[{part.label}]"
            dim = promised.dim % self.parameter.dim()
            ranges = {dim: (start, part.size)}
            pieces.append(Piece.of_range(name, key, self.parameter, part.distribution, ranges))
            start += part.size
        return tuple(pieces)

    def _slices(self, promised: Slices) -> tuple[Piece, ...]:
        """Return one piece per slice, in the order of their indices."""
        pieces = []
        for index in itertools.product(*(range(self.shape[dim]) for dim in promised.dims)):
            at = f"[{','.join(map(str, index))}]"
            ranges = {dim: (i, 1) for dim, i in zip(promised.dims, index, strict=True)}
            pieces.append(
                Piece.of_range(
                    self.name + at,
                    self.key_name + at,
                    self.parameter,
                    promised.each,
                    ranges,
                    drop=True,
                )
            )
        return tuple(pieces)

    @property
    def padding(self) -> Piece | None:
        """The padding row that stays 0, or None without one."""
        if self.zero_row is None:
            return None
        dim, name = self.parameter.dim() - 2, f"{self.name}@padding"
        row = self.zero_row % self.parameter.shape[dim]
        return Piece.of_range(name, self.key_name, self.parameter, Constant(0.0), {dim: (row, 1)})

    @property
    def promise(self) -> str:
        """The distribution, in words."""
        words = str(self.distribution)
        return words if self.zero_row is None else f"{words}, row {self.zero_row} 0"

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-able values."""
        unknown = isinstance(self.distribution, (Kept, Derived))
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
            "mean": None if unknown else self.distribution.mean,
            "std": None if unknown else self.distribution.std,
            "tied_to": list(self.tied_to),
            "also_matched": list(self.also_matched),
            "keep": self.keep,
            "zero_row": self.zero_row,
            "multipliers": dict(vars(self.multipliers)),
        }
