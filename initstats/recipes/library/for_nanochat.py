"""Recipes of small fast decoders: nanochat, modded-nanogpt."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept, Part, Stacked
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.distributions.derived import Derived
from initstats.recipes.library.building import built_in, described, rule, weights
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["modded_nanogpt", "nanochat"]


# Angles are products in float32 of up to some ten thousand, rounded to 2^-24 of that.
@formula(tolerance=2.0**-8)
def rotary_table(shape: tuple[int, ...], *, base: float, function: str) -> torch.Tensor:
    """Return cosines or sines of rotary angles, [1, positions, 1, pairs].

    Args:
        shape: Shape of the table.
        base: Ratio of the largest to the smallest period.
        function: "cos" or "sin".
    """
    pairs = shape[-1]
    inverse = base ** (-torch.arange(pairs).double() / pairs)
    angles = torch.arange(shape[1]).double()[:, None] * inverse
    return (angles.cos() if function == "cos" else angles.sin())[None, :, None, :]


@formula()
def modded_scalars(shape: tuple[int, ...], *, layers: int) -> torch.Tensor:
    """Return (1/2, 1) for each layer, 0 for the smear, -1.5 for the skip, and padding of 1."""
    values = torch.ones(shape[0], dtype=torch.float64)
    values[0 : 2 * layers : 2] = 0.5
    values[2 * layers : 2 * layers + 2] = torch.tensor([0.0, -1.5], dtype=torch.float64)
    return values


@built_in
def nanochat() -> Recipe:
    """Make the recipe of nanochat.

    Token embedding N(0, 0.8) (its docstring says 1); head N(0, 0.001); q, k, v and value
    embeddings U(+-sqrt(3 / d)), d the width; c_fc 0.4 times that; both output projections 0; gates
    U(0, 0.02); per-layer factors of the residual stream from 1.15 to 1.05 and of the first
    embedding from 0.2 to 0.05; smear factor 0, backout factor 0.2. Norms have no weight. Tables of
    rotary angles are computed (base 100,000).

    Returns:
        The recipe.

    Source: nanochat `nanochat/gpt.py`, `init_weights`, 92d63d4.
    """

    def bounded(factor: float, words: str) -> Callable[[Slot], Distribution]:
        @described(words)
        def fill(slot: Slot) -> Distribution:
            bound = factor * math.sqrt(3 / _model_width(slot))
            return Uniform(-bound, bound)

        return fill

    @described("linear over the layers, from 1.15 to 1.05")
    def residual(slot: Slot) -> Distribution:
        return Computed("linspace", slot.parameter.shape, {"start": 1.15, "end": 1.05})

    @described("linear over the layers, from 0.2 to 0.05")
    def first(slot: Slot) -> Distribution:
        return Computed("linspace", slot.parameter.shape, {"start": 0.2, "end": 0.05})

    @described("cosines and sines of rotary angles, base 100,000")
    def angles(slot: Slot) -> Distribution:
        arguments = {"base": 1e5, "function": slot.own_name}
        return Computed("rotary_table", slot.parameter.shape, arguments)

    usual = bounded(1.0, "U(+-sqrt(3 / d)), d the width")
    rules = [
        rule(Match("*wte.weight"), Normal(0.8), "token embedding"),
        rule(Match("*value_embeds.*"), usual, "value embedding"),
        rule(Match("*lm_head.weight"), Normal(0.001), "head"),
        rule(Match("*resid_lambdas"), residual, "factors of the residual stream"),
        rule(Match("*x0_lambdas"), first, "factors of the first embedding"),
        rule(Match("*smear_lambda"), 0.0, "smear"),
        rule(Match("*backout_lambda"), 0.2, "backout"),
        rule(Match(("*ve_gate.weight", "*smear_gate.weight")), Uniform(0.0, 0.02), "gate"),
        rule(Match(("cos", "sin", "*.cos", "*.sin")), angles, "rotary table"),
        rule(weights("attention output", "mlp output"), 0.0, "residual projection"),
        rule(weights("attention input"), usual, "q, k, v"),
        rule(weights("mlp input"), bounded(0.4, "0.4 U(+-sqrt(3 / d)), d the width"), "c_fc"),
    ]
    return Recipe(rules, name="nanochat", source="nanochat gpt.py, 92d63d4")


@built_in
def modded_nanogpt(*, layers: int | None = None, heads: int | None = None) -> Recipe:
    """Make the recipe of the record of modded-nanogpt.

    Head N(0, 0.005), stored as (d, vocabulary); token embedding a copy of its transpose, not tied;
    banks of q, k and of v, o U(+-sqrt(3) / 2 d^-1/2), matrices of padding 0; MLP bank c_fc the
    same, c_proj 0; value embedding N(0, 0.01); bigram embedding and gates 0; per-layer factors
    sqrt(1.1) for the residual stream, 1 after it; scalars 1/2 and 1 per layer, smear 0, skip -1.5.
    Low-rank mixing weights U(+-fan_in^-1/2) and 0; its biases are kept as the model computes them.

    Args:
        layers: Number of layers that have attention, >= 1; when None what the model states, one
            less than the number of layers.
        heads: Number of heads, >= 1; what the model states when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is < 1, or the model does not state it.

    Source: modded-nanogpt `train_gpt.py`, f411b3d.
    """
    for name, value in (("layers", layers), ("heads", heads)):
        if value is not None and value < 1:
            raise ValueError(f"initstats.modded_nanogpt: expected {name} >= 1, got {name}={value}")

    def of_attention(slot: Slot) -> int:
        return layers or _stated(slot, "num_layers", "layers") - 1

    @described("U(+-sqrt(3) / 2 d^-1/2), padding 0")
    def qk(slot: Slot) -> Distribution:
        count = heads or _stated(slot, "num_heads", "heads")
        return _bank(slot, of_attention(slot) * 2 * (count // 2))

    @described("U(+-sqrt(3) / 2 d^-1/2), padding 0")
    def vo(slot: Slot) -> Distribution:
        return _bank(slot, of_attention(slot) * 2)

    zeros = ("*ve_gate_bank", "*smear_gate.weight", "*bigram_embed.weight", "*mudd_*w2")
    computed = Kept("as the model computes them")
    rules = [
        rule(Match("*lm_head.weight"), Normal(0.005), "head"),
        rule(Match("embed.weight"), Derived("transpose", "lm_head.weight"), "token embedding"),
        rule(Match("*qk_bank"), qk, "bank of q and k"),
        rule(Match("*vo_bank"), vo, "bank of v and o"),
        rule(Match("*mlp_bank"), _mlp, "bank of the MLP"),
        rule(Match("*value_embeds"), Normal(0.01), "value embedding"),
        rule(Match(zeros), 0.0, "gates and bigrams"),
        rule(Match("*resid_lambdas"), math.sqrt(1.1), "factors of the residual stream"),
        rule(Match("*post_lambdas"), 1.0, "factors of the branches"),
        rule(Match("*scalars"), _scalars, "scalars"),
        rule(Match("*mudd_*w1"), _mixing, "mixing"),
        rule(Match(("*mudd_*b2", "*mudd_gate_scale")), computed, "biases of the mixing"),
    ]
    return Recipe(rules, name="modded_nanogpt", source="modded-nanogpt train_gpt.py, f411b3d")


def _model_width(slot: Slot) -> int:
    """Return the width of the residual stream: that of the token embedding."""
    for name, module in slot.parents[0].named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] == "wte":
            return module.embedding_dim
    return slot.width


def _stated(slot: Slot, attribute: str, option: str) -> int:
    """Return a number that the model states.

    Raises:
        ValueError: If it does not.
    """
    value: int | None = vars(slot.parents[0]).get(attribute)
    if value is None:
        raise ValueError(
            f"initstats.modded_nanogpt: expected a model with {attribute}, got none; give {option}="
        )
    return value


def _bank(slot: Slot, used: int) -> Distribution:
    """Return the fill of a bank of which so many matrices are used."""
    bound = math.sqrt(3) / 2 * slot.parameter.shape[-1] ** -0.5
    random, size = Uniform(-bound, bound), slot.parameter.shape[0]
    if not 1 <= used <= size:
        raise ValueError(
            f"initstats.modded_nanogpt: expected at most {size} matrices in {slot.name}, got "
            f"{used}; give layers= and heads="
        )
    if used == size:
        return random
    return Stacked([Part(random, used, "used"), Part(Constant(0.0), size - used, "padding")])


@described("c_fc U(+-sqrt(3) / 2 d^-1/2), c_proj 0")
def _mlp(slot: Slot) -> Distribution:
    bound = math.sqrt(3) / 2 * slot.parameter.shape[-1] ** -0.5
    parts = [Part(Uniform(-bound, bound), 1, "c_fc"), Part(Constant(0.0), 1, "c_proj")]
    return Stacked(parts, 1)


@described("1/2 and 1 per layer, 0, -1.5, padding 1")
def _scalars(slot: Slot) -> Distribution:
    count = slot.module.get_parameter("resid_lambdas").shape[0]
    return Computed("modded_scalars", slot.parameter.shape, {"layers": count})


@described("U(+-fan_in^-1/2)")
def _mixing(slot: Slot) -> Distribution:
    bound = slot.parameter.shape[-1] ** -0.5
    return Uniform(-bound, bound)
