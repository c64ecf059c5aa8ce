"""The neutral scale of a norm, found by running the module with a scale of 0."""

from __future__ import annotations

import copy

import torch
from torch import nn

# Shapes [..., width] that norms take, [batch, width, ...] of images, [batch, heads, time, width].
_WIDTH = -1
_SHAPES = ((2, _WIDTH), (2, 3, _WIDTH), (2, 3, 3, _WIDTH), (2, _WIDTH, 3, 3), (2, 1, 3, _WIDTH))
# Inputs have a standard deviation of 1; what a scale of 0 blocks comes out as one constant.
_PASSES = 0.01


def neutral_scale(module: nn.Module) -> float:
    """Return the scale with which a norm only normalises: 1, or 0 where it is used as 1 + scale.

    The module is run once on a small input, all its parameters 0: what still lets the signal
    through multiplies by 1 + scale (Gemma), or adds a scaled part to its input (GRN). Nothing of
    the module is changed, and parameters may be on the meta device.

    Args:
        module: The module that owns the scale.

    Returns:
        The scale; 1 also where the module does not run on one or two inputs of its width.
    """
    if type(module).__module__.startswith("torch.") or any(True for _ in module.buffers()):
        return 1.0
    shapes = [p.shape for p in module.parameters(recurse=False)]
    width = max((max(shape, default=1) for shape in shapes), default=1)
    for shape in _SHAPES:
        sizes = [width if size == _WIDTH else size for size in shape]
        # Not random: a plan leaves all generators as they are.
        x = torch.arange(torch.Size(sizes).numel(), dtype=torch.float32, device="cpu")
        x = (1.7 * x).sin().mul(2**0.5).view(sizes)
        for inputs in ((x,), (x, x)):  # gated norms take two
            passes = _passes(module, inputs)
            if passes is not None:
                return 0.0 if passes else 1.0
    return 1.0


def _passes(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bool | None:
    """Tell whether a signal comes through when all parameters are 0; None if the call fails."""
    twin = copy.copy(module)
    twin.__dict__["_parameters"] = {
        name: None if p is None else torch.zeros(p.shape, device="cpu")
        for name, p in vars(module)["_parameters"].items()
    }
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.device("cpu"):
            out = twin.forward(*inputs)
    except Exception:  # noqa: BLE001  # another module's code, given what it may not take
        return None
    if not isinstance(out, torch.Tensor) or out.is_meta or out.numel() < inputs[0].numel():
        return None
    return bool(out.float().std() > _PASSES)
