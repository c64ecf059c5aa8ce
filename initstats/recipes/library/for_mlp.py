"""Recipes of plain networks: a perceptron by its activation, and torch's defaults."""

from __future__ import annotations

import math

from torch import nn

from initstats.init.gains import calculate_gain
from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    framework_default,
    is_multihead,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["mlp", "torch_default"]


@built_in
def mlp(*, activation: str = "tanh", gain: float | None = 1.0) -> Recipe:
    """Make the recipe of a plain network: the variance of the signal survives every layer.

    For tanh and sigmoid Xavier normal, N(0, gain sqrt(2 / (fan_in + fan_out))); for ReLU and its
    kin Kaiming normal, N(0, gain / sqrt(fan_in)). Biases 0; norms 1 and 0.

    Args:
        activation: A name that `calculate_gain` knows, such as "tanh", "relu", "gelu", "selu".
        gain: Gain for tanh and sigmoid, > 0: 1 as Glorot and Bengio have it. None takes that of
            `calculate_gain`, 5/3 for tanh. Other activations always take theirs.

    Returns:
        The recipe.

    Raises:
        ValueError: If the activation is not known or `gain` is not finite and > 0.

    Source: Glorot and Bengio 2010, eq. 16; He et al. 2015, eq. 10.
    """
    require_positive("mlp", gain=gain)
    own = calculate_gain(activation)
    saturating = activation in {"tanh", "sigmoid"}
    factor = gain if saturating and gain is not None else own
    fans = "2 / (fan_in + fan_out)" if saturating else "1 / fan_in"

    @described(f"N(0, {factor:.4g} sqrt({fans}))")
    def matrix(slot: Slot) -> Distribution:
        fan_in, fan_out = slot.fans
        share = 2 / (fan_in + fan_out) if saturating else 1 / fan_in
        return Normal(factor * math.sqrt(share))

    rules = [
        *norms(),
        biases(),
        rule(weights("embedding"), Normal(0.02), "embedding"),
        rule(weights(*MATRICES, "convolution"), matrix, "matrix"),
    ]
    return Recipe(rules, name="mlp", source="Glorot and Bengio 2010; He et al. 2015")


@built_in
def torch_default() -> Recipe:
    """Make the recipe of torch's defaults, as `reset_parameters` of its layers writes them.

    Linear and convolutions U(+-1 / sqrt(fan_in)), weight and bias; embeddings N(0, 1); recurrent
    layers U(+-1 / sqrt(H)); attention's packed input Xavier uniform on the packed matrix, its
    biases 0; norms 1 and 0; PReLU 0.25.

    Returns:
        The recipe.

    Source: torch `nn/modules`, reset_parameters and _reset_parameters.
    """

    @described("U(+-1 / sqrt(H)), H the hidden size")
    def recurrent(slot: Slot) -> Distribution:
        bound = getattr(slot.module, "hidden_size", slot.parameter.shape[-1]) ** -0.5
        return Uniform(-bound, bound)

    @described("attention's own input Xavier uniform as packed, else U(+-1 / sqrt(fan_in))")
    def inputs(slot: Slot) -> Distribution:
        if not is_multihead(slot):
            return framework_default(slot)
        if slot.kind == "bias":
            return Constant(0.0)
        if slot.own_name in {"bias_k", "bias_v"}:
            rows, columns = slot.parameter.shape[0], slot.parameter.shape[1:].numel()
            return Normal(math.sqrt(2 / (rows * slot.parameter.shape[-1] + columns)))
        bound = math.sqrt(6 / sum(slot.parameter.shape))
        return Uniform(-bound, bound)

    attention_bias = Match("*out_proj.bias", "NonDynamicallyQuantizableLinear")
    rules = [
        *norms(),
        rule(Match(role="recurrent"), recurrent, "recurrent"),
        rule(Match(role="attention input"), inputs, "attention input"),
        rule(attention_bias, 0.0, "bias of attention's output"),
        rule(weights("embedding", "position"), Normal(1.0), "embedding"),
        rule(Match("*", nn.PReLU), 0.25, "slope"),
        rule(Match(role=(*MATRICES, "convolution")), framework_default, "layer"),
    ]
    return Recipe(rules, name="torch_default", source="torch nn/modules, reset_parameters")
