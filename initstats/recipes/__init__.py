"""Recipes: how well-known architectures are initialised, each from its reference code."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from initstats._public import claim_classes
from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept, Part, Stacked
from initstats.recipes.distributions.orthogonal_matrices import LogUniform, Orthogonal
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.for_adapters import adapter, embedding, lora, new_head, new_layers
from initstats.recipes.library.for_bert import bert, bert_transformers
from initstats.recipes.library.for_convolutions import convnext, efficientnet, fixup, resnet
from initstats.recipes.library.for_depth import deepnet, deepnet_alpha, rezero, t_fixup
from initstats.recipes.library.for_dit import dit
from initstats.recipes.library.for_gpt2 import gpt2, megatron, neox, olmo_mitchell
from initstats.recipes.library.for_llama import llama, llama_torchtitan
from initstats.recipes.library.for_mlp import mlp, torch_default
from initstats.recipes.library.for_recurrent import lstm, lstm_chrono
from initstats.recipes.library.for_t5 import t5
from initstats.recipes.library.for_vit import vit, vit_jax, vit_moco, vit_transformers
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.roles import ROLES
from initstats.recipes.rule import Recipe, Rule

_RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make
    for make in (
        adapter,
        bert,
        bert_transformers,
        convnext,
        deepnet,
        dit,
        efficientnet,
        embedding,
        fixup,
        gpt2,
        llama,
        llama_torchtitan,
        lora,
        lstm,
        lstm_chrono,
        megatron,
        mlp,
        neox,
        new_head,
        new_layers,
        olmo_mitchell,
        resnet,
        rezero,
        t5,
        t_fixup,
        torch_default,
        vit,
        vit_jax,
        vit_moco,
        vit_transformers,
    )
}

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
    "adapter",
    "available",
    "bert",
    "bert_transformers",
    "by_name",
    "convnext",
    "deepnet",
    "deepnet_alpha",
    "dit",
    "efficientnet",
    "embedding",
    "fixup",
    "gpt2",
    "llama",
    "llama_torchtitan",
    "lora",
    "lstm",
    "lstm_chrono",
    "megatron",
    "mlp",
    "neox",
    "new_head",
    "new_layers",
    "olmo_mitchell",
    "resnet",
    "rezero",
    "t5",
    "t_fixup",
    "torch_default",
    "vit",
    "vit_jax",
    "vit_moco",
    "vit_transformers",
]


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


claim_classes(__name__, globals())
