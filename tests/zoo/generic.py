"""Faults that fit any model, at a random layer and of any strength: a larger, unasserted test."""

from __future__ import annotations

import math
import random as chance
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from initstats.recipes.parameters import stack_blocks
from zoo.healthy import HEALTHY
from zoo.injecting import (
    ANYWHERE,
    Fault,
    Injection,
    detached,
    fed,
    filled,
    judged_by,
    no_residual,
    own_loss,
    scaled,
    stepping,
    without,
    written,
)
from zoo.sick_weights import SCALE
from zoo.specimens import Size, Specimen

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, Conv1D)
# Blocks on purpose without their own residual path or norm, or of which too few are alike.
NOT_RESIDUAL = ("unet", "pointnet", "vgg", "lenet", "efficientnet", "mobilenet", "resnet50")


def inner_weights(model: nn.Module) -> list[str]:
    """Return the names of trained random weights of layers, without the first and the last."""
    names = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, LAYERS)
        and module.weight.requires_grad
        and module.weight.numel() >= 64
        and float(module.weight.detach().float().std()) > 0
    ]
    return names[1:-1]


def blocks(model: nn.Module) -> list[str]:
    """Return the names of blocks with parameters, of the largest stack, without the ends."""
    stacks = [
        [f"{path}.{child}".lstrip(".") for child in stack_blocks(module)]
        for path, module in model.named_modules()
    ]
    named = [s for s in stacks if len({type(model.get_submodule(n)) for n in s}) == 1]
    named = [s for s in named if not isinstance(model.get_submodule(s[0]), (nn.Linear, nn.Conv1d))]
    longest = max(named, key=len, default=[])
    return longest[1:-1] if len(longest) > 3 else []


def _negated(specimen: Specimen) -> Specimen:
    loss = specimen.loss
    return own_loss(torch.neg)(specimen) if loss is None else judged_by(_minus(loss))(specimen)


def _minus(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda output, target: -loss(output, target)


def _rows(weight: Tensor) -> None:
    weight[1:] = weight[:1]


def _first_norm(model: nn.Module, block: str) -> str | None:
    inside = model.get_submodule(block).named_modules()
    name = next((n for n, m in inside if "Norm" in type(m).__name__), None)
    return None if name is None else f"{block}.{name}"


def generic_faults(model: str, size: Size) -> dict[str, Fault]:
    """Return faults by kind for a healthy model, at places drawn from the seed."""
    specimen = HEALTHY[model](size)
    draw = chance.Random(f"{model} {size.seed}")
    found: dict[str, Fault] = {}

    def add(kind: str, inject: Injection, rules: str, place: str = ANYWHERE) -> None:
        found[kind] = Fault(kind, model, inject, tuple(rules.split()), (place,))

    names = inner_weights(specimen.model)
    if names:
        _weights(add, names, draw)
    if any("Norm" in type(m).__name__ for m in specimen.model.modules()):
        _norms(add, specimen, draw)
    named = [] if model in NOT_RESIDUAL else blocks(specimen.model)
    if named:
        block = draw.choice(named)
        add("residual path missing", no_residual(block), "residual-path", block)
        add("detached block", detached(block), "missing-gradient")
        norm = _first_norm(specimen.model, block)
        if norm is not None:
            add("norm missing", without(norm), "block-structure", block)
    rate = specimen.optimizer.rate
    add("sign", _negated, "loss-sign", "loss")
    add("maximize", stepping(maximize=True), "loss-sign loss-trajectory")
    add("rate x1e4", stepping(rate=1e4 * rate), "loss-trajectory update-ratio")
    add("rate x1e-6", stepping(rate=1e-6 * rate), "loss-trajectory update-ratio")
    first = specimen.batch
    first = first if isinstance(first, Tensor) else next(iter(_values(first)))
    if first.is_floating_point():
        add("input x1000", fed(lambda x: 1000 * x), "input-scale first-layer")
        add("input of bytes", fed(lambda x: 128 + 64 * x), "input-scale first-layer")
        add("input of zeros", fed(torch.zeros_like), "input-scale first-layer")
    return found


def _values(batch: object) -> list[Tensor]:
    return list(batch.values()) if isinstance(batch, dict) else list(batch)  # type: ignore[call-overload]


def _weights(add: Callable[..., None], names: list[str], draw: chance.Random) -> None:
    """Add faults of single weights, each at its own place."""
    for factor in (10, 5, 0.2, 0.1):
        name = draw.choice(names)
        add(f"weight x{factor}", scaled(factor, name), SCALE, name)
    name = draw.choice(names)
    add("constant", filled(0.02, name), "symmetry", name)
    name = draw.choice(names)
    add("all ones", filled(1.0, name), "symmetry", name)
    name = draw.choice(names)
    add("equal rows", written(_rows, name), "symmetry", name)
    name = draw.choice(names)
    add("NaN", written(lambda p: p.view(-1)[5].fill_(math.nan), name), "not-finite", name)
    name = draw.choice(names)
    add("zeros", filled(0.0, name), "zero-gradient symmetry weight-peers", name)
    name = draw.choice(names)
    add("garbage", written(lambda p: p.normal_(std=1e20), name), f"{SCALE} not-finite", name)


def _norms(add: Callable[..., None], specimen: Specimen, draw: chance.Random) -> None:
    """Add faults of one norm."""
    norms = [
        name
        for name, module in specimen.model.named_modules()
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None
    ]
    norms = [n for n in norms if specimen.model.get_parameter(f"{n}.weight").requires_grad]
    if not norms:
        return
    name = draw.choice(norms)
    add(
        "norm weight N(0.02)",
        written(lambda p: p.normal_(std=0.02), f"{name}.weight"),
        "norm-identity",
        f"{name}.weight",
    )
    name = draw.choice(norms)
    if getattr(specimen.model.get_submodule(name), "bias", None) is not None:
        add("norm bias 3", filled(3.0, f"{name}.bias"), "norm-identity", f"{name}.bias")
