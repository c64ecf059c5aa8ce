"""orthogonal_ inside torch.compile: one op that checks, draws the keys and fills at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from initstats.init._dispatch import TAGS, names_from_graph, names_in_graph

# The functions that ops of this file call at run time; each module enters its own.
EAGER: dict[str, Callable[..., Any]] = {}


def orthogonal_in_graph(
    tensors: list[torch.Tensor],
    gain: float | Sequence[float],
    generator: torch.Generator | None,
    batch_dims: int,
    seed: int | None,
    name: str | Sequence[str | None] | None,
    *,
    one: bool,
) -> None:
    """Put the fill into the graph that is being compiled; its arguments are checked at run time."""
    if generator is not None:
        raise ValueError(
            "initstats.orthogonal_: expected no generator inside torch.compile, got one"
            " (give a seed, or fill from torch's default generator)"
        )
    names = [name] if isinstance(name, str) else name
    gains = [float(each) for each in gain] if isinstance(gain, (list, tuple)) else [float(gain)]  # type: ignore[arg-type]
    _orthogonal_in_graph(
        tensors,
        gains,
        isinstance(gain, (list, tuple)),
        one,
        batch_dims,
        "" if seed is None else str(seed),
        names_in_graph(names),
    )


@torch.library.custom_op(
    "initstats::orthogonal_in_graph_",
    mutates_args=["tensors"],
    schema="(Tensor(a!)[] tensors, float[] gains, bool each, bool one, int batch_dims, str seed,"
    " str[] names) -> ()",
    tags=TAGS,
)
def _orthogonal_in_graph(
    tensors: list[torch.Tensor],
    gains: list[float],
    each: bool,
    one: bool,
    batch_dims: int,
    seed: str,
    names: list[str],
) -> None:
    given = names_from_graph(names)
    EAGER["orthogonal_"](
        tensors[0] if one else tensors,
        gains if each else gains[0],
        batch_dims=batch_dims,
        seed=int(seed) if seed else None,
        name=given[0] if one and given else given,
    )


@_orthogonal_in_graph.register_fake
def _(*_arguments: object) -> None:
    """A fill changes bits, never shapes."""
