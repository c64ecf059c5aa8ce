"""Recipes of Llama: transformers, torchtitan."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    EMBEDDINGS,
    INPUTS,
    MATRICES,
    RESIDUAL,
    biases,
    block_number,
    built_in,
    depth,
    described,
    norms,
    require_choice,
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["llama", "llama_torchtitan"]


@built_in
def llama(*, std: float = 0.02) -> Recipe:
    """Make the recipe of Llama in transformers: no scaling with depth.

    Matrices and embeddings N(0, std), the padding row of an embedding 0, biases 0, RMSNorm 1.

    Args:
        std: Standard deviation (`initializer_range`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers `modeling_utils.py`, `PreTrainedModel._init_weights`.
    """
    require_positive("llama", std=std)
    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="llama", source="transformers PreTrainedModel._init_weights")


@built_in
def llama_torchtitan(*, scale: str = "block", layers: int | None = None) -> Recipe:
    """Make the recipe of Llama 3 in torchtitan.

    wq, wk, wv and w1: .02; wo, w2 and w3: .02 / sqrt(2 (l + 1)), l the index of the block; both
    truncated at the absolute bounds +-2, which cuts nothing. Embedding N(0, 1); head d^-1/2,
    truncated at three standard deviations; RMSNorm 1.

    Args:
        scale: "block" divides by sqrt(2 (l + 1)), "depth" by sqrt(2 L) (`depth_init=False`).
        layers: Number of blocks L for `scale="depth"`, >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If `scale` is neither, or `layers` < 1.

    Source: torchtitan `models/llama3`, init_weights of Attention, FeedForward and Transformer.
    """
    require_choice("llama_torchtitan", "scale", scale, ("block", "depth"))
    require_layers("llama_torchtitan", layers)
    words = "l + 1), l the block" if scale == "block" else "L), L blocks"

    @described(f"TN(0, 0.02 / sqrt(2 {'(' if scale == 'block' else ''}{words}")
    def scaled(slot: Slot) -> Distribution:
        if scale == "block":
            return TruncNormal(0.02 / math.sqrt(2 * block_number("llama_torchtitan", slot)))
        return TruncNormal(0.02 / math.sqrt(2 * depth("llama_torchtitan", slot, layers)))

    @described("TN(0, d^-1/2) at 3 std, d the width")
    def head(slot: Slot) -> Distribution:
        return TruncNormal.at(slot.width**-0.5, 3)

    rules = [
        *norms(),
        biases(),
        rule(weights("mlp input", name=("*.w3.weight", "*.up_proj.weight")), scaled, "w3"),
        rule(weights(*RESIDUAL), scaled, "residual projection"),
        rule(weights(*INPUTS, "linear", "router"), TruncNormal(0.02), "input"),
        rule(weights("embedding"), Normal(1.0), "embedding"),
        rule(weights("head"), head, "head"),
    ]
    return Recipe(rules, name="llama_torchtitan", source="torchtitan models/llama3")
