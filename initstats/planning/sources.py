"""Parameters that others take their values from, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from initstats.recipes import Derived, Slot
from initstats.sharding import is_dtensor


def source_of(
    promised: Derived, group: tuple[Slot, ...], groups: Sequence[tuple[Slot, ...]]
) -> tuple[Derived, tuple[str, torch.Tensor]]:
    """Find the parameter that another one takes its values from.

    Args:
        promised: What is derived, with the name or a pattern of the source.
        group: The parameter that takes the values.
        groups: All distinct parameters of the model, tied names together.

    Returns:
        The distribution with the full name of the source, and that name with the parameter.

    Raises:
        ValueError: If no other parameter, or more than one, has such a name, or its shape does not
            fit.
    """
    name = group[0].name
    others = [
        next(slot for slot in other if fnmatchcase(slot.name, promised.of))
        for other in groups
        if other is not group and any(fnmatchcase(slot.name, promised.of) for slot in other)
    ]
    if len(others) != 1:
        found = ", ".join(slot.name for slot in others) or "none"
        raise ValueError(
            f"initstats.plan: expected one parameter {promised.of!r} that {name} is the "
            f"{promised.how} of, got {found}"
        )
    source = others[0]
    require_fitting(promised, name, group[0].parameter, source.parameter)
    full = dataclasses.replace(promised, of=source.key_name)
    return full, (source.name, source.parameter)


def require_fitting(
    promised: Derived, name: str, parameter: torch.Tensor, source: torch.Tensor
) -> None:
    """Refuse a source of another shape.

    Raises:
        ValueError: With both shapes.
    """
    try:
        shape = promised.shape_of(source, *parameter.shape[:1])
    except (RuntimeError, IndexError):  # too few dimensions
        shape = ()
    if _squeezed(shape) != _squeezed(tuple(parameter.shape)):
        raise ValueError(
            f"initstats.plan: expected {name} of the shape of the {promised}, got "
            f"{tuple(parameter.shape)} from {tuple(source.shape)}"
        )


def require_readable(
    function: str,
    name: str,
    promised: Derived,
    pair: Sequence[torch.Tensor],
    *,
    materialised: bool = False,
) -> None:
    """Refuse a source that this rank cannot read.

    Args:
        function: Public function on whose behalf this is checked, for messages.
        name: Name of the parameter that takes the values.
        promised: What is derived.
        pair: That parameter, and the source.
        materialised: What is on the meta device will have values.

    Raises:
        TypeError: If one is a DTensor, and it is no copy between two that are cut alike.
        ValueError: If the source is on the meta device.
    """
    parameter, source = pair
    alike = (
        promised.how == "copy"
        and is_dtensor(parameter)
        and is_dtensor(source)
        and parameter.device_mesh == source.device_mesh
        and tuple(parameter.placements) == tuple(source.placements)
        and parameter.shape == source.shape
    )
    if (is_dtensor(parameter) or is_dtensor(source)) and not alike:
        raise TypeError(
            f"initstats.{function}: expected {name} and what it is derived from, the {promised}, "
            "whole on this rank, got DTensors; only copies between DTensors that are cut alike are "
            "made, so initialise before sharding"
        )
    if source.is_meta and not materialised:
        raise ValueError(
            f"initstats.{function}: expected values for {name}, the {promised}, got {promised.of} "
            "on the meta device; call it with a device"
        )


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
