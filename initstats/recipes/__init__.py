"""Recipes: initialisation of well-known architectures, each from its reference code."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from initstats._public import claim_classes
from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import (
    Distribution,
    Kept,
    Part,
    Slices,
    Stacked,
)
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.distributions.derived import Derived
from initstats.recipes.distributions.half_basis import HalfBasis
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.normalised_rows import NormalisedRows
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.distributions.transformed import Transformed
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library import (
    for_adapters,
    for_audio,
    for_bert,
    for_contrastive,
    for_convolutions,
    for_decoders,
    for_depth,
    for_diffusion,
    for_dit,
    for_experts,
    for_fields,
    for_generative,
    for_gpt2,
    for_graphs,
    for_linear_attention,
    for_llama,
    for_lora,
    for_mlp,
    for_modernbert,
    for_modula,
    for_nanochat,
    for_policies,
    for_recurrent,
    for_rwkv,
    for_splines,
    for_state_spaces,
    for_t5,
    for_transformers,
    for_vision,
    for_vit,
    for_width,
    for_xlstm,
)
from initstats.recipes.library.building import RECIPES
from initstats.recipes.library.for_adapters import *  # noqa: F403
from initstats.recipes.library.for_audio import *  # noqa: F403
from initstats.recipes.library.for_bert import *  # noqa: F403
from initstats.recipes.library.for_contrastive import *  # noqa: F403
from initstats.recipes.library.for_convolutions import *  # noqa: F403
from initstats.recipes.library.for_decoders import *  # noqa: F403
from initstats.recipes.library.for_depth import *  # noqa: F403
from initstats.recipes.library.for_diffusion import *  # noqa: F403
from initstats.recipes.library.for_dit import *  # noqa: F403
from initstats.recipes.library.for_experts import *  # noqa: F403
from initstats.recipes.library.for_fields import *  # noqa: F403
from initstats.recipes.library.for_generative import *  # noqa: F403
from initstats.recipes.library.for_gpt2 import *  # noqa: F403
from initstats.recipes.library.for_graphs import *  # noqa: F403
from initstats.recipes.library.for_linear_attention import *  # noqa: F403
from initstats.recipes.library.for_llama import *  # noqa: F403
from initstats.recipes.library.for_lora import *  # noqa: F403
from initstats.recipes.library.for_mlp import *  # noqa: F403
from initstats.recipes.library.for_modernbert import *  # noqa: F403
from initstats.recipes.library.for_modula import *  # noqa: F403
from initstats.recipes.library.for_nanochat import *  # noqa: F403
from initstats.recipes.library.for_policies import *  # noqa: F403
from initstats.recipes.library.for_recurrent import *  # noqa: F403
from initstats.recipes.library.for_rwkv import *  # noqa: F403
from initstats.recipes.library.for_splines import *  # noqa: F403
from initstats.recipes.library.for_state_spaces import *  # noqa: F403
from initstats.recipes.library.for_t5 import *  # noqa: F403
from initstats.recipes.library.for_transformers import *  # noqa: F403
from initstats.recipes.library.for_vision import *  # noqa: F403
from initstats.recipes.library.for_vit import *  # noqa: F403
from initstats.recipes.library.for_width import *  # noqa: F403
from initstats.recipes.library.for_xlstm import *  # noqa: F403
from initstats.recipes.match import Match
from initstats.recipes.multipliers import Forward, Multipliers
from initstats.recipes.parameters import Slot
from initstats.recipes.roles import ROLES
from initstats.recipes.rule import Recipe, Rule
from initstats.recipes.width import Base, Growth
from initstats.text import nearest

__all__ = [
    "ROLES",
    "Base",
    "Computed",
    "Constant",
    "Derived",
    "Distribution",
    "Forward",
    "Growth",
    "HalfBasis",
    "Kept",
    "LogUniform",
    "Match",
    "Multipliers",
    "Normal",
    "NormalisedRows",
    "Orthogonal",
    "Part",
    "Recipe",
    "Rule",
    "Slices",
    "Slot",
    "Stacked",
    "Transformed",
    "TruncNormal",
    "Uniform",
    "available",
    "by_name",
    "formula",
]
__all__ += for_adapters.__all__
__all__ += for_audio.__all__
__all__ += for_bert.__all__
__all__ += for_contrastive.__all__
__all__ += for_convolutions.__all__
__all__ += for_decoders.__all__
__all__ += for_depth.__all__
__all__ += for_diffusion.__all__
__all__ += for_dit.__all__
__all__ += for_experts.__all__
__all__ += for_fields.__all__
__all__ += for_generative.__all__
__all__ += for_gpt2.__all__
__all__ += for_graphs.__all__
__all__ += for_linear_attention.__all__
__all__ += for_llama.__all__
__all__ += for_lora.__all__
__all__ += for_mlp.__all__
__all__ += for_modernbert.__all__
__all__ += for_modula.__all__
__all__ += for_nanochat.__all__
__all__ += for_policies.__all__
__all__ += for_recurrent.__all__
__all__ += for_rwkv.__all__
__all__ += for_splines.__all__
__all__ += for_state_spaces.__all__
__all__ += for_t5.__all__
__all__ += for_transformers.__all__
__all__ += for_vision.__all__
__all__ += for_vit.__all__
__all__ += for_width.__all__
__all__ += for_xlstm.__all__


def available() -> list[str]:
    """List the names of the recipes.

    Returns:
        The names, sorted. Each is a function of this module and a name that `by_name` knows.
    """
    return sorted(RECIPES)


def by_name(name: str) -> Recipe:
    """Return a recipe by its name, or by a call with options: `"t5(head_width=16)"`.

    Args:
        name: One of `available()`, with its default numbers; or such a name with options in
            brackets, as in Python: `name=value`, each value a literal.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no recipe of that name (the nearest name is given), the text is no
            call with literal options, or the recipe does not take an option.
    """
    function, options = _read_call(name) if "(" in name else (name, {})
    if function not in RECIPES:
        raise ValueError(
            f"initstats.recipes: expected one of {available()}, got name={function!r}"
            f"{nearest(function, available())}"
        )
    known = list(inspect.signature(RECIPES[function]).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"initstats.recipes: expected options of {function} among {known}, "
            f"got {unknown[0]}={options[unknown[0]]!r}{nearest(unknown[0], known)}"
        )
    try:
        return RECIPES[function](**options)
    except TypeError as error:  # text where a number belongs
        raise ValueError(
            f"initstats.recipes: expected options that {function} takes, got name={name!r}: {error}"
        ) from None


def _read_call(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the keyword arguments of a call with literals; nothing is run."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
            if len(options) == len(call.keywords):
                return call.func.id, options
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # the same message below
    raise ValueError(
        "initstats.recipes: expected a name, or a call with literal options such as "
        f"'t5(head_width=16)', got name={text!r}"
    )


claim_classes(__name__, globals())
