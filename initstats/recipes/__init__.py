"""Recipes: initialisation of well-known architectures, each from its reference code."""

from __future__ import annotations

import difflib

from initstats._public import claim_classes
from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept, Part, Stacked
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library import (
    for_adapters,
    for_bert,
    for_convolutions,
    for_depth,
    for_dit,
    for_gpt2,
    for_llama,
    for_mlp,
    for_recurrent,
    for_t5,
    for_vit,
)
from initstats.recipes.library.building import RECIPES
from initstats.recipes.library.for_adapters import *  # noqa: F403
from initstats.recipes.library.for_bert import *  # noqa: F403
from initstats.recipes.library.for_convolutions import *  # noqa: F403
from initstats.recipes.library.for_depth import *  # noqa: F403
from initstats.recipes.library.for_dit import *  # noqa: F403
from initstats.recipes.library.for_gpt2 import *  # noqa: F403
from initstats.recipes.library.for_llama import *  # noqa: F403
from initstats.recipes.library.for_mlp import *  # noqa: F403
from initstats.recipes.library.for_recurrent import *  # noqa: F403
from initstats.recipes.library.for_t5 import *  # noqa: F403
from initstats.recipes.library.for_vit import *  # noqa: F403
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.roles import ROLES
from initstats.recipes.rule import Recipe, Rule

__all__ = [
    "ROLES",
    "Constant",
    "Distribution",
    "Kept",
    "LogUniform",
    "Match",
    "Normal",
    "Orthogonal",
    "Part",
    "Recipe",
    "Rule",
    "Slot",
    "Stacked",
    "TruncNormal",
    "Uniform",
    "available",
    "by_name",
]
__all__ += for_adapters.__all__
__all__ += for_bert.__all__
__all__ += for_convolutions.__all__
__all__ += for_depth.__all__
__all__ += for_dit.__all__
__all__ += for_gpt2.__all__
__all__ += for_llama.__all__
__all__ += for_mlp.__all__
__all__ += for_recurrent.__all__
__all__ += for_t5.__all__
__all__ += for_vit.__all__


def available() -> list[str]:
    """List the names of the recipes.

    Returns:
        The names, sorted. Each is a function of this module and a name that `by_name` knows.
    """
    return sorted(RECIPES)


def by_name(name: str) -> Recipe:
    """Return a recipe with its default numbers.

    Args:
        name: One of `available()`.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no recipe of that name; the nearest name is given.
    """
    if name in RECIPES:
        return RECIPES[name]()
    nearest = difflib.get_close_matches(name, available(), n=1, cutoff=0.0)
    raise ValueError(
        f"initstats.recipes: expected one of {available()}, got name={name!r}; "
        f"the nearest is {nearest[0]!r}"
    )


claim_classes(__name__, globals())
