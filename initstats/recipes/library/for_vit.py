"""Recipes of vision transformers: timm, JAX, MoCo v3, transformers."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Constant, Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    MATRICES,
    RESIDUAL,
    biases,
    block_number,
    built_in,
    described,
    framework_default,
    norms,
    require_positive,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["vit", "vit_jax", "vit_moco", "vit_transformers"]

_TIMM = "timm vision_transformer.py"


@built_in
def vit(*, std: float = 0.02, fix_init: bool = False) -> Recipe:
    """Make the recipe of the vision transformer in timm.

    Linear TN(0, std) at the absolute bounds +-2, which cuts nothing; biases 0; the patch
    convolution as torch leaves it; position embedding TN(0, 0.02); class and register tokens
    N(0, 1e-6); norms 1 and 0; layer scale 1e-5; the latent query of attention pooling (SigLIP)
    N(0, d^-1/2), cut at two standard deviations, d its width.

    Args:
        std: Standard deviation of matrices, > 0.
        fix_init: Divide attn.proj and mlp.fc2 by sqrt(2 (l + 1)), l the index of the block.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: timm `vision_transformer.py`, init_weights_vit_timm and fix_init_weight;
        `attention_pool.py`, AttentionPoolLatent.
    """
    require_positive("vit", std=std)

    @described(f"TN(0, {std:g}), divided by sqrt(2 (l + 1))" if fix_init else f"TN(0, {std:g})")
    def output(slot: Slot) -> Distribution:
        divisor = math.sqrt(2 * block_number("vit", slot)) if fix_init else 1.0
        # Divided after truncation, so the bounds shrink too; they cut nothing in any case.
        return TruncNormal(std).scaled(1 / divisor)

    rules = [
        *_patches_and_tokens(),
        biases(),
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(weights(*MATRICES), TruncNormal(std), "matrix"),
    ]
    return Recipe(rules, name="vit", source=f"{_TIMM}, init_weights_vit_timm")


@built_in
def vit_jax(*, classes: int | None = None) -> Recipe:
    """Make the recipe of the vision transformer in JAX.

    Linear Xavier uniform, each of q, k and v on its own fans as in JAX, where they are separate;
    bias of the MLP N(0, 1e-6), other biases 0; head 0; convolutions LeCun normal, truncated at two
    standard deviations and corrected; position embedding TN(0, 0.02); class token N(0, 1e-6).

    Args:
        classes: Number of classes C for a head bias of -ln C, >= 1 ("nlhb"); 0 when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If `classes` is not > 0.

    Source: timm `vision_transformer.py`, init_weights_vit_jax; Dosovitskiy et al. 2020.
    """
    require_positive("vit_jax", classes=classes)

    @described("LeCun normal, cut at 2 std and corrected by .87962566")
    def lecun(slot: Slot) -> Distribution:
        return TruncNormal.at(slot.fans.fan_in**-0.5, 2, corrected=True)

    head_bias = -math.log(classes) if classes else 0.0
    mlp_bias = Match(kind="bias", role=("mlp input", "mlp output"))
    rules = [
        rule(weights("head"), 0.0, "head"),
        rule(Match(kind="bias", role="head"), head_bias, "head bias"),
        rule(mlp_bias, Normal(1e-6), "bias of the MLP"),
        rule(weights("convolution"), lecun, "convolution"),
        rule(Match(kind="bias", role="convolution"), 0.0, "bias of a convolution"),
        *_patches_and_tokens(),
        biases(),
        rule(weights(*MATRICES), _xavier, "matrix"),
    ]
    return Recipe(rules, name="vit_jax", source=f"{_TIMM}, init_weights_vit_jax")


@built_in
def vit_moco() -> Recipe:
    """Make the recipe of the vision transformer of MoCo v3 in timm.

    Linear Xavier uniform, the packed qkv as three matrices: U(+-sqrt(6 / (out / 3 + in))); biases
    0; the patch convolution as torch leaves it; position embedding TN(0, 0.02); class token
    N(0, 1e-6).

    Returns:
        The recipe.

    Source: timm `vision_transformer.py`, init_weights_vit_moco; Chen et al. 2021.
    """
    rules = [
        *_patches_and_tokens(),
        biases(),
        rule(weights(*MATRICES), _xavier, "matrix"),
    ]
    return Recipe(rules, name="vit_moco", source=f"{_TIMM}, init_weights_vit_moco")


@built_in
def vit_transformers(*, std: float = 0.02) -> Recipe:
    """Make the recipe of the vision transformer in transformers.

    Linear and patch convolution N(0, std), biases 0, norms 1 and 0; position embedding and class
    token TN(0, std) at the absolute bounds +-2; mask token 0.

    Args:
        std: Standard deviation (`initializer_range`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers `modeling_vit.py`, `_init_weights`.
    """
    require_positive("vit_transformers", std=std)
    rules = [
        *norms(),
        biases(),
        rule(weights("token", name="*mask_token"), 0.0, "mask token"),
        rule(weights("position", "token"), TruncNormal(std), "position and token"),
        rule(weights("convolution"), Normal(std), "patch convolution"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="vit_transformers", source="transformers modeling_vit.py")


@described("Xavier uniform, packed q, k and v each on its own")
def _xavier(slot: Slot) -> Distribution:
    return xavier_uniform(slot)


@described("N(0, d^-1/2) cut at 2 std, d the width")
def _latent(slot: Slot) -> Distribution:
    return TruncNormal.at(slot.parameter.shape[-1] ** -0.5, 2)


def _patches_and_tokens() -> list[Rule]:
    """Return the rules that timm's three forms share."""
    patches = Match(role="convolution")
    return [
        *norms(),
        rule(patches, framework_default, "patch convolution"),
        rule(weights("position"), TruncNormal(0.02), "position"),
        rule(weights("token"), Normal(1e-6), "token"),
        rule(weights("gate"), Constant(1e-5), "layer scale"),
        rule(Match("*attn_pool.latent"), _latent, "latent query of pooling"),
    ]
