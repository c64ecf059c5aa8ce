"""Values of JSON with the kinds that a row promises; anything else is an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from initstats.statistics.record_array import Floats, Integers

T = TypeVar("T")
_LARGEST = 2**63 - 1


def text(value: Any) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {type(value).__name__}")
    return value


def integer(value: Any) -> int:
    """Return an integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected an integer, got {type(value).__name__}")
    if abs(value) > _LARGEST:
        raise OverflowError(f"expected 64 bits, got an integer of {value.bit_length()} bits")
    return value


def number(value: Any) -> float:
    """Return a float from a number, null for NaN, or a string for an infinity."""
    if value is None:
        return math.nan
    if isinstance(value, list | dict | bool):
        raise TypeError(f"expected a number, got {type(value).__name__}")
    return float(value)


def sequence(value: Any, of: Callable[[Any], T]) -> tuple[T, ...]:
    """Return the elements of a list, each checked."""
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return tuple(map(of, value))


def mapping(value: Any, of: Callable[[Any], T]) -> dict[str, T]:
    """Return an object by its keys, each value checked."""
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return {key: of(item) for key, item in value.items()}


def floats(value: Any, n: int | None = None) -> Floats:
    """Return a list of numbers as float64 `[n]`; any length where n is None."""
    column = _plain(value, "if")
    if column is None:
        column = np.array(sequence(value, number), dtype=np.float64)
    if n is not None and len(column) != n:
        raise ValueError(f"expected {n} numbers, got {len(column)}")
    return column.astype(np.float64, copy=False)


def counts(value: Any, n: int | None = None) -> Integers:
    """Return a list of counts, from 0 on, as int64 `[n]`."""
    column = _plain(value, "i")
    if column is None:
        column = np.array(sequence(value, integer), dtype=np.int64)
    if (n is not None and len(column) != n) or (column < 0).any():
        raise ValueError(f"expected {n} counts from 0 on, got {len(column)} numbers")
    return column


def _plain(value: Any, kinds: str) -> np.ndarray[Any, Any] | None:
    """Return a list of numbers as an array, None if NumPy finds anything else in it."""
    if not isinstance(value, list) or not value:
        return None
    try:
        array = np.array(value)
    except ValueError:  # lists of several lengths
        return None
    return array if array.ndim == 1 and array.dtype.kind in kinds else None


def one_of(value: Any, choices: Sequence[T]) -> T:
    """Return a value that is among the choices."""
    if value not in choices:
        raise ValueError(f"expected one of {', '.join(map(str, choices))}, got {value!r}")
    return choices[choices.index(value)]


def fields(value: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Return the fields of an object that are there, each checked by its kind."""
    return {name: kind(value[name]) for name, kind in kinds.items() if name in value}
