"""Check the tensors that `stats(x, minus=...)` subtracts, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from initstats.statistics.record_array import Groups

_DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def subtrahend(x: Tensor, minus: object, groups: int, name: str = "x") -> Tensor:
    """Return minus if it can be subtracted from x.

    Raises:
        TypeError: If it is not a tensor, or the dtypes differ or are not floating.
        ValueError: If the shapes or devices differ, or the fingerprint is asked for.
    """
    if groups & Groups.FINGERPRINT:
        msg = "initstats.stats: expected no fingerprint with minus, got fingerprint=True"
        raise ValueError(msg)
    if not isinstance(minus, Tensor):
        msg = (
            "initstats.stats: expected minus to be of the kind of x, a tensor, got"
            f" {type(minus).__name__}"
        )
        raise TypeError(msg)
    if x.dtype not in _DTYPES or minus.dtype != x.dtype or minus.layout is not torch.strided:
        msg = (
            "initstats.stats: expected dense tensors of one floating dtype with minus, got"
            f" {x.dtype} and {minus.dtype if minus.layout is torch.strided else minus.layout} for"
            f" {name!r}"
        )
        raise TypeError(msg)
    for what, mine, theirs in (
        ("shape", tuple(x.shape), tuple(minus.shape)),
        ("device", x.device, minus.device),
    ):
        if mine != theirs:
            msg = (
                f"initstats.stats: expected minus to have the {what} of x, {mine}, got {theirs} for"
                f" {name!r}"
            )
            raise ValueError(msg)
    return minus


def subtrahends(
    tensors: dict[str, Tensor],
    minus: Any,
    groups: int,
    named: Callable[[Any], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return what is to be subtracted from each tensor, by name.

    Raises:
        TypeError: As `subtrahend`, or if minus is one tensor.
        ValueError: As `subtrahend`, or if the names differ.
    """
    if isinstance(minus, Tensor):
        msg = (
            "initstats.stats: expected minus to be of the kind of x, a module, a mapping or an"
            " iterable of tensors, got a tensor"
        )
        raise TypeError(msg)
    others = named(minus)
    if others.keys() != tensors.keys():
        odd = sorted(others.keys() ^ tensors.keys())
        msg = f"initstats.stats: expected minus to have the names of x, got {odd[0]!r} in one"
        raise ValueError(msg)
    return {name: subtrahend(x, others[name], groups, name) for name, x in tensors.items()}
