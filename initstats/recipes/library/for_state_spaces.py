"""Recipes of state-space models: Mamba, Mamba 2."""

from __future__ import annotations

from collections.abc import Callable

from initstats.recipes.distributions.basic import Normal
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
    norms,
    require_choice,
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["mamba1", "mamba2"]


@built_in
def mamba1(
    *, variant: str = "mamba_ssm", std: float | None = None, layers: int | None = None
) -> Recipe:
    """Make the recipe of Mamba.

    A_log = ln(1), ..., ln(N) along the N states, the same in every channel; D = 1;
    dt_proj.weight U(+-R^-1/2), R its fan-in; dt_proj.bias ln(exp(dt) - 1) with
    dt = max(e^U(ln 0.001, ln 0.1), 0.0001); in_proj, x_proj and the convolution torch's default;
    out_proj torch's default divided by sqrt(L), L the number of blocks; embedding N(0, 0.02);
    other biases 0. In transformers (Mamba, Falcon-Mamba) in_proj, x_proj, embedding and an untied
    head are N(0, 0.1), the bias of the convolution is 0, and out_proj is not divided.

    Args:
        variant: "mamba_ssm" or "transformers".
        std: Of the embedding, > 0, and in transformers of the matrices above; when None 0.1 in
            "transformers", else 0.02.
        layers: Number of blocks L, >= 1; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: mamba `modules/mamba_simple.py`, `models/mixer_seq_simple.py`, e9594ce; transformers
        `models/mamba/modeling_mamba.py`, 5.24.0.
    """
    require_choice("mamba1", "variant", variant, ("mamba_ssm", "transformers"))
    rules = [
        rule(Match("*.A_log"), _log_arange, "A_log"),
        rule(Match("*.dt_proj.bias"), Transformed.time_step(), "dt bias"),
        rule(Match("*.dt_proj.weight"), framework_default, "dt weight"),
    ]
    return _mamba("mamba1", variant, std, layers, 1, rules)


@built_in
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
    out_proj is not divided. Hybrids there (Bamba, Falcon-H1, Granite 4) have dt_bias 1, and
    N(0, 0.02) for every matrix and convolution.

    Args:
        variant: "mamba_ssm", "transformers" or "bamba".
        std: Of the embedding, > 0, and in transformers of the matrices above; when None 0.1 in
            "transformers", else 0.02.
        layers: Number of blocks L, >= 1; found in the model when None.
        residuals: Residual branches of a block r, >= 1; 2 with an MLP in each.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: mamba `modules/mamba2.py`, `models/mixer_seq_simple.py`, e9594ce; transformers
        `models/mamba2/modeling_mamba2.py`, `models/bamba/modeling_bamba.py`, 5.24.0.
    """
    require_choice("mamba2", "variant", variant, ("mamba_ssm", "transformers", "bamba"))
    if residuals < 1:
        raise ValueError(f"initstats.mamba2: expected residuals >= 1, got residuals={residuals}")
    is_original = variant == "mamba_ssm"
    time_step = 1.0 if variant == "bamba" else Transformed.time_step()
    rules = [
        rule(Match("*.A_log"), LogUniform(1.0, 16.0) if is_original else _log_arange, "A_log"),
        rule(Match("*.dt_bias"), time_step, "dt bias"),
    ]
    return _mamba("mamba2", variant, std, layers, residuals, rules)


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
    normal = Normal(std or (0.1 if variant == "transformers" else 0.02))
    common = [*norms(), *rules, rule(Match("*.D"), 1.0, "D")]
    source = "mamba mixer_seq_simple.py, e9594ce"
    if variant == "mamba_ssm":
        common += _original(name, normal, layers, residuals)
    else:
        model = {"mamba1": "mamba", "mamba2": variant.replace("transformers", "mamba2")}[name]
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
