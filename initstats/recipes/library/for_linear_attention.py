"""Recipes of linear attention: gated delta nets, RWKV-7, RetNet, xLSTM."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.distributions.transformed import Transformed
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    INPUTS,
    MATRICES,
    RESIDUAL,
    biases,
    block_number,
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
from initstats.recipes.multipliers import Multipliers
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["gated_deltanet", "retnet", "rwkv7", "xlstm"]

# fla draws U(0, 16), whose logarithm may be -inf; the smallest step of a float32 uniform is 2^-24.
_A_LOG = {
    "fla": LogUniform(16 * 2.0**-24, 16.0),
    "transformers": LogUniform(0.01, 16.0),
    "torchtitan": LogUniform(0.01, 16.0),
}

# Exponents of the mixing coefficients of RWKV-7's attention, times 1 - l / L.
_MIXING = {"x_r": 0.2, "x_w": 0.9, "x_k": 0.7, "x_v": 0.7, "x_a": 0.9, "x_g": 0.2}


@formula()
def rwkv_mixing(shape: tuple[int, ...], *, exponent: float) -> torch.Tensor:
    """Return 1 - (i / C)^exponent over the C channels."""
    channels = shape[-1]
    return 1 - (torch.arange(channels).double() / channels) ** exponent


@formula()
def rwkv_channels(
    shape: tuple[int, ...], *, start: float, slope: float, zigzag: float, head_width: int
) -> torch.Tensor:
    """Return a ramp over the channels, start -+ slope / 2, plus zigzag times s |s| in each head.

    Args:
        shape: Shape of the parameter; channels are its last dimension.
        start: Mean of the ramp.
        slope: Last value less the first.
        zigzag: Factor of s |s|, where s goes from -1 to 1 over the channels of a head.
        head_width: Channels of a head.
    """
    at = torch.arange(shape[-1]).double()
    half = (head_width - 1) / 2
    s = (at % head_width - half) / half
    return start + slope * (at / (shape[-1] - 1) - 0.5) + zigzag * s * s.abs()


@formula()
def rwkv_decay(shape: tuple[int, ...], *, power: float, head_width: int) -> torch.Tensor:
    """Return -5.5 + 6 (i / (C - 1))^power over the channels, plus 2.5 s |s| in each head."""
    ramp = torch.arange(shape[-1]).double() / (shape[-1] - 1)
    start = rwkv_channels(shape, start=-5.5, slope=0.0, zigzag=2.5, head_width=head_width)
    return start + 6 * ramp**power


@built_in
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
    them 0. "transformers": the same matrices, routers and experts included, but A_log
    ln U(0.01, 16) and dt_bias 1. "torchtitan": as in transformers, with matrices TN(0, std) at the
    absolute bounds +-2; outputs, w2, w3 and routers TN(0, std / sqrt(2 (l + 1))), l the index of
    the block; convolutions torch's default; embedding N(0, 1); head TN(0, d^-1/2) at three standard
    deviations. In all biases are 0 and norms are neutral: 1, or 0 where used as 1 + scale.

    Args:
        variant: "fla", "transformers" or "torchtitan".
        residual: "plain", "rescale" or "zero" (fla's prenorm_residual_strategy); with "fla".
        std: Standard deviation (`initializer_range`), > 0.
        layers: Number of blocks L, >= 1, of "rescale"; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range, or `residual` is not "plain" in another variant.

    Source: fla `models/gated_deltanet/modeling_gated_deltanet.py`, bc3b101; transformers
        `models/qwen3_next/modeling_qwen3_next.py`, 5.24.0; torchtitan `models/qwen3_5`, b5bcd76.
    """
    require_choice("gated_deltanet", "variant", variant, tuple(_A_LOG))
    require_choice("gated_deltanet", "residual", residual, ("plain", "rescale", "zero"))
    require_positive("gated_deltanet", std=std)
    require_layers("gated_deltanet", layers)
    if variant != "fla" and residual != "plain":
        raise ValueError(
            f'initstats.gated_deltanet: expected residual="plain" with variant={variant!r}, got '
            f"residual={residual!r}"
        )
    time_step = Transformed.time_step() if variant == "fla" else Constant(1.0)
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
def rwkv7(*, layers: int | None = None, head_width: int | None = None) -> Recipe:
    """Make the recipe of RWKV-7.

    Attention: receptance and value orthogonal, key 0.1 times that, output 0; low-rank w1, a1, v1,
    g1 0, and w2, a2, v2, g2 0.1 max(1, sqrt(rows / columns)) times orthogonal; mixing coefficients
    x_r ... x_g 1 - (i / C)^(c (1 - l / L)) for channel i of C and layer l of L, with c = 0.2 (r,
    g), 0.9 (w, a), 0.7 (k, v); w0 = -5.5 + 6 (i / (C - 1))^(1 + (l / (L - 1))^0.3) + 2.5 z, where
    z = s |s| and s goes from -1 to 1 over the channels of a head; a0 = -0.19 + 0.3 z + 0.4 r,
    v0 = 0.73 - 0.4 r, k_k = 0.71 - 0.1 r, r from -1/2 to 1/2 over the channels; k_a 1.02, r_k
    -0.04; weight of ln_x ((l + 1) / L)^0.7. Channel mixing: x_k 1 - (i / C)^((1 - l / L)^4), key
    orthogonal, value 0. Embedding U(+-0.0001); head orthogonal times sqrt(V / d) / 2 (1/2 where the
    vocabulary V is not larger than the width d). Other norms 1 and 0. The learning rate of w0 is
    doubled.

    Args:
        layers: Number of layers L, >= 1; found in the model when None.
        head_width: Channels of a head, >= 2; that of r_k in the same module when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is out of range, or the model does not tell it.

    Source: RWKV-LM `RWKV-v7/train_temp/src/model.py`, generate_init_weight, 524481d.
    """
    require_layers("rwkv7", layers)
    if head_width is not None and head_width < 2:  # noqa: PLR2004  # a zigzag needs two channels
        raise ValueError(f"initstats.rwkv7: expected head_width >= 2, got head_width={head_width}")

    def over_layers(c: float) -> Callable[[Slot], Distribution]:
        @described(f"1 - (i / C)^({c:g} (1 - l / L))")
        def fill(slot: Slot) -> Distribution:
            share = 1 - (block_number("rwkv7", slot) - 1) / depth("rwkv7", slot, layers)
            return Computed("rwkv_mixing", slot.parameter.shape, {"exponent": c * share})

        return fill

    def over_channels(
        words: str, start: float, slope: float, zigzag: float = 0.0
    ) -> Callable[[Slot], Distribution]:
        @described(words)
        def fill(slot: Slot) -> Distribution:
            width = _head_width(slot, head_width) if zigzag else 2
            arguments = {"start": start, "slope": slope, "zigzag": zigzag, "head_width": width}
            return Computed("rwkv_channels", slot.parameter.shape, arguments)

        return fill

    @described("1 - (i / C)^((1 - l / L)^4)")
    def channel_mixing(slot: Slot) -> Distribution:
        share = 1 - (block_number("rwkv7", slot) - 1) / depth("rwkv7", slot, layers)
        return Computed("rwkv_mixing", slot.parameter.shape, {"exponent": share**4})

    @described("-5.5 + 6 (i / (C - 1))^(1 + (l / (L - 1))^0.3) + 2.5 z")
    def decay(slot: Slot) -> Distribution:
        last = depth("rwkv7", slot, layers) - 1
        ratio = (block_number("rwkv7", slot) - 1) / last if last else 0.0
        arguments = {"power": 1 + ratio**0.3, "head_width": _head_width(slot, head_width)}
        return Computed("rwkv_decay", slot.parameter.shape, arguments)

    @described("((l + 1) / L)^0.7")
    def norm_of_heads(slot: Slot) -> Distribution:
        share = block_number("rwkv7", slot) / depth("rwkv7", slot, layers)
        return Constant(share**0.7)

    doubled = Multipliers(lr=2.0)
    orthogonal = ("*.att.receptance.weight", "*.att.value.weight", "*.ffn.key.weight")
    a0 = over_channels("-0.19 + 0.3 z + 0.4 r", -0.19, 0.4, 0.3)
    rules = [
        rule(Match("*.ln_x.weight"), norm_of_heads, "norm of the heads"),
        *norms(),
        rule(Match("*.ffn.x_k"), channel_mixing, "mixing of channels"),
        *(rule(Match(f"*.{name}"), over_layers(c), "mixing") for name, c in _MIXING.items()),
        Rule(Match("*.w0"), decay, "decay", optional=True, multipliers=doubled),
        rule(Match("*.a0"), a0, "learning rate in context"),
        rule(Match("*.v0"), over_channels("0.73 - 0.4 r", 0.73, -0.4), "value residual"),
        rule(Match("*.k_k"), over_channels("0.71 - 0.1 r", 0.71, -0.1), "key"),
        rule(Match("*.k_a"), 1.02, "key"),
        rule(Match("*.r_k"), -0.04, "bonus"),
        rule(Match(("*.w1", "*.a1", "*.v1", "*.g1")), 0.0, "low rank, in"),
        rule(Match(("*.w2", "*.a2", "*.v2", "*.g2")), _low_rank, "low rank, out"),
        rule(Match(orthogonal), _orthogonal(1.0), "matrix"),
        rule(Match("*.att.key.weight"), _orthogonal(0.1), "key matrix"),
        rule(Match(("*.att.output.weight", "*.ffn.value.weight")), 0.0, "output"),
        rule(weights("embedding"), Uniform(-1e-4, 1e-4), "embedding"),
        rule(weights("head"), _rwkv_head, "head"),
    ]
    return Recipe(rules, name="rwkv7", source="RWKV-LM v7 model.py, 524481d")


def _head_width(slot: Slot, given: int | None) -> int:
    """Return the channels of a head.

    Raises:
        ValueError: If it was not given and the module has no r_k, [heads, channels].
    """
    if given is not None:
        return given
    bonus: torch.Tensor | None = getattr(slot.module, "r_k", None)
    if bonus is None or bonus.dim() != 2:  # noqa: PLR2004  # a matrix
        raise ValueError(
            f"initstats.rwkv7: expected r_k [heads, channels] beside {slot.name}, got none; give "
            "head_width="
        )
    return bonus.shape[-1]


def _orthogonal(gain: float) -> Callable[[Slot], Distribution]:
    @described(f"{gain:g} x orthogonal" if gain != 1 else "orthogonal")
    def fill(slot: Slot) -> Distribution:
        rows, columns = slot.parameter.shape
        return Orthogonal(rows, columns, gain)

    return fill


@described("0.1 max(1, sqrt(rows / columns)) x orthogonal")
def _low_rank(slot: Slot) -> Distribution:
    rows, columns = slot.parameter.shape
    return Orthogonal(rows, columns, 0.1 * max(1.0, math.sqrt(rows / columns)))


@described("max(1, sqrt(V / d)) / 2 x orthogonal")
def _rwkv_head(slot: Slot) -> Distribution:
    rows, columns = slot.parameter.shape
    return Orthogonal(rows, columns, 0.5 * max(1.0, math.sqrt(rows / columns)))


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


@built_in
def xlstm(*, layers: int | None = None) -> Recipe:
    """Make the recipe of xLSTM-7B, as transformers has it.

    q, k, v, up projection, embedding and head N(0, sqrt(2 / (5 d))), d the width of the residual
    stream; out_proj and proj_down N(0, 2 / (L sqrt(fan_in))), L the number of blocks; weights of
    every layer whose name contains "gate" 0, that of the output gate and of the gated MLP too; bias
    of the forget gate from 3 to 6 over the heads, of the input gate -10; other biases 0; norms 1.

    Args:
        layers: Number of blocks L, >= 1; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If `layers < 1`.

    Source: transformers `models/xlstm/modeling_xlstm.py`, 5.24.0, weight_mode "single". Widths of
        values other than d are not told apart: its out_proj takes d, whatever its fan-in.
    """
    require_layers("xlstm", layers)

    @described("N(0, 2 / (L sqrt(fan_in))), L the number of blocks")
    def output(slot: Slot) -> Distribution:
        return Normal(2 / (depth("xlstm", slot, layers) * math.sqrt(slot.fans.fan_in)))

    @described("N(0, sqrt(2 / (5 d))), d the width")
    def small(slot: Slot) -> Distribution:
        return Normal(math.sqrt(2 / (5 * slot.parameter.shape[-1])))

    @described("linear over the heads, from 3 to 6")
    def forget(slot: Slot) -> Distribution:
        return Computed("linspace", slot.parameter.shape, {"start": 3.0, "end": 6.0})

    rules = [
        *norms(),
        rule(Match("*fgate_preact.bias"), forget, "bias of the forget gate"),
        rule(Match("*igate_preact.bias"), -10.0, "bias of the input gate"),
        rule(Match(("*gate_preact.weight", "*_gate.weight")), 0.0, "gate"),
        biases(),
        rule(Match(("*.out_proj.weight", "*.proj_down.weight")), output, "output"),
        rule(weights("embedding", "other", *MATRICES), small, "matrix"),
    ]
    return Recipe(rules, name="xlstm", source="transformers modeling_xlstm.py, 5.24.0")
