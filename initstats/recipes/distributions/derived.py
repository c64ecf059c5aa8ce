"""Values that come from another parameter of the model: copies, transposes, norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from initstats.recipes.distributions.unknown import Unknown

_HOW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "copy": lambda x: x,
    "transpose": lambda x: x.transpose(-1, -2),
    "row norms": lambda x: torch.linalg.vector_norm(x.flatten(1).double(), dim=1),
    "column norms": lambda x: torch.linalg.vector_norm(x.double(), dim=0),
    "tap norms": lambda x: torch.linalg.vector_norm(x.flatten(0, -2).double(), dim=0),
    "sampled rows": lambda x: x,  # of which a key chooses
}


@dataclass(frozen=True)
class Derived(Unknown):
    """What another parameter of the same model gives, written after all others.

    Args:
        how: "copy"; "transpose", of the last two dimensions; "row norms", one per index of the
            first dimension; "column norms", one per index of all others; "tap norms", one per
            index of the last; or "sampled rows", each row one of the source's, with replacement.
            The parameter may have more or fewer dimensions of size 1.
        of: Name of the other parameter, or a glob pattern that only one name matches.

    Raises:
        ValueError: If `how` is none of the six.
    """

    how: str
    of: str

    def __post_init__(self) -> None:
        if self.how not in _HOW:
            raise ValueError(
                f"initstats.Derived: expected how among {', '.join(_HOW)}, got how={self.how!r}"
            )

    @property
    def is_sampled(self) -> bool:
        """Tell whether a key chooses among the values."""
        return self.how == "sampled rows"

    def values(self, source: torch.Tensor) -> torch.Tensor:
        """Return the values for a source.

        Args:
            source: The other parameter, of any shape that has the dimensions.

        Returns:
            A tensor, not yet of the shape and dtype of the parameter; of sampled rows all of them.
        """
        return _HOW[self.how](source.detach())

    def shape_of(self, source: torch.Tensor, rows: int | None = None) -> tuple[int, ...]:
        """Return the shape of the values for a source; of sampled rows with so many of them."""
        if self.is_sampled and rows is not None:
            return (rows, *source.shape[1:])
        return tuple(self.values(torch.empty(source.shape, device="meta")).shape)

    def __str__(self) -> str:
        return f"{self.how} of {self.of}"
