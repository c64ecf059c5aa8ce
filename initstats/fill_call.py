"""One call of a fill, whatever the distribution: checks, then keys, then one op per device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch

from initstats import _ops
from initstats.fill_checks import number, numbers_for, tensor_to_fill
from initstats.keys import draw_keys

Numbers: TypeAlias = float | Sequence[float]


def fill(
    function: str,
    op: Callable[..., None],
    check: Callable[..., None],
    tensors: Iterable[torch.Tensor],
    parameters: dict[str, Numbers],
    *,
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
) -> None:
    """Fill the tensors, or raise before anything is written and before any generator moves.

    Args:
        function: the name for messages.
        op: takes tensors, keys and one list per parameter.
        check: takes the function's name, a dtype and one number per parameter.
        tensors: on any devices; those on meta take a place among the names, but no key is drawn.
        parameters: by name, each one number for all tensors or one per tensor.
        generator: see `draw_keys`.
        seed: see `draw_keys`.
        names: see `draw_keys`; one per tensor.
    """
    todo = [tensor_to_fill(function, tensor) for tensor in tensors]
    n = len(todo)
    if names is not None and len(names) != n:
        raise ValueError(
            f"initstats.{function}: expected one name per tensor, {n}, got {len(names)}"
        )
    if n > 1 and len({id(tensor) for tensor in todo}) != n:
        raise ValueError(f"initstats.{function}: expected every tensor once, got one tensor twice")
    lists = [
        numbers_for(function, name, value, n)
        if isinstance(value, (list, tuple))
        else [number(function, name, value)]
        for name, value in parameters.items()
    ]
    if all(len(values) == 1 for values in lists):
        for dtype in {tensor.dtype for tensor in todo}:
            check(function, dtype, *[values[0] for values in lists])
    else:
        for i, tensor in enumerate(todo):
            check(function, tensor.dtype, *[values[i % len(values)] for values in lists])

    real = [i for i in range(n) if not todo[i].is_meta]
    keys = keys_by_place(function, real, n, generator=generator, seed=seed, names=names)
    devices = {todo[i].device for i in real}
    if len(devices) > 1:  # what one op would refuse, before another one has written
        for i in real:
            _ops.check_memory(function, todo[i])
    with torch.no_grad():
        for device in devices:
            here = [i for i in real if todo[i].device == device]
            filled = [todo[i] for i in here]
            arguments = [v if len(v) == 1 else [v[i] for i in here] for v in lists]
            op(filled, [keys[i] for i in here], *arguments)
            # The op writes through raw pointers: tell autograd, so that it notices stale tensors.
            torch.autograd.graph.increment_version(filled)


def keys_by_place(
    function: str,
    real: Sequence[int],
    count: int,
    *,
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
) -> dict[int, int]:
    """Return the key of each of the tensors at the places `real` among `count`; see `draw_keys`.

    With a seed, the others take their place among the names; a generator moves for real ones only.
    """
    if seed is None:
        drawn = draw_keys(function, len(real), generator=generator, names=names)
        return dict(zip(real, drawn, strict=True))
    return dict(enumerate(draw_keys(function, count, generator=generator, seed=seed, names=names)))
