"""Entries of a plan: the rule of each parameter, why, and the pieces that fills write."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from initstats.recipes.distributions.composite import Distribution, Kept, Simple, Stacked
from initstats.recipes.parameters import Slot


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a parameter with one distribution; most parameters are one piece.

    Attributes:
        name: Name of the parameter, with the label of the part in brackets if there are several.
        key_name: What makes the key with the seed.
        tensor: The parameter or a view of it.
        distribution: What it holds.
    """

    name: str
    key_name: str
    tensor: torch.Tensor = field(repr=False)
    distribution: Simple


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
        parameter = self.parameter.detach()
        if not isinstance(promised, Stacked):
            return (Piece(self.name, self.key_name, parameter, promised),)
        pieces = []
        start = 0
        for part in promised.parts:
            view = parameter.narrow(promised.dim, start, part.size)
            key = f"{self.key_name}[{part.key or part.label}]"
            pieces.append(Piece(f"{self.name}[{part.label}]", key, view, part.distribution))
            start += part.size
        return tuple(pieces)

    @property
    def padding(self) -> torch.Tensor | None:
        """View of the padding row that stays 0, or None without one."""
        return None if self.zero_row is None else self.parameter.detach().select(-2, self.zero_row)

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
