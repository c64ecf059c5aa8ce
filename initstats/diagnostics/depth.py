"""Series of layers by depth: the stacks of blocks of a model, or its weight layers in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from initstats.recipes.parameters import slots, stack_blocks

SHORTEST_SERIES = 3


@dataclass(frozen=True)
class Series:
    """Layers through which the signal passes one after the other.

    Attributes:
        name: Path of the stack ("the model" for the model itself), or "layers" without one.
        layers: Names of the modules, first to last, at least `SHORTEST_SERIES`.
    """

    name: str
    layers: tuple[str, ...]


# Weights that do not pass the signal on by themselves: tables, gates, and queries and keys, whose
# gradients are small while attention is even.
_BESIDE = frozenset(
    {"embedding", "position", "token", "attention input", "gate", "router", "adapter", "norm"}
)


def depth_series(
    model: nn.Module, called: Sequence[str], gates: frozenset[str] = frozenset()
) -> tuple[Series, ...]:
    """Find the layers along which scales can be compared by depth.

    Args:
        model: The model.
        called: Names of the modules that were called, in order.
        gates: Those whose output multiplies that of others.

    Returns:
        One series per stack of at least three blocks that is not inside a block of another stack.
        Without one, the modules that own a weight of two or more dimensions and pass the signal
        on with it, without gates and the last (a head has a scale of its own); none when there are
        fewer than three.
    """
    order = {name: i for i, name in enumerate(called)}
    series: list[Series] = []
    for path, module in model.named_modules():
        blocks = [block for found in series for block in found.layers]
        if any(f"{path}.".startswith(f"{block}.") for block in blocks):
            continue
        names = [f"{path}.{child}" if path else child for child in stack_blocks(module)]
        names = [name for name in names if name in order and _is_deep(model.get_submodule(name))]
        if len(names) >= SHORTEST_SERIES:
            series.append(Series(path or "the model", tuple(sorted(names, key=order.__getitem__))))
    if series:
        return tuple(series)
    passing = {
        id(slot.parameter)
        for group in slots(model)
        for slot in group
        if slot.parameter.dim() > 1 and slot.role.name not in _BESIDE
    }
    modules = dict(model.named_modules())
    weighted = [
        name
        for name in called
        if name not in gates
        and any(id(p) in passing for p in modules[name].parameters(recurse=False))
    ][:-1]
    return (Series("layers", tuple(weighted)),) if len(weighted) >= SHORTEST_SERIES else ()


def has_normalisation(model: nn.Module) -> bool:
    """Tell whether a model holds a normalisation layer, by class name."""
    return any("Norm" in type(module).__name__ for module in model.modules())


def _is_deep(module: nn.Module) -> bool:
    """Tell whether a block holds parameters."""
    return next(module.parameters(), None) is not None
