"""Recipes of implicit networks: coordinates in, a signal out."""

from __future__ import annotations

import math

from torch import nn

from initstats.recipes.distributions.basic import Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    framework_default,
    require_positive,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["hash_grid", "siren"]


@built_in
def siren(*, omega: float = 30.0) -> Recipe:
    """Make the recipe of sinusoidal networks, sin(omega (W x + b)) in every layer.

    The first layer of the model U(+-1 / fan_in), all others U(+-sqrt(6 / fan_in) / omega); biases
    as torch leaves them, U(+-1 / sqrt(fan_in)).

    Args:
        omega: The frequency of hidden layers, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `omega` is not finite and > 0.

    Source: siren modules.py:622, first_layer_sine_init and sine_init.
    """
    require_positive("siren", omega=omega)

    @described(f"first U(+-1 / fan_in), others U(+-sqrt(6 / fan_in) / {omega:g})")
    def matrix(slot: Slot) -> Distribution:
        first = next(m for m in slot.parents[0].modules() if isinstance(m, nn.Linear))
        fan_in = slot.fans.fan_in
        bound = 1 / fan_in if slot.module is first else math.sqrt(6 / fan_in) / omega
        return Uniform(-bound, bound)

    rules = [
        rule(weights(*MATRICES), matrix, "matrix"),
        rule(Match(kind="bias", role=MATRICES), framework_default, "bias"),
    ]
    return Recipe(rules, name="siren", source="siren modules.py:622; Sitzmann et al. 2020")


@built_in
def hash_grid() -> Recipe:
    """Make the recipe of multiresolution hash grids: tables U(+-1e-4), networks Xavier uniform.

    Tables are embeddings, or parameters whose name ends in `table`, `grid` or `embeddings`.

    Returns:
        The recipe.

    Source: tiny-cuda-nn encodings/grid.h:1078; Müller et al. 2022, section 3.
    """
    table = Uniform(-1e-4, 1e-4)
    rules = [
        rule(weights("embedding"), table, "table"),
        rule(Match(("*table", "*tables", "*grid", "*embeddings", "*table.*")), table, "table"),
        biases(),
        rule(weights(*MATRICES), xavier_matrix, "matrix"),
    ]
    return Recipe(rules, name="hash_grid", source="tiny-cuda-nn encodings/grid.h:1078")


@described("Xavier uniform")
def xavier_matrix(slot: Slot) -> Distribution:
    """Xavier uniform by the layer's fans."""
    return xavier_uniform(slot)
