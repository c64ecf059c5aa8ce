"""Recipe of the decoders of transformers, with the parameters that only some families have."""

from __future__ import annotations

import math

import torch

from initstats.recipes.distributions.basic import Constant, Normal
from initstats.recipes.distributions.composite import Distribution, Part, Stacked
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.library.building import (
    EMBEDDINGS,
    MATRICES,
    biases,
    built_in,
    depth,
    described,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.library.for_experts import balancing
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["decoder_transformers"]

# Scales of residual streams, of queries and of experts, by family.
_ONES = (
    "*.input_residual", "*.post_attention_residual",  # Doge
    "*.suv_gate", "*.suv_up",  # Dory
    "*.global_scale", "*.norm.scale",  # Inkling
    "*hidden_states_scale", "*.residual_scale", "*.router_states_scale",  # Zaya
)  # fmt: skip
_ZEROS = (
    "*.sinks", "*compressor.position_bias", "*indexer.position_bias",  # Granite, DeepSeek-V4
    "*.self_attn.A",  # Doge
    "*.query", "*.static_weight",  # Inkling 2
    "*.temp", "*hidden_states_bias", "*.residual_bias",  # Zaya
    "*z_L_init",  # HRM
    "*.ple.conv1d.weight",  # Qwen 4
)  # fmt: skip
# Matrices that modules hold themselves: XLNet's, hyper-connections, experts of DBRX.
_BARE = ("*.rel_attn.*", "*mask_emb", "*_hc.fn", "*.hc_fn", "*.experts.mlp.v1")
_LAMBDAS = tuple(f"*.lambda_{letter}{i}" for letter in "qk" for i in (1, 2))


@formula()
def inverse_softplus(shape: tuple[int, ...], *, value: float) -> torch.Tensor:
    """Return ln(e^value - 1) everywhere."""
    return torch.full(shape, math.log(math.expm1(value)), dtype=torch.float64)


@built_in
def decoder_transformers(
    *,
    std: float = 0.02,
    embedding_std: float | None = None,
    lambda_std: float = 0.1,
    position_std: float = 1.0,
) -> Recipe:
    """Make the recipe of decoders in transformers, as `PreTrainedModel._init_weights` leaves them.

    Matrices, convolutions, banks of experts, routers and embeddings N(0, std), no scaling with
    depth; biases 0; norms neutral, 0 where used as 1 + scale. Parameters that only some families
    have: slopes of xIELU (Apertus) ln(e^0.8 - 1) and ln(e^0.3 - 1); the four lambdas of
    differential attention (DiffLlama) N(0, lambda_std); scales of residual streams and queries
    (Doge, Inkling, Zaya) 1, in Dory std; sinks (Granite, DeepSeek-V4, HY-V4), positions of
    compressors and static taps 0; hyper-connections (DeepSeek-V4, HY-V4) N(0, std), their bases
    0 and scales 1, in HY-V4 -ln(n - 1) for the n streams and 0.01; the router of AFMoE 0; the bias
    of Zaya's expert that does nothing -1; axial positions of Reformer N(0, position_std); attention
    output of NanoChat N(0, std / sqrt(2 L)), L blocks. Time constants of state spaces are in
    `mamba1`, `mamba2` and `gated_deltanet`, random sinks in `gpt_oss`.

    Args:
        std: Standard deviation (`initializer_range`), > 0.
        embedding_std: That of embeddings (embed_init_std), > 0; `std` when None.
        lambda_std: That of the lambdas of DiffLlama (lambda_std_dev), > 0.
        position_std: That of the positions of Reformer (axial_norm_std), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If a standard deviation is not finite and > 0.

    Source: transformers 5.24.0 `modeling_utils.py` and `models/*/modeling_*.py`, `_init_weights`.
    """
    require_positive(
        "decoder_transformers",
        std=std,
        embedding_std=embedding_std,
        lambda_std=lambda_std,
        position_std=position_std,
    )
    normal = Normal(std)
    rules = [
        rule(Match(_ZEROS), 0.0, "0 in its family"),
        rule(Match(_ONES), 1.0, "scale of its family"),
        *norms(),
        balancing(),
        *_single_families(std),
        rule(Match(_LAMBDAS), Normal(lambda_std), "lambda"),
        rule(Match("*position_embeddings.weights.*"), Normal(position_std), "axial position"),
        rule(Match("*adapter*", kind="bias"), 0.0, "bias of an adapter"),
        rule(Match("*adapter*", role="adapter"), normal, "adapter"),
        biases(),
        rule(weights(*EMBEDDINGS), Normal(embedding_std or std), "embedding"),
        rule(Match(_BARE), normal, "matrix of its family"),
        rule(weights("convolution", "gate", name="*.weight"), normal, "convolution or gate"),
        rule(weights(*MATRICES), normal, "matrix"),
    ]
    source = "transformers 5.24.0 modeling_utils.py, _init_weights of each family"
    return Recipe(rules, name="decoder_transformers", source=source)


def _single_families(std: float) -> list[Rule]:
    """Return the rules of parameters that one family has."""

    @described("0 in AFMoE, else N(0, std)")
    def router(slot: Slot) -> Distribution:
        return Constant(0.0) if _owner(slot) == "AfmoeTokenChoiceRouter" else Normal(std)

    @described("N(0, std / sqrt(2 L)) in NanoChat, L blocks; else N(0, std)")
    def output(slot: Slot) -> Distribution:
        by_depth = _owner(slot) == "NanoChatAttention"
        share = 2 * depth("decoder_transformers", slot, None) if by_depth else 1
        return Normal(std / math.sqrt(share))

    hyper, head = ("HYV4HyperConnection",), ("HYV4HyperHead",)
    return [
        rule(Match(("*.act_fn.alpha_p", "*.act_fn.alpha_n")), _slope, "slope of xIELU"),
        rule(Match(("*.lambda_1", "*.lambda_2", "*.sqk", "*.s_gate")), std, "scale of Dory"),
        rule(Match("*lm_head.logit_scale"), std, "scale of Dory"),
        rule(Match(("*_hc.base", "*.hc_base"), module=(*hyper, *head)), _streams, "streams"),
        rule(Match(("*_hc.scale", "*.hc_scale"), module=(*hyper, *head)), 0.01, "streams"),
        rule(Match(("*_hc.base", "*.hc_base")), 0.0, "streams"),
        rule(Match(("*_hc.scale", "*.hc_scale")), 1.0, "streams"),
        rule(Match("*.balancing_biases"), _last_expert, "balance of experts"),
        rule(weights("router"), router, "router"),
        rule(weights("attention output", name="*.o_proj.weight"), output, "attention output"),
    ]


def _owner(slot: Slot) -> str:
    """Return the class of the module around the layer that a parameter belongs to."""
    return type(slot.parents[-2]).__name__ if len(slot.parents) > 1 else ""


@described("ln(e^0.8 - 1), of the negative side ln(e^0.3 - 1)")
def _slope(slot: Slot) -> Distribution:
    value = 0.8 if slot.own_name == "alpha_p" else 0.3
    return Computed("inverse_softplus", slot.parameter.shape, {"value": value})


@described("-ln(n - 1) for the first n, the number of streams; else 0")
def _streams(slot: Slot) -> Distribution:
    streams = int(slot.module.hc_mult)  # type: ignore[arg-type]
    value = Constant(-math.log(max(streams - 1, 1)))
    rest = slot.parameter.shape[0] - streams
    if rest <= 0:
        return value
    return Stacked([Part(value, streams, "streams"), Part(Constant(0.0), rest, "other")])


@described("0, and -1 for the expert that does nothing")
def _last_expert(slot: Slot) -> Distribution:
    experts = slot.parameter.shape[0] - 1
    return Stacked([Part(Constant(0.0), experts, "experts"), Part(Constant(-1.0), 1, "no expert")])
