"""Recipes of adversarial networks and of flows."""

from __future__ import annotations

from initstats.recipes.distributions.basic import Constant, Normal
from initstats.recipes.distributions.composite import Distribution, Kept
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    require_choice,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["dcgan", "glow"]

# Classes of rosinality's, chaiyujin's and other ports.
_ACT_NORMS = ("ActNorm", "ActNorm2d", "_ActNorm")
_ZERO_LAYERS = ("ZeroConv2d", "Conv2dZeros", "LinearZeros")
_ROTATIONS = ("InvConv2d", "InvertibleConv1x1", "Invertible1x1Conv")


@built_in
def dcgan(*, std: float = 0.02) -> Recipe:
    """Make the recipe of DCGAN, generator and discriminator alike.

    Convolutions, transposed ones and matrices N(0, 0.02); scales of norms N(1, 0.02), shifts and
    biases 0.

    Args:
        std: Of all of them, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: pytorch/examples dcgan/main.py, weights_init; Radford et al. 2015, section 4.
    """
    require_positive("dcgan", std=std)

    @described(f"N(1, {std:g})")
    def scale(slot: Slot) -> Distribution:
        return Normal(std, 1.0) if slot.kind == "weight" else Constant(0.0)

    rules = [
        rule(Match(role="norm"), scale, "norm"),
        biases(),
        rule(weights(*MATRICES, "convolution"), Normal(std), "layer"),
    ]
    return Recipe(rules, name="dcgan", source="pytorch/examples dcgan/main.py, weights_init")


@built_in
def glow(*, actnorm: str = "identity", std: float = 0.05) -> Recipe:
    """Make the recipe of Glow.

    Invertible 1x1 convolutions a random rotation; convolutions and matrices of couplings
    N(0, 0.05); the last convolution of each coupling and of each prior 0, with its bias and
    log-scale; biases 0. ActNorm (`loc` and `scale`, or `bias` and `logs`) is set by the first
    batch, when the model has run: until then it is the identity, shifts and log-scales 0 and scales
    1. The parts of a rotation that is held as LU (`w_l`, `w_s`, `w_u` and buffers) are those of one
    matrix, and left as the model makes them.

    Args:
        actnorm: "identity", or "kept" to leave them, for models that have seen their first batch.
        std: Of couplings, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `actnorm` is neither or `std` is not finite and > 0.

    Source: openai/glow `tfops.py`, `model.py`, eaff217; names of rosinality/glow-pytorch
        `model.py` and chaiyujin/glow-pytorch `modules.py`.
    """
    require_choice("glow", "actnorm", actnorm, ("identity", "kept"))
    require_positive("glow", std=std)

    @described("scale 1, shift and log-scale 0" if actnorm == "identity" else "kept")
    def act_norm(slot: Slot) -> Distribution:
        if actnorm == "kept":
            return Kept("as the first batch sets it")
        return Constant(1.0 if slot.own_name == "scale" else 0.0)

    @described("random rotation")
    def rotation(slot: Slot) -> Distribution:
        shape = slot.parameter.shape
        return Orthogonal(shape[0], shape[1:].numel())

    @described(f"0 in a last layer, else N(0, {std:g})")
    def layer(slot: Slot) -> Distribution:
        last = any(type(module).__name__ in _ZERO_LAYERS for module in slot.parents)
        return Constant(0.0) if last else Normal(std)

    parts = ("*.w_l", "*.w_s", "*.w_u", "*invconv.l", "*invconv.u", "*invconv.log_s")
    names = ("*.loc", "*.scale", "*.bias", "*.logs", "*.b", "*.log_scale")
    rules = [
        rule(Match(names, module=_ACT_NORMS), act_norm, "activation norm"),
        rule(Match(parts), Kept("parts of one rotation"), "rotation"),
        rule(Match("*.weight", module=_ROTATIONS), rotation, "rotation"),
        rule(Match(("*.scale", "*.logs"), module=_ZERO_LAYERS), 0.0, "log-scale"),
        biases(),
        rule(weights("embedding"), Normal(std), "embedding"),
        rule(weights(*MATRICES, "convolution"), layer, "layer"),
    ]
    return Recipe(rules, name="glow", source="openai/glow tfops.py, eaff217")
