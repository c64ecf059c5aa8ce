"""Fills inside torch.compile: one op that checks, draws the keys and fills when the graph runs.

A key that was drawn while the function was compiled would be a constant of the graph, and every run
would repeat its bits. The op is opaque to the compiler, which only knows that it writes tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from initstats.init._dispatch import FAMILIES, Family, Numbers, fill

# Two calls with equal arguments are two draws, and a CUDA graph would freeze the keys.
TAGS = tuple(
    getattr(torch.Tag, name)
    for name in ("nondeterministic_seeded", "cudagraph_unsafe")
    if hasattr(torch.Tag, name)
)
_UNNAMED, _NAMED = "", "="  # a list of the schema cannot hold None


def fill_in_graph(
    function: str,
    family: Family,
    tensors: list[torch.Tensor],
    values: Sequence[Numbers],
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
) -> None:
    """Put the fill into the graph that is being compiled; its arguments are checked at run time."""
    if generator is not None:
        raise ValueError(
            f"initstats.{function}: expected no generator inside torch.compile, got one"
            " (give a seed, or fill from torch's default generator)"
        )
    lists = [list(v) if isinstance(v, Sequence) else [v] for v in values]
    _fill_in_graph(
        function,
        family.name,
        tensors,
        [float(number) for numbers in lists for number in numbers],
        [len(numbers) for numbers in lists],
        "" if seed is None else str(seed),
        names_in_graph(names),
    )


def names_in_graph(names: Sequence[str | None] | None) -> list[str]:
    """Return names as a list of strings, which is empty where there are none."""
    return [] if names is None else [_UNNAMED if n is None else _NAMED + n for n in names]


def names_from_graph(names: Sequence[str]) -> list[str | None] | None:
    """Return the names that names_in_graph was given."""
    return [name.removeprefix(_NAMED) if name else None for name in names] or None


@torch.library.custom_op(
    "initstats::fill_in_graph_",
    mutates_args=["tensors"],
    schema="(str function, str family, Tensor(a!)[] tensors, float[] numbers, int[] lengths,"
    " str seed, str[] names) -> ()",
    tags=TAGS,
)
def _fill_in_graph(
    function: str,
    family: str,
    tensors: list[torch.Tensor],
    numbers: list[float],
    lengths: list[int],
    seed: str,
    names: list[str],
) -> None:
    values: list[Numbers] = []
    for length in lengths:
        values.append(numbers[:length] if length > 1 else numbers[0])
        numbers = numbers[length:]
    fill(
        function,
        FAMILIES[family],
        tensors,
        values,
        generator=None,
        seed=int(seed) if seed else None,
        names=names_from_graph(names),
    )


@_fill_in_graph.register_fake
def _(*_arguments: object) -> None:
    """A fill changes bits, never shapes."""
