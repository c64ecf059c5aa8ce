"""Series of layers by depth: the stacks of blocks of a model, or its weight layers in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from initstats.recipes.slots import stack_blocks

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


def depth_series(model: nn.Module, called: Sequence[str]) -> tuple[Series, ...]:
    """Find the layers along which scales can be compared by depth.

    Args:
        model: The model.
        called: Names of the modules that were called, in order.

    Returns:
        One series per stack of at least three blocks that is not inside a block of another stack.
        Without one, the modules that own a weight of two or more dimensions, without embeddings
        and without the last (a head has a scale of its own); none when there are fewer than three.
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
    weighted = [name for name in called if _owns_matrix(model.get_submodule(name))][:-1]
    return (Series("layers", tuple(weighted)),) if len(weighted) >= SHORTEST_SERIES else ()


def has_normalisation(model: nn.Module) -> bool:
    """Tell whether a model holds a normalisation layer, by class name."""
    return any("Norm" in type(module).__name__ for module in model.modules())


def _is_deep(module: nn.Module) -> bool:
    """Tell whether a block holds parameters."""
    return next(module.parameters(), None) is not None


def _owns_matrix(module: nn.Module) -> bool:
    """Tell whether a module owns a weight that multiplies its input."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return False
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
