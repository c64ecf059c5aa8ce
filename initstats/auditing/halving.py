"""Halves of a batch, to tell a loss that sums over examples from one that averages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_FEWEST = 4


def halves(batch: Any) -> tuple[Any, Any] | None:
    """Cut a batch in two along the first dimension of its tensors.

    Args:
        batch: Tensors in mappings, tuples, lists and dataclasses.

    Returns:
        Both halves; None when the tensors do not share a first dimension, or it is not even or
        shorter than 4.
    """
    sizes = {t.shape[0] if t.dim() else 0 for t in _tensors(batch)}
    size = sizes.pop() if len(sizes) == 1 else 0
    if size < _FEWEST or size % 2:
        return None
    return _part(batch, slice(0, size // 2)), _part(batch, slice(size // 2, size))


def _part(value: Any, part: slice) -> Any:
    """Return a part of every tensor, in the same containers."""
    if isinstance(value, Tensor):
        return value[part].clone()  # a model may change its input in place
    if isinstance(value, Mapping):
        return {key: _part(item, part) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_part(item, part) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_part(item, part) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{n: _part(getattr(value, n), part) for n in names})
    return value


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a nested batch."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
