"""Where each parameter stands in a model: its names, its owner, and its block in a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Slot:
    """One name under which a model holds a parameter.

    Attributes:
        name: Full name, as in `model.named_parameters()`.
        parameter: The parameter, any shape.
        module: The module that owns it under this name.
        block: Index from 0 of the block it belongs to, or None outside a stack of blocks.
        blocks: Number of blocks in that stack, or None outside a stack.
    """

    name: str
    parameter: torch.Tensor
    module: nn.Module
    block: int | None = None
    blocks: int | None = None


def slots(model: nn.Module) -> list[tuple[Slot, ...]]:
    """List the parameters of a model, tied names together.

    Args:
        model: Any module, also on the meta device.

    Returns:
        One tuple per distinct parameter, in the order of `named_parameters()`; each tuple has one
        slot per name of that parameter, so more than one when it is tied.
    """
    stacks = _stacks(model)
    groups: dict[int, list[Slot]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for own_name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{own_name}" if path else own_name
            block, blocks = _place(name, stacks)
            slot = Slot(name, parameter, module, block, blocks)
            groups.setdefault(id(parameter), []).append(slot)
    return [tuple(group) for group in groups.values()]


def is_stack(module: nn.Module) -> bool:
    """Tell whether a module is a sequence of blocks of one class.

    Args:
        module: Any module.

    Returns:
        True for a non-empty `ModuleList`, or a `Sequential` of two or more, whose children share
        one class.
    """
    smallest = {nn.ModuleList: 1, nn.Sequential: 2}
    for container, length in smallest.items():
        if isinstance(module, container):
            children = list(module.children())
            return len(children) >= length and len({type(child) for child in children}) == 1
    return False


def _stacks(model: nn.Module) -> dict[str, int]:
    """Return the path of every stack of blocks with its number of blocks."""
    return {path: len(list(m.children())) for path, m in model.named_modules() if is_stack(m)}


def _place(name: str, stacks: dict[str, int]) -> tuple[int | None, int | None]:
    """Return (block, blocks) for the outermost stack that holds a parameter's name."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        path = ".".join(parts[:i])
        if path in stacks and part.isdigit():
            return int(part), stacks[path]
    return None, None
