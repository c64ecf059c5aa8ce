"""Recipes of linear attention: gated delta nets, RetNet."""

from __future__ import annotations

from initstats.recipes.distributions.basic import Constant, Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.transformed import Transformed
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    INPUTS,
    MATRICES,
    RESIDUAL,
    biases,
    built_in,
    depth,
    described,
    framework_default,
    norms,
    require_choice,
    require_layers,
    require_positive,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.library.for_experts import (
    TITAN_W3,
    balancing,
    scaled_by_block,
    titan_head,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["gated_deltanet", "retnet"]

# fla draws U(0, 16), whose logarithm may be -inf; the smallest step of a float32 uniform is 2^-24.
_A_LOG = {
    "fla": LogUniform(16 * 2.0**-24, 16.0),
    "kda": LogUniform(1.0, 16.0),
    "transformers": LogUniform(0.01, 16.0),
    "torchtitan": LogUniform(0.01, 16.0),
}


@built_in(variants=tuple(_A_LOG))
def gated_deltanet(
    *,
    variant: str = "fla",
    residual: str = "plain",
    std: float = 0.02,
    layers: int | None = None,
) -> Recipe:
    """Make the recipe of gated delta nets (Gated DeltaNet, Qwen3-Next, Qwen3.5).

    "fla" (OLMo-core's is the same): matrices, convolutions and embedding N(0, std); A_log
    ln U(0, 16), never -inf here; dt_bias ln(exp(dt) - 1) with
    dt = max(e^U(ln 0.001, ln 0.1), 0.0001); `residual="rescale"` makes the output projections of
    attention and MLP U(+-1 / sqrt(fan_in)) / sqrt(2 L), L the number of blocks, and "zero" makes
    them 0. "kda" (Kimi Delta Attention; Kimi Linear, Bailing): the same, with A_log ln U(1, 16) and
    a time step per channel. "transformers": the same matrices, routers and experts included, but
    A_log ln U(0.01, 16) and dt_bias 1. "torchtitan": as in transformers, with matrices TN(0, std)
    at the absolute bounds +-2; outputs, w2, w3 and routers TN(0, std / sqrt(2 (l + 1))), l the
    index of the block; convolutions torch's default; embedding N(0, 1); head TN(0, d^-1/2) at three
    standard deviations. In all biases are 0 and norms are neutral: 1, or 0 where used as 1 + scale.

    Args:
        variant: "fla", "kda", "transformers" or "torchtitan".
        residual: "plain", "rescale" or "zero" (fla's prenorm_residual_strategy); with "fla" and
            "kda".
        std: Standard deviation (`initializer_range`), > 0.
        layers: Number of blocks L, >= 1, of "rescale"; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range, or `residual` is not "plain" in another variant.

    Source: fla `models/gated_deltanet/modeling_gated_deltanet.py`, `layers/kda.py`, bc3b101;
        transformers `models/qwen3_next/modeling_qwen3_next.py`,
        `models/kimi_linear/modeling_kimi_linear.py`, 5.24.0; torchtitan `models/qwen3_5`, b5bcd76.
    """
    require_choice("gated_deltanet", "residual", residual, ("plain", "rescale", "zero"))
    require_positive("gated_deltanet", std=std)
    require_layers("gated_deltanet", layers)
    is_fla = variant in {"fla", "kda"}
    if not is_fla and residual != "plain":
        raise ValueError(
            f'initstats.gated_deltanet: expected residual="plain" with variant={variant!r}, got '
            f"residual={residual!r}"
        )
    time_step = Transformed.time_step() if is_fla else Constant(1.0)
    rules = [
        *norms(),
        balancing(),
        rule(Match("*.A_log"), _A_LOG[variant], "A_log"),
        rule(Match("*.dt_bias"), time_step, "dt bias"),
        biases(),
        *(_titan(std) if variant == "torchtitan" else _plain(std, residual, layers)),
    ]
    source = {
        "fla": "fla modeling_gated_deltanet.py, bc3b101",
        "kda": "fla layers/kda.py, bc3b101; transformers modeling_kimi_linear.py, 5.24.0",
        "transformers": "transformers modeling_qwen3_next.py, 5.24.0",
        "torchtitan": "torchtitan models/qwen3_5, b5bcd76",
    }[variant]
    return Recipe(rules, name="gated_deltanet", source=source)


def _plain(std: float, residual: str, layers: int | None) -> list[Rule]:
    """Return the rules of fla and transformers."""

    @described("U(+-1 / sqrt(fan_in)) / sqrt(2 L), L the number of blocks")
    def rescaled(slot: Slot) -> Distribution:
        factor = (2 * depth("gated_deltanet", slot, layers)) ** -0.5
        return framework_default(slot).scaled(factor)

    every = ("embedding", "convolution", "gate", "other", *MATRICES)
    outputs = weights(*RESIDUAL, name=("*.o_proj.weight", "*.down_proj.weight"))
    special = {"plain": [], "rescale": [rule(outputs, rescaled, "output")]}
    zero = [rule(outputs, 0.0, "output")]
    return [*special.get(residual, zero), rule(weights(*every), Normal(std), "matrix")]


def _titan(std: float) -> list[Rule]:
    """Return the rules of torchtitan."""
    scaled = scaled_by_block("gated_deltanet", std)
    return [
        rule(weights("mlp input", name=TITAN_W3), scaled, "w3"),
        rule(weights(*RESIDUAL, "router"), scaled, "residual projection and router"),
        rule(weights("convolution"), framework_default, "convolution"),
        rule(weights("embedding"), Normal(1.0), "embedding"),
        rule(weights("head"), titan_head, "head"),
        rule(weights(*INPUTS, "linear", "gate"), TruncNormal.absolute(std), "input"),
    ]


@built_in
def retnet() -> Recipe:
    """Make the recipe of RetNet.

    q, k, v and the gate of retention Xavier uniform times 2^-5/2, its output Xavier uniform times
    1/2; the MLP torch's default; embedding and an untied head N(0, d^-1/2), d the width; norms 1.

    Returns:
        The recipe.

    Source: torchscale `component/multiscale_retention.py`, `architecture/retnet.py`; earlier
        commits, such as 05a9628, do not halve the output.
    """

    @described("Xavier uniform times 2^-5/2")
    def inputs(slot: Slot) -> Distribution:
        return xavier_uniform(slot, 2**-2.5)

    @described("Xavier uniform times 1/2")
    def output(slot: Slot) -> Distribution:
        return xavier_uniform(slot, 0.5)

    @described("N(0, d^-1/2), d the width")
    def by_width(slot: Slot) -> Distribution:
        return Normal(slot.parameter.shape[-1] ** -0.5)

    retention = tuple(f"*.{name}_proj.weight" for name in "qkvg")
    ends = ("*output_projection.weight", "*lm_head.weight")
    rules = [
        *norms(),
        biases(),
        rule(Match(retention), inputs, "retention"),
        rule(Match("*.out_proj.weight"), output, "output of retention"),
        rule(weights("embedding"), by_width, "embedding"),
        rule(Match(ends), by_width, "head"),
        rule(weights("linear", "mlp input", "mlp output", "router"), framework_default, "MLP"),
    ]
    return Recipe(rules, name="retnet", source="torchscale multiscale_retention.py")
