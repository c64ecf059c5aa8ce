"""Recipes of adversarial networks."""

from __future__ import annotations

from initstats.recipes.distributions.basic import Constant, Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["dcgan"]


@built_in
def dcgan(*, std: float = 0.02) -> Recipe:
    """Make the recipe of DCGAN, generator and discriminator alike.

    Convolutions, transposed ones and matrices N(0, 0.02); scales of norms N(1, 0.02), shifts and
    biases 0.

    Args:
        std: Of all of them, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: pytorch/examples dcgan/main.py, weights_init; Radford et al. 2015, section 4.
    """
    require_positive("dcgan", std=std)

    @described(f"N(1, {std:g})")
    def scale(slot: Slot) -> Distribution:
        return Normal(std, 1.0) if slot.kind == "weight" else Constant(0.0)

    rules = [
        rule(Match(role="norm"), scale, "norm"),
        biases(),
        rule(weights(*MATRICES, "convolution"), Normal(std), "layer"),
    ]
    return Recipe(rules, name="dcgan", source="pytorch/examples dcgan/main.py, weights_init")
