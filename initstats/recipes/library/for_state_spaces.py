"""Recipes of state-space models and linear recurrences: Mamba, 2 and 3, Griffin, S4D."""

from __future__ import annotations

import math
from collections.abc import Callable

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.computed import Computed
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.transformed import Transformed
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    depth,
    described,
    framework_default,
    normal_by_fan_in,
    norms,
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.library.for_experts import balancing
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["griffin", "mamba1", "mamba2", "mamba3", "s4d"]

# Names of recurrentgemma and of transformers.
_OUTPUTS = ("*.linear_out.weight", "*.o_proj.weight", "*.proj_final.weight", "*.ffw_down.weight")
_GATES = ("*input_gate.w", "*.a_gate.w", "*input_gate_weight", "*recurrent_gate_weight")
_TAPS = ("*.conv_1d.w", "*.conv_1d.weight")
_ZEROS = ("*gate.b", "*gate_bias", "*.conv_1d.b", "*.conv_1d.bias", "*.ffw_up.b")


@built_in(variants=("mamba_ssm", "transformers", "jamba", "zamba"))
def mamba1(
    *, variant: str = "mamba_ssm", std: float | None = None, layers: int | None = None
) -> Recipe:
    """Make the recipe of Mamba.

    A_log = ln(1), ..., ln(N) along the N states, the same in every channel; D = 1;
    dt_proj.weight U(+-R^-1/2), R its fan-in; dt_proj.bias ln(exp(dt) - 1) with
    dt = max(e^U(ln 0.001, ln 0.1), 0.0001); in_proj, x_proj and the convolution torch's default;
    out_proj torch's default divided by sqrt(L), L the number of blocks; embedding N(0, 0.02);
    other biases 0. In transformers (Mamba, Falcon-Mamba) in_proj, x_proj, embedding and an untied
    head are N(0, 0.1), the bias of the convolution is 0, and out_proj is not divided. Hybrids there
    have N(0, 0.02) for every matrix and convolution; in Jamba dt_proj is one of them, with a bias
    of 0, in Zamba it is as above.

    Args:
        variant: "mamba_ssm", "transformers", "jamba" or "zamba".
        std: Of the embedding, > 0, and in transformers of the matrices above; when None 0.1 in
            "transformers", else 0.02.
        layers: Number of blocks L, >= 1; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: mamba `modules/mamba_simple.py`, `models/mixer_seq_simple.py`, e9594ce; transformers
        `models/mamba/modeling_mamba.py`, `models/jamba/modeling_jamba.py`,
        `models/zamba/modeling_zamba.py`, 5.24.0.
    """
    is_jamba = variant == "jamba"
    time_step = Constant(0.0) if is_jamba else Transformed.time_step()
    rules = [
        rule(Match("*.A_log"), _log_arange, "A_log"),
        rule(Match(("*.dt_proj.bias", "*.dt_proj_bias")), time_step, "dt bias"),
    ]
    if not is_jamba:
        dt_weight = Match(("*.dt_proj.weight", "*.dt_proj_weight"))
        rules.append(rule(dt_weight, _by_last_dimension, "dt weight"))
    return _mamba("mamba1", variant, std, layers, 1, rules)


@built_in(variants=("mamba_ssm", "transformers", "bamba", "zamba2", "nemotron_h"))
def mamba2(
    *,
    variant: str = "mamba_ssm",
    std: float | None = None,
    layers: int | None = None,
    residuals: int = 1,
) -> Recipe:
    """Make the recipe of Mamba 2.

    A_log = ln U(1, 16) per head; D = 1; dt_bias ln(exp(dt) - 1) with
    dt = max(e^U(ln 0.001, ln 0.1), 0.0001) per head; out_proj and fc2 torch's default divided by
    sqrt(r L), r residual branches in each of L blocks; embedding N(0, 0.02); everything else
    torch's default, biases of Linear 0. In transformers A_log = ln(1), ..., ln(H) over the H heads,
    in_proj, embedding and an untied head are N(0, 0.1), the bias of the convolution is 0, and
    out_proj is not divided. Hybrids there have N(0, 0.02) for every matrix and convolution: "bamba"
    (Falcon-H1 and Granite 4 too) with dt_bias 1, "zamba2" with dt_bias as above, "nemotron_h" also
    with out_proj torch's default divided by sqrt(L).

    Args:
        variant: "mamba_ssm", "transformers", "bamba", "zamba2" or "nemotron_h".
        std: Of the embedding, > 0, and in transformers of the matrices above; when None 0.1 in
            "transformers", else 0.02.
        layers: Number of blocks L, >= 1; found in the model when None.
        residuals: Residual branches of a block r, >= 1; 2 with an MLP in each.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: mamba `modules/mamba2.py`, `models/mixer_seq_simple.py`, e9594ce; transformers
        `models/mamba2/modeling_mamba2.py`, `models/bamba/modeling_bamba.py`,
        `models/zamba2/modeling_zamba2.py`, `models/nemotron_h/modeling_nemotron_h.py`, 5.24.0.
    """
    is_original = variant == "mamba_ssm"
    time_step = 1.0 if variant == "bamba" else Transformed.time_step()
    rules = [
        rule(Match("*.A_log"), LogUniform(1.0, 16.0) if is_original else _log_arange, "A_log"),
        rule(Match("*.dt_bias"), time_step, "dt bias"),
    ]
    if variant == "nemotron_h":
        by_depth = _by_depth("mamba2", layers, residuals)
        rules.append(rule(Match("*.mixer.out_proj.weight"), by_depth, "output"))
    return _mamba("mamba2", variant, std, layers, residuals, rules)


@built_in
def mamba3(*, layers: int | None = None, residuals: int = 1) -> Recipe:
    """Make the recipe of Mamba 3.

    dt_bias ln(exp(dt) - 1) with dt = max(e^U(ln 0.001, ln 0.1), 0.0001) per head; biases of B and
    C, D and mimo_z 1; mimo_x and mimo_o 1 / r for rank r; there is no A_log. out_proj and fc2
    torch's default divided by sqrt(r L), r residual branches in each of L blocks; embedding
    N(0, 0.02); everything else torch's default, biases of Linear 0.

    Args:
        layers: Number of blocks L, >= 1; found in the model when None.
        residuals: Residual branches of a block r, >= 1; 2 with an MLP in each.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: mamba `modules/mamba3.py`, `models/mixer_seq_simple.py`, e9594ce.
    """

    @described("1 / r, r the rank")
    def by_rank(slot: Slot) -> Distribution:
        return Constant(1 / slot.parameter.shape[1])

    rules = [
        rule(Match("*.dt_bias"), Transformed.time_step(), "dt bias"),
        rule(Match(("*.B_bias", "*.C_bias", "*.mimo_z")), 1.0, "bias of B or C, or z"),
        rule(Match(("*.mimo_x", "*.mimo_o")), by_rank, "x or output of several ranks"),
    ]
    return _mamba("mamba3", "mamba_ssm", None, layers, residuals, rules)


@described("U(+-1 / sqrt(n)), n the last dimension")
def _by_last_dimension(slot: Slot) -> Distribution:
    bound = slot.parameter.shape[-1] ** -0.5
    return Uniform(-bound, bound)


@described("ln(1), ..., ln(N) along the last dimension")
def _log_arange(slot: Slot) -> Distribution:
    return Computed("log_arange", slot.parameter.shape)


def _mamba(
    name: str,
    variant: str,
    std: float | None,
    layers: int | None,
    residuals: int,
    rules: list[Rule],
) -> Recipe:
    """Return the recipe of Mamba with the rules of its time constants."""
    require_layers(name, layers)
    require_positive(name, std=std)
    if residuals < 1:
        raise ValueError(f"initstats.{name}: expected residuals >= 1, got residuals={residuals}")
    normal = Normal(std or (0.1 if variant == "transformers" else 0.02))
    common = [*norms(), *rules, rule(Match("*.D"), 1.0, "D")]
    source = "mamba mixer_seq_simple.py, e9594ce"
    if variant == "mamba_ssm":
        common += _original(name, normal, layers, residuals)
    else:
        model = variant.replace("transformers", "mamba" if name == "mamba1" else name)
        source = f"transformers modeling_{model}.py, 5.24.0"
        common += _hugging(normal, is_default=variant == "transformers")
    return Recipe(common, name=name, source=source)


def _original(name: str, embedding: Normal, layers: int | None, residuals: int) -> list[Rule]:
    outputs = ("*.out_proj.weight", "*.fc2.weight")
    convolution = Match(role="convolution")
    return [
        rule(weights("embedding"), embedding, "embedding"),
        rule(weights(*MATRICES, name=outputs), _by_depth(name, layers, residuals), "output"),
        rule(weights(*MATRICES, "other"), framework_default, "matrix"),
        rule(convolution, framework_default, "convolution"),
        biases(),
    ]


def _hugging(normal: Normal, *, is_default: bool) -> list[Rule]:
    """Return the rules of transformers, with or without torch's default in some layers."""
    rules = []
    if is_default:
        rules = [
            rule(Match("*.out_proj.weight"), framework_default, "output"),
            rule(weights("convolution"), framework_default, "convolution"),
        ]
    return [
        *rules,
        balancing(),
        rule(weights("embedding", "convolution", *MATRICES, "other"), normal, "matrix"),
        biases(),
    ]


def _by_depth(name: str, layers: int | None, residuals: int) -> Callable[[Slot], Distribution]:
    words = "L" if residuals == 1 else f"{residuals} L"

    @described(f"U(+-1 / sqrt(fan_in)) / sqrt({words}), L the number of blocks")
    def fill(slot: Slot) -> Distribution:
        factor = (residuals * depth(name, slot, layers)) ** -0.5
        return framework_default(slot).scaled(factor)

    return fill


@built_in(variants=("recurrentgemma", "transformers"))
def griffin(*, variant: str = "recurrentgemma", layers: int | None = None) -> Recipe:
    """Make the recipe of Griffin (RecurrentGemma).

    q, k, v, x, y and both inputs of the MLP N(0, fan_in^-1/2); outputs of attention, recurrence and
    MLP N(0, sqrt(2 / (L fan_in))), L the number of blocks; gates of the recurrence
    N(0, b^-1/2), b the width of one diagonal block; taps of the convolution N(0, sqrt(0.01 / k)), k
    of them; the recurrent parameter ln(exp(-(ln u) / 2) - 1), u ~ U(0.81, 0.998001); embedding
    N(0, d^-1/2); biases 0; norms neutral, 0 as they multiply by 1 + scale. In transformers the
    gates are N(0, 0.1 b^-1/2), a tenth of that, the MLP and the embedding N(0, sqrt(0.01 / k)),
    0.05 with its four taps, and the buffer normalizer is sqrt(d).

    Args:
        variant: "recurrentgemma" or "transformers".
        layers: Number of blocks L, >= 1; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: recurrentgemma `torch/layers.py`, `torch/modules.py`, 2efa84d; transformers
        `models/recurrent_gemma/modeling_recurrent_gemma.py`, 5.24.0.
    """
    require_layers("griffin", layers)
    is_original = variant == "recurrentgemma"

    @described("N(0, sqrt(2 / (L fan_in))), L the number of blocks")
    def output(slot: Slot) -> Distribution:
        return Normal(math.sqrt(2 / (depth("griffin", slot, layers) * slot.fans.fan_in)))

    hugging, usual = weights("embedding", *MATRICES), Normal(math.sqrt(0.01 / 4))
    rules = [
        *norms(),
        rule(Match(("*.a_param", "*.recurrent_param")), Transformed.decay_radius(), "decay"),
        rule(Match(_GATES), _gate(1.0 if is_original else 0.1), "gate of the recurrence"),
        rule(Match(_TAPS), _taps, "convolution"),
        rule(Match(_ZEROS), 0.0, "bias"),
        biases(),
        rule(Match(_OUTPUTS), output, "output"),
        *(_plain_griffin(output) if is_original else []),
        rule(weights("attention input", name="*temporal_block.*"), normal_by_fan_in, "q, k, v"),
        rule(Match(("*.linear_x.weight", "*.linear_y.weight")), normal_by_fan_in, "x, y"),
        *([] if is_original else [rule(hugging, usual, "embedding and MLP")]),
        rule(Match("*normalizer"), _root_of_width, "factor of the embedding"),
    ]
    source = "recurrentgemma torch/layers.py, 2efa84d"
    if not is_original:
        source = "transformers modeling_recurrent_gemma.py, 5.24.0"
    return Recipe(rules, name="griffin", source=source)


@built_in
def s4d() -> Recipe:
    """Make the recipe of S4D.

    log_dt U(ln 0.001, ln 0.1); log_A_real ln(1/2), A_imag pi n for state n; C complex
    N(0, 1), each part N(0, 1/sqrt(2)); D N(0, 1). Everything else torch's default; norms 1 and 0.
    Constants that are buffers, as with a learning rate of 0, are written too.

    Returns:
        The recipe.

    Source: s4 `models/s4/s4d.py`, 2ed46fc.
    """

    @described("pi n, n = 0, 1, ... along the states")
    def imaginary(slot: Slot) -> Distribution:
        last = math.pi * (slot.parameter.shape[-1] - 1)
        return Computed("linspace", slot.parameter.shape, {"start": 0.0, "end": last})

    rest = ("embedding", "convolution", "other", *MATRICES)
    rules = [
        *norms(),
        rule(Match("*log_dt"), Uniform(math.log(0.001), math.log(0.1)), "time step"),
        rule(Match("*log_A_real"), math.log(0.5), "decay"),
        rule(Match("*A_imag"), imaginary, "frequencies"),
        rule(Match("*kernel.C"), Normal(math.sqrt(0.5)), "C"),
        rule(Match(("*.D", "D")), Normal(1.0), "D"),
        rule(weights("embedding"), Normal(1.0), "embedding"),
        rule(Match(role=rest), framework_default, "other layers"),
    ]
    return Recipe(rules, name="s4d", source="s4 models/s4/s4d.py, 2ed46fc")


def _plain_griffin(output: Callable[[Slot], Distribution]) -> list[Rule]:
    """Return the rules that transformers does not have."""
    inputs = ("*proj_[qkv].weight", "*.q_proj.weight", "*.k_proj.weight", "*.v_proj.weight")
    mlp = ("*.gate_proj.weight", "*.up_proj.weight")
    return [
        rule(Match("*.down_proj.weight"), output, "output"),
        rule(Match((*inputs, *mlp)), normal_by_fan_in, "input"),
        rule(Match("*.ffw_up.w"), _of_rows, "input of the MLP"),
        rule(Match(("*input_embedding", "*embed_tokens.weight")), _of_rows, "embedding"),
    ]


def _gate(factor: float) -> Callable[[Slot], Distribution]:
    @described(
        f"N(0, {factor:g} b^-1/2), b the width of a block" if factor != 1 else "N(0, b^-1/2)"
    )
    def fill(slot: Slot) -> Distribution:
        return Normal(factor * slot.parameter.shape[-1] ** -0.5)

    return fill


@described("N(0, sqrt(0.01 / k)), k taps")
def _taps(slot: Slot) -> Distribution:
    shape = slot.parameter.shape
    return Normal(math.sqrt(0.01 / (shape[0] if slot.own_name == "w" else shape[-1])))


@described("N(0, d^-1/2), d the width")
def _of_rows(slot: Slot) -> Distribution:
    # [vocabulary, d], and [2, d, hidden] of the packed inputs of the MLP.
    shape = slot.parameter.shape
    return Normal(shape[1] ** -0.5)


@described("sqrt(d), d the width of the embedding")
def _root_of_width(slot: Slot) -> Distribution:
    embedding = getattr(slot.module, "embed_tokens", None)
    if embedding is None:
        raise ValueError(
            f"initstats.griffin: expected embed_tokens beside the buffer {slot.name}, got none"
        )
    return Constant(math.sqrt(embedding.weight.shape[-1]))
