"""Where each parameter stands in a model: its names, its owner, and its block in a stack."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
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


def stack_blocks(module: nn.Module) -> dict[str, nn.Module]:
    """Find the blocks of a stack: children of one class through which the signal passes in turn.

    Args:
        module: Any module; only a `ModuleList` or a `Sequential` can be a stack.

    Returns:
        The longest run of neighbours of one class, by their names in the container, if it is two
        or longer and is the whole container or of modules with children (so that equal layers
        among others are no blocks); a single module that fills a `ModuleList`; else nothing.
    """
    if not isinstance(module, (nn.ModuleList, nn.Sequential)):
        return {}
    children = list(module.named_children())
    runs = [list(run) for _, run in groupby(children, key=lambda child: type(child[1]))]
    longest = max(runs, key=len, default=[])
    whole = len(longest) == len(children)
    nested = any(True for _, child in longest for _ in child.children())
    if len(longest) > 1 and (whole or nested):
        return dict(longest)
    return dict(longest) if whole and isinstance(module, nn.ModuleList) else {}


def _stacks(model: nn.Module) -> dict[str, list[str]]:
    """Return the path of every stack with the names of its blocks."""
    found = ((path, list(stack_blocks(module))) for path, module in model.named_modules())
    return {path: blocks for path, blocks in found if blocks}


def _place(name: str, stacks: dict[str, list[str]]) -> tuple[int | None, int | None]:
    """Return (block, blocks) for the outermost stack that holds a parameter's name."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        blocks = stacks.get(".".join(parts[:i]), [])
        if part in blocks:
            return blocks.index(part), len(blocks)
    return None, None
