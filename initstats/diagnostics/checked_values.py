"""Values of JSON with the kinds that a file promises; anything else is an error that says where."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
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


def boolean(value: Any) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {type(value).__name__}")
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
    return tuple(_inside(i, item, of) for i, item in enumerate(value))


def mapping(value: Any, of: Callable[[Any], T]) -> dict[str, T]:
    """Return an object by its keys, each value checked."""
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return {key: _inside(key, item, of) for key, item in value.items()}


def fields(
    value: Any,
    kinds: Mapping[str, Callable[[Any], Any]],
    *,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Return the known fields of an object, each checked by its kind.

    Args:
        value: The object; fields without a kind are left out.
        kinds: A kind by field.
        optional: Fields that may be missing.
    """
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    for name in kinds:
        if name not in value and name not in optional:
            raise ValueError(f"expected a field {name!r}, got none")
    return {name: _inside(name, value[name], kinds[name]) for name in kinds if name in value}


def maybe(of: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """Return the kind of values that may be null."""
    return lambda value: None if value is None else of(value)


def listed(of: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """Return the kind of lists of a kind."""
    return lambda value: sequence(value, of)


def _inside(place: str | int, value: Any, of: Callable[[Any], T]) -> T:
    """Check a value, and let an error say where it is."""
    try:
        return of(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{place}: {error}") from None


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
