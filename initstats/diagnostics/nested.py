"""Tensors in nested batches and outputs: pytrees, and the containers that are leaves to pytree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map


def nested_tensors(value: Any) -> Iterator[Tensor]:
    """Walk through a nested batch, or the nested output of a module.

    Args:
        value: Tensors in mappings, tuples, lists, dataclasses and types registered with
            `torch.utils._pytree`.

    Yields:
        The tensors, in order.
    """
    if isinstance(value, Tensor):
        yield value
        return
    for leaf in tree_iter(value):
        if isinstance(leaf, Tensor):
            yield leaf
        else:
            inside = _inside(leaf)
            if inside is not None:
                yield from nested_tensors(inside)


def map_nested(
    function: Callable[[Any], Any], value: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """Replace the leaves of a nested batch.

    Args:
        function: From a leaf to what replaces it.
        value: As for `nested_tensors`.
        is_leaf: Whether something is handed to the function whole, whatever is in it.

    Returns:
        The same structure; a dict for a mapping that pytree does not know.
    """

    def replaced(leaf: Any) -> Any:
        inside = None if is_leaf is not None and is_leaf(leaf) else _inside(leaf)
        if inside is None:
            return function(leaf)
        inside = map_nested(function, inside, is_leaf)
        if isinstance(leaf, Mapping):
            return inside
        if isinstance(leaf, (tuple, list)):
            return type(leaf)(inside)
        changes = {field.name for field in dataclasses.fields(leaf) if field.init}
        return dataclasses.replace(leaf, **{name: inside[name] for name in changes})

    return tree_map(replaced, value, is_leaf=is_leaf)


def _inside(leaf: Any) -> dict[Any, Any] | list[Any] | None:
    """Return what a container that is a leaf to pytree holds, such as a BatchEncoding."""
    if isinstance(leaf, Mapping):
        return dict(leaf.items())
    if isinstance(leaf, (tuple, list)):  # of a subclass
        return list(leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}
    return None
