"""Residual branches of convolutional networks, and the place of each layer in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from initstats.recipes.parameters import Slot

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001  # the base of all convolutions
_SHORTCUT = re.compile(r"downsample|shortcut|skip|identity|residual_conv")
_FEWEST = 2  # convolutions of a residual block


@dataclass(frozen=True)
class Place:
    """Where a convolution or a norm stands in the residual branch of its block.

    Attributes:
        index: Index from 0 among the branch's convolutions, or among its norms.
        count: Number of them in the branch.
        branches: Number of residual branches in the model.
    """

    index: int
    count: int
    branches: int


def place_in_branch(slot: Slot) -> Place | None:
    """Find a convolution or a norm in the residual branch that it belongs to.

    A residual block is a module of at least two convolutions outside the shortcut
    (`downsample`, `shortcut`, ...), and of no smaller such module.

    Args:
        slot: A parameter of a convolution or a norm.

    Returns:
        Its place; None outside a residual branch.
    """
    root = slot.parents[0]
    parts = slot.name.split(".")[:-1]
    if any(_SHORTCUT.search(part) for part in parts):
        return None
    block = next((m for m in reversed(slot.parents[1:-1]) if _is_block(m)), None)
    if block is None:
        return None
    same = [m for m in _branch(block) if _is_kin(m, slot.module)]
    index = next(i for i, m in enumerate(same) if m is slot.module)
    return Place(index, len(same), sum(_is_block(m) for m in root.modules() if m is not root))


def _branch(block: nn.Module) -> list[nn.Module]:
    """Return the modules of a block that are not in its shortcut."""
    return [m for name, m in block.named_modules() if not _SHORTCUT.search(name)]


def _convolutions(module: nn.Module) -> int:
    return sum(isinstance(m, _CONVOLUTION) for m in _branch(module))


def _is_block(module: nn.Module) -> bool:
    """Tell whether a module is a residual block, and holds no smaller one."""
    if isinstance(module, _CONTAINERS) or _convolutions(module) < _FEWEST:
        return False
    inner = (m for m in module.modules() if m is not module and not isinstance(m, _CONTAINERS))
    return not any(_convolutions(m) >= _FEWEST for m in inner)


def _is_kin(module: nn.Module, other: nn.Module) -> bool:
    """Tell whether both are convolutions, or both are no convolutions and of one class."""
    if isinstance(other, _CONVOLUTION):
        return isinstance(module, _CONVOLUTION)
    return type(module) is type(other)
