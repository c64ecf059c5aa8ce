"""Recipes: how well-known architectures are initialised, each from its reference code."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from initstats.recipes.distributions import Constant, Distribution, Normal, Uniform
from initstats.recipes.for_gpt2 import gpt2
from initstats.recipes.rules import Match, Recipe, Rule
from initstats.recipes.slots import Slot

__all__ = [
    "Constant",
    "Distribution",
    "Match",
    "Normal",
    "Recipe",
    "Rule",
    "Slot",
    "Uniform",
    "available",
    "by_name",
    "gpt2",
]

_RECIPES: dict[str, Callable[[], Recipe]] = {"gpt2": gpt2}


def available() -> list[str]:
    """List the names of the recipes.

    Returns:
        The names, sorted. Each is a function of this module and a name that `by_name` knows.
    """
    return sorted(_RECIPES)


def by_name(name: str) -> Recipe:
    """Return a recipe with its default numbers.

    Args:
        name: One of `available()`.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no recipe of that name; the nearest name is given.
    """
    if name in _RECIPES:
        return _RECIPES[name]()
    nearest = difflib.get_close_matches(name, available(), n=1, cutoff=0.0)
    raise ValueError(
        f"initstats.recipes: expected one of {available()}, got name={name!r}; "
        f"the nearest is {nearest[0]!r}"
    )
