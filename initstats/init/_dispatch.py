"""One call of a fill, whatever the distribution: checks, then keys, then one op per device.

Inside torch.compile all of that is one op, which runs when the graph runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TypeAlias

import torch
from torch.autograd import forward_ad

from initstats import _ops
from initstats._ops import flat_box
from initstats.init._distributions import FAMILIES, Family
from initstats.init._errors import as_torch
from initstats.init._shards import (
    agreed_keys,
    has_shards,
    refuse_in_graph,
    shards_of,
    wholes_of,
)
from initstats.init._transforms import (
    fill_examples,
    forget_tangents,
    refuse_examples,
    transform_level,
)
from initstats.init._validate import (
    check_separate,
    has_memory,
    number,
    numbers_for,
    places_with_memory,
    tensor_to_fill,
    tensors_to_fill,
)
from initstats.init.keys import draw_key, draw_keys
from initstats.sharding import PLAIN_TYPES, Box, Piece, engine_loaded, is_dtensor, is_managed

_DEVICE = attrgetter("device")
Numbers: TypeAlias = float | Sequence[float]


def fill_one(
    function: str,
    family: Family,
    tensor: torch.Tensor,
    values: tuple[float, ...],
    generator: torch.Generator | None,
    seed: int | None,
    name: str | None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill one tensor: what `fill` does, with as little as possible around the op."""
    if torch.compiler.is_compiling():
        names = None if name is None else [name]
        boxes = None if box is None else [box]
        fill(function, family, [tensor], values, generator, seed, names, boxes)
        return tensor
    if box is None and _directly(function, family, tensor, values, generator, seed, name):
        return tensor
    if transform_level() is not None and fill_examples(
        function,
        tensor,
        lambda example: fill_one(function, family, example, values, generator, seed, name, box),
        drawn=seed is None,
    ):
        return tensor
    numbers: list[float] = []
    try:
        tensor_to_fill(function, tensor)
        for parameter, value in zip(family.parameters, values, strict=True):
            exact = type(value) is float
            numbers.append(value if exact else number(function, parameter, value))
        family.check(function, tensor.dtype, *numbers)
    except (TypeError, ValueError) as error:
        raise as_torch(error, tensor, family.name, numbers) from None
    plain = type(tensor) in PLAIN_TYPES
    if box is not None or (not plain and is_dtensor(tensor)):
        lists = [[number] for number in numbers]
        names, boxes = None if name is None else [name], None if box is None else [box]
        _write(
            function,
            family.op,
            [tensor],
            lists,
            generator=generator,
            seed=seed,
            names=names,
            boxes=boxes,
        )
        return tensor
    real = not tensor.is_meta if plain else has_memory(tensor)
    if not real and seed is None:
        draw_keys(function, 0, generator=generator, names=None if name is None else [name])
        return tensor
    key = draw_key(function, generator=generator, seed=seed, name=name)
    if not real:
        return tensor
    if forward_ad._current_level >= 0:  # noqa: SLF001
        forget_tangents(function, [tensor])
    _call(family, tensor, key, numbers)
    return tensor


def _call(family: Family, tensor: torch.Tensor, key: int, numbers: list[float]) -> None:
    """Call the op for one tensor, outside of autograd."""
    if tensor.requires_grad and torch.is_grad_enabled():
        with torch.no_grad():
            family.op([tensor], [key], *[[value] for value in numbers])
    else:
        family.op([tensor], [key], *[[value] for value in numbers])
    # The op writes through raw pointers: tell autograd, so that it notices stale tensors.
    torch.autograd.graph.increment_version(tensor)


def _directly(
    function: str,
    family: Family,
    tensors: torch.Tensor | list[torch.Tensor],
    values: tuple[Numbers, ...],
    generator: torch.Generator | None,
    seed: int | None,
    names: str | list[str | None] | None,
) -> bool:
    """Fill what is plain in one call of the native module; return False if anything is not.

    Nothing has happened then, errors included: what follows finds them, and has the words for them.
    """
    if forward_ad._current_level >= 0:  # noqa: SLF001
        return False
    if generator is not None and not (
        type(generator) is torch.Generator and generator.device.type == "cpu"
    ):
        return False
    if type(tensors) is not torch.Tensor and engine_loaded():
        todo = tensors if isinstance(tensors, list) else [tensors]
        if is_managed(todo):
            return False
    return _ops.fill_directly(
        family.name, family.check, function, tensors, values, generator, seed, names
    )


def fill(
    function: str,
    family: Family,
    tensors: Iterable[torch.Tensor],
    values: Sequence[Numbers],
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Fill the tensors, or raise before anything is written and before any generator moves.

    Args:
        function: The name for messages.
        family: Of the distribution.
        tensors: On any devices; those on meta take a place among the names, but no key is drawn.
        values: Of the parameters, each one number for all tensors or one per tensor.
        generator: See `draw_keys`.
        seed: See `draw_keys`.
        names: See `draw_keys`; one per tensor.
        boxes: Of each, where it lies in a whole tensor; None for one that is whole or a DTensor.
    """
    if torch.compiler.is_compiling():
        if boxes is not None:
            raise ValueError(f"initstats.{function}: expected no box inside torch.compile, got one")
        fill_in_graph(function, family, list(tensors), values, generator, seed, names)
        return
    given = list(tensors)
    named = None if names is None else list(names)
    if boxes is None and _directly(function, family, given, tuple(values), generator, seed, named):
        return
    todo = tensors_to_fill(function, given)
    n = len(todo)
    if transform_level() is not None:
        refuse_examples(function, todo)
    if names is not None and len(names) != n:
        raise ValueError(
            f"initstats.{function}: expected one name per tensor, {n}, got {len(names)}"
        )
    wholes_of(function, todo, boxes)
    if n > 1 and len(set(map(id, todo))) != n:
        raise ValueError(f"initstats.{function}: expected every tensor once, got one tensor twice")
    lists = [
        numbers_for(function, name, value, n)
        if isinstance(value, (list, tuple))
        else [number(function, name, value)]
        for name, value in zip(family.parameters, values, strict=True)
    ]
    if all(len(numbers) == 1 for numbers in lists):
        for dtype in {tensor.dtype for tensor in todo}:
            family.check(function, dtype, *[numbers[0] for numbers in lists])
    else:
        for i, tensor in enumerate(todo):
            family.check(function, tensor.dtype, *[numbers[i % len(numbers)] for numbers in lists])

    _write(
        function,
        family.op,
        todo,
        lists,
        generator=generator,
        seed=seed,
        names=names,
        boxes=boxes,
    )


def _write(
    function: str,
    op: Callable[..., None],
    todo: list[torch.Tensor],
    lists: list[list[float]],
    *,
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
    boxes: Sequence[Box | None] | None,
) -> None:
    """Draw the keys and call the op once per device: everything else is checked."""
    n = len(todo)
    given, pieces = todo, None
    if boxes is not None or has_shards(todo):
        todo, pieces = shards_of(function, todo, boxes)
    real = places_with_memory(todo)
    if n > 1:
        check_separate(function, todo if len(real) == n else [todo[i] for i in real])
    keys = keys_by_place(function, real, n, generator=generator, seed=seed, names=names)
    if pieces is not None and seed is None:
        keys = agreed_keys(function, given, keys)
    by_device = _places_by_device(todo, real)
    if len(by_device) > 1:  # what one op would refuse, before another one has written
        for i in real:
            _ops.check_memory(function, todo[i])
    if forward_ad._current_level >= 0:  # noqa: SLF001
        forget_tangents(function, [todo[i] for i in real])
    if pieces is not None:
        for here in by_device.values():
            _write_pieces(op, given, todo, pieces, here, keys, lists)
        return
    with torch.no_grad():
        for here in by_device.values():
            filled = [todo[i] for i in here]
            arguments = [v if len(v) == 1 else [v[i] for i in here] for v in lists]
            op(filled, [keys[i] for i in here], *arguments)
            # The op writes through raw pointers: tell autograd, so that it notices stale tensors.
            torch.autograd.graph.increment_version(filled)


def _places_by_device(
    tensors: Sequence[torch.Tensor], real: Sequence[int]
) -> dict[torch.device, Sequence[int]]:
    """Return by device the places of the tensors there, among those at the places `real`."""
    devices = list(map(_DEVICE, tensors))
    if len(real) == len(tensors) and len(set(devices)) == 1:
        return {devices[0]: real}
    kept = {devices[i] for i in real}
    return {device: [i for i in real if devices[i] == device] for device in kept}


def _write_pieces(
    op: Callable[..., None],
    given: Sequence[torch.Tensor],
    local: Sequence[torch.Tensor],
    pieces: Sequence[Sequence[Piece]],
    here: Sequence[int],
    keys: dict[int, int],
    lists: list[list[float]],
) -> None:
    """Call the op for every piece of the tensors at the places `here`, which one device has."""
    with torch.no_grad():
        places = [i for i in here for _ in pieces[i]]
        parts = [piece for i in here for piece in pieces[i]]
        views = [local[i][part.slices] for i, part in zip(places, parts, strict=True)]
        arguments = [v if len(v) == 1 else [v[i] for i in places] for v in lists]
        box = flat_box([(part.box.offset, part.box.size) for part in parts])
        if parts:
            op(views, [keys[i] for i in places], *arguments, box)
        written = {id(t): t for i in here for t in (given[i], local[i])}
        torch.autograd.graph.increment_version(list(written.values()))


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


# ---- inside torch.compile
#
# A key that was drawn while the function was compiled would be a constant of the graph, and every
# run would repeat its bits. The op is opaque to the compiler, which only knows that it writes
# tensors; it checks, draws the keys and fills when the graph runs.

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
    for tensor in tensors:
        refuse_in_graph(function, tensor)
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
        None,
        int(seed) if seed else None,
        names_from_graph(names),
    )


@_fill_in_graph.register_fake
def _(*_arguments: object) -> None:
    """A fill changes bits, never shapes."""
