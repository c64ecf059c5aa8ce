"""Recipes of dense decoders: Gemma, OLMo 2 and 3, Qwen3."""

from __future__ import annotations

import math
from collections.abc import Callable

from initstats.recipes.distributions.basic import Constant, Normal
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
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["gemma", "olmo2", "qwen3"]


@built_in
def gemma(*, std: float = 0.02) -> Recipe:
    """Make the recipe of Gemma, Gemma 2, 3 and 4 (text) in transformers.

    Matrices and embeddings N(0, std), no scaling with depth; the scale of a norm 0, since it is
    used as 1 + scale (1 where it is not); the factor of an embedding's output (a buffer) what its
    module states, else sqrt(d), d the width. Gemma 3n: scales of corrected predictions 0; its
    buffers 1 / d, 1 / sqrt(d) and 1 / sqrt(2).

    Args:
        std: Standard deviation (`initializer_range`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers 5.18 `modeling_gemma3.py`, `_init_weights`; norms: transformers#40224.
    """
    require_positive("gemma", std=std)

    @described("what the module states, or sqrt(d), d the width")
    def factor(slot: Slot) -> Distribution:
        stated = vars(slot.module).get("scalar_embed_scale")  # embeddings per layer: one layer's
        width = slot.module.get_parameter("weight").shape[-1]
        return Constant(math.sqrt(width) if stated is None else float(stated))

    def by_width(power: float) -> Callable[[Slot], Distribution]:
        @described(f"d^{power:g}, d the width")
        def fill(slot: Slot) -> Distribution:
            if slot.model_width is None:
                raise ValueError(
                    f"initstats.gemma: expected a module that states hidden_size around {slot.name}"
                )
            return Constant(slot.model_width**power)

        return fill

    rules = [
        *norms(),
        biases(),
        rule(Match("*.correct_output_scale"), 0.0, "scale of corrections"),
        rule(Match("*.router_input_scale"), by_width(-1.0), "scale of router inputs"),
        rule(Match("*per_layer_projection_scale"), by_width(-0.5), "scale of a projection"),
        rule(Match("*per_layer_input_scale"), 0.5**0.5, "scale of inputs per layer"),
        rule(Match("*embed_scale", module="Embedding"), factor, "factor of the embedding"),
        rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
        rule(weights("gate", name="*per_layer_input_gate.weight"), Normal(std), "input gate"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="gemma", source="transformers modeling_gemma3.py")


@built_in(variants=("normal", "llama", "llama_depth", "fan_in", "transformers"))
def olmo2(
    *,
    variant: str = "normal",
    std: float = 0.02,
    embed_scale: float = 1.0,
    layers: int | None = None,
) -> Recipe:
    """Make the recipe of OLMo 2 and OLMo 3.

    All matrices are truncated at three standard deviations; biases 0; norms 1. "normal":
    everything, embedding and router included, TN(0, std). "llama": embedding N(0, 1), head
    d^-1/2, attention output, w2, w3, the router and all matrices of experts std / sqrt(2 L), the
    rest std. "llama_depth": the same with sqrt(2 (l + 1)), l the index of the block. "fan_in":
    matrices fan_in^-1/2, embedding N(0, 1 / embed_scale). "transformers": N(0, std) without
    truncation, as the port leaves it.

    Args:
        variant: "normal", "llama", "llama_depth", "fan_in" or "transformers".
        std: Standard deviation, > 0; "fan_in" has none.
        embed_scale: What the model multiplies the embedding with, > 0, for "fan_in".
        layers: Number of blocks L for "llama", >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is none of these or a number is out of range.

    Source: OLMo-core `nn/transformer/init.py`, `nn/attention/__init__.py`, fa6c501; transformers
        `modeling_olmo2.py`.
    """
    require_positive("olmo2", std=std, embed_scale=embed_scale)
    require_layers("olmo2", layers)
    words = {
        "normal": f"TN(0, {std:g}) at 3 std",
        "llama": f"TN(0, {std:g} / sqrt(2 L)) at 3 std, L blocks",
        "llama_depth": f"TN(0, {std:g} / sqrt(2 (l + 1))) at 3 std, l the block",
        "fan_in": "TN(0, fan_in^-1/2) at 3 std",
        "transformers": f"N(0, {std:g})",
    }[variant]
    is_llama = variant in {"llama", "llama_depth"}

    @described("TN(0, fan_in^-1/2) at 3 std" if variant == "fan_in" else words)
    def plain(slot: Slot) -> Distribution:
        if variant == "transformers":
            return Normal(std)
        return TruncNormal.at(slot.fans.fan_in**-0.5 if variant == "fan_in" else std, 3)

    @described(words)
    def scaled(slot: Slot) -> Distribution:
        if variant == "llama":
            return TruncNormal.at(std / math.sqrt(2 * depth("olmo2", slot, layers)), 3)
        if variant == "llama_depth":
            return TruncNormal.at(std / math.sqrt(2 * block_number("olmo2", slot)), 3)
        return plain(slot)

    @described("TN(0, d^-1/2) at 3 std, d the width")
    def head(slot: Slot) -> Distribution:
        return TruncNormal.at(slot.width**-0.5, 3)

    embedding = {"fan_in": Normal(1 / embed_scale), "transformers": Normal(std)}.get(
        variant, Normal(1.0) if is_llama else TruncNormal.at(std, 3)
    )
    of_experts = ("*.experts.*w1", "*.experts.*w3", "*.experts.*gate_up_proj")
    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS), embedding, "embedding"),
        rule(weights("head"), plain if variant in {"normal", "transformers"} else head, "head"),
        rule(weights("mlp input", name=of_experts), scaled, "inputs of experts"),
        rule(weights("mlp input", name=("*.w3.weight", "*.up_proj.weight")), scaled, "w3"),
        rule(weights(*RESIDUAL, "router"), scaled, "residual projection and router"),
        rule(weights(*INPUTS, "linear"), plain, "input"),
    ]
    return Recipe(rules, name="olmo2", source="OLMo-core nn/transformer/init.py, fa6c501")


@built_in(variants=("dense", "moe", "transformers"))
def qwen3(*, variant: str = "dense", std: float = 0.02, layers: int | None = None) -> Recipe:
    """Make the recipe of Qwen3.

    Everything N(0, std), the router included; biases 0; norms 1 (0 where they use 1 + scale).
    "moe" divides attention outputs and the output matrices of experts by sqrt(2 L), as torchtitan
    and Megatron do; "dense" (torchtitan), and transformers for both, scale nothing.

    Args:
        variant: "dense", "moe" or "transformers".
        std: Standard deviation, > 0.
        layers: Number of blocks L for "moe", >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is none of these or a number is out of range.

    Source: torchtitan `models/qwen3`, b5bcd76 (torchtitan#4104); transformers
        `modeling_qwen3_moe.py`.
    """
    require_positive("qwen3", std=std)
    require_layers("qwen3", layers)

    @described(f"N(0, {std:g} / sqrt(2 L)), L blocks" if variant == "moe" else f"N(0, {std:g})")
    def output(slot: Slot) -> Distribution:
        return Normal(
            std / math.sqrt(2 * depth("qwen3", slot, layers)) if variant == "moe" else std
        )

    rules = [
        *norms(),
        biases(),
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(weights("gate", name="*shared_expert_gate.weight"), Normal(std), "gate of an expert"),
        rule(weights("router"), Normal(std), "router"),
        rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="qwen3", source="torchtitan models/qwen3, b5bcd76; transformers")
