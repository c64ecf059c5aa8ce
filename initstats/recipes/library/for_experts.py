"""Recipes of mixtures of experts: plain, DeepSeek-V3, GPT-OSS."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    described,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["deepseek_v3", "gpt_oss", "moe"]

# Not learned by gradients, and counted during training: transformers', torchtitan's names.
_COUNTERS = (
    "*e_score_correction_bias",
    "*expert_bias",
    "*expert_bias_E",
    "*tokens_per_expert",
    "*tokens_per_expert_E",
)
TITAN_W3 = ("*.w3.weight", "*.w3", "*.w3_EFD", "*.up_proj.weight", "*.up_proj")
_EXPERT_BIASES = ("*.gate_up_proj_bias", "*.down_proj_bias", "*.mlp?_bias", "*.mlp?_bias_E*")


def balancing() -> Rule:
    """Return the rule for biases and counters that balance experts; parameters or buffers."""
    return rule(Match(_COUNTERS), 0.0, "balance of experts")


@built_in
def moe(*, std: float = 0.02, router_std: float | None = None) -> Recipe:
    """Make the recipe of mixtures of experts in transformers: Mixtral, OLMoE, GLM, Qwen3-MoE.

    Matrices, embeddings, banks of experts and routers N(0, std), no scaling with depth; gates of
    shared experts the same; biases 0; the bias that balances experts 0 (also as a buffer); norms 1.

    Args:
        std: Standard deviation (`initializer_range`), > 0.
        router_std: That of routers, > 0; `std` when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a standard deviation is not finite and > 0.

    Source: transformers 5.18 `modeling_mixtral.py`, `modeling_olmoe.py`, `modeling_glm4_moe.py`.
    """
    require_positive("moe", std=std, router_std=router_std)
    rules = [
        *norms(),
        balancing(),
        biases(),
        rule(weights("router"), Normal(std if router_std is None else router_std), "router"),
        rule(weights("gate", name="*shared_expert_gate.weight"), Normal(std), "gate of an expert"),
        rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="moe", source="transformers modeling_mixtral.py and others")


@built_in(variants=("paper", "transformers", "torchtitan"))
def deepseek_v3(*, variant: str = "paper", std: float | None = None) -> Recipe:
    """Make the recipe of DeepSeek-V3.

    "paper": everything N(0, 0.006). "transformers": everything N(0, 0.02), its default
    `initializer_range`, which is not that of the training. "torchtitan" (Kimi K2 and, before
    d92336f, Llama 4 there have the same): all at the absolute bounds +-2; low-rank and other inputs
    of attention and w1 TN(0, std); attention output, w2, w3 and the router TN(0, std / sqrt(2 (l +
    1))), l the index of the block; embedding N(0, 1); head TN(0, d^-1/2) at three standard
    deviations; std is 0.02. In all, biases that balance experts are 0 and norms 1.

    Args:
        variant: "paper", "transformers" or "torchtitan".
        std: Standard deviation, > 0; that of the variant when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is none of these or `std` is not finite and > 0.

    Source: DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 4.2; torchtitan
        `models/deepseek_v3`, b5bcd76; transformers `modeling_deepseek_v3.py`.
    """
    require_positive("deepseek_v3", std=std)
    base = std if std is not None else (0.006 if variant == "paper" else 0.02)
    source = "DeepSeek-V3 Technical Report; torchtitan models/deepseek_v3, b5bcd76"
    start = [*norms(), balancing(), biases()]
    if variant != "torchtitan":
        rules = [
            *start,
            rule(weights("router"), Normal(base), "router"),
            rule(weights(*EMBEDDINGS), Normal(base), "embedding"),
            rule(weights(*MATRICES), Normal(base), "matrix"),
        ]
        return Recipe(rules, name="deepseek_v3", source=source)
    scaled = scaled_by_block("deepseek_v3", base)
    rules = [
        *start,
        rule(weights("mlp input", name=TITAN_W3), scaled, "w3"),
        rule(weights(*RESIDUAL, "router"), scaled, "residual projection and router"),
        rule(weights(*INPUTS, "linear"), TruncNormal.absolute(base), "input"),
        rule(weights("embedding"), Normal(1.0), "embedding"),
        rule(weights("head"), titan_head, "head"),
    ]
    return Recipe(rules, name="deepseek_v3", source=source)


@built_in(variants=("transformers", "torchtitan"))
def gpt_oss(*, variant: str = "transformers", std: float = 0.02) -> Recipe:
    """Make the recipe of GPT-OSS.

    "transformers": everything N(0, std), attention sinks and the router's bias included; other
    biases 0, those of experts too. "torchtitan": attention, router, experts with their biases,
    and sinks TN(0, std / sqrt(2 (l + 1))) at the absolute bounds +-2, l the index of the block;
    biases of Linear 0; embedding N(0, 0.02); head TN(0, d^-1/2) at three standard deviations. In
    both norms are 1.

    Args:
        variant: "transformers" or "torchtitan".
        std: Standard deviation, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither or `std` is not finite and > 0.

    Source: transformers 5.18 `modeling_gpt_oss.py`, `_init_weights`; torchtitan `models/gpt_oss`,
        b5bcd76. Left unwritten before: torchtitan#2450, Automodel#3920, tt-xla#5912.
    """
    require_positive("gpt_oss", std=std)
    sinks = Match("*.sinks")
    router_bias = Match(role="router", kind="bias")
    source = "transformers modeling_gpt_oss.py; torchtitan models/gpt_oss, b5bcd76"
    if variant == "transformers":
        rules = [
            *norms(),
            rule(sinks, Normal(std), "sinks"),
            rule(router_bias, Normal(std), "bias of the router"),
            biases(),
            rule(weights("router"), Normal(std), "router"),
            rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
            rule(weights(*MATRICES), Normal(std), "matrix"),
        ]
        return Recipe(rules, name="gpt_oss", source=source)
    scaled = scaled_by_block("gpt_oss", std)
    rules = [
        *norms(),
        balancing(),
        rule(sinks, scaled, "sinks"),
        rule(Match(_EXPERT_BIASES), scaled, "biases of experts"),
        biases(),
        rule(weights(*INPUTS, *RESIDUAL, "router"), scaled, "matrix"),
        rule(weights("embedding"), Normal(0.02), "embedding"),
        rule(weights("head"), titan_head, "head"),
    ]
    return Recipe(rules, name="gpt_oss", source=source)


def scaled_by_block(recipe: str, std: float) -> Callable[[Slot], Distribution]:
    """Return the fill of matrices that are scaled by the index of their block."""

    @described(f"TN(0, {std:g} / sqrt(2 (l + 1))), l the block")
    def scaled(slot: Slot) -> Distribution:
        return TruncNormal.absolute(std / math.sqrt(2 * block_number(recipe, slot)))

    return scaled


@described("TN(0, d^-1/2) at 3 std, d the width")
def titan_head(slot: Slot) -> Distribution:
    return TruncNormal.at(slot.width**-0.5, 3)
