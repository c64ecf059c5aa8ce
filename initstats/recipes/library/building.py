"""Parts of recipes: registry, rules for norms and biases, Xavier bounds, depth, option checks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import nn

from initstats.init.fans import calculate_fan_in_and_fan_out
from initstats.recipes.distributions.basic import Constant, Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Part, Simple, Stacked
from initstats.recipes.experts import is_bank
from initstats.recipes.match import Match
from initstats.recipes.norm_scale import neutral_scale
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule
from initstats.recipes.width import Base
from initstats.text import nearest

RecipeT = TypeVar("RecipeT", bound=Callable[..., Recipe])

RECIPES: dict[str, Callable[..., Recipe]] = {}  # by name, in the order of definition
VARIANTS: dict[str, tuple[str, ...]] = {}  # of each, the default first; none of most

RESIDUAL = ("attention output", "mlp output")
INPUTS = ("attention input", "mlp input")
# Matrices of a transformer or a perceptron, by role.
MATRICES = (*INPUTS, *RESIDUAL, "head", "linear", "router")
EMBEDDINGS = ("embedding", "position", "token")


@overload
def built_in(make: RecipeT) -> RecipeT: ...
@overload
def built_in(*, variants: tuple[str, ...]) -> Callable[[RecipeT], RecipeT]: ...
def built_in(make: Any = None, *, variants: tuple[str, ...] = ()) -> Any:
    """Register a function that makes a recipe, under its own name; its rules then pickle.

    Args:
        make: The function.
        variants: What its option `variant` may be, the default first.
    """
    if make is None:
        return functools.partial(built_in, variants=variants)

    @functools.wraps(make)
    def made(**options: Any) -> Recipe:
        if variants and "variant" in options:
            require_choice(make.__name__, "variant", options["variant"], variants)
        # What the call is remembered by holds no model.
        kept = {n: Base.of_model(v) if isinstance(v, nn.Module) else v for n, v in options.items()}
        recipe: Recipe = make(**kept)
        return recipe.made_by(made, kept)

    RECIPES[make.__name__], VARIANTS[make.__name__] = made, variants
    return made


def norms() -> list[Rule]:
    """Return the rules that set the scale of norms to 1 (or 1 + scale) and their shift to 0."""
    return [
        Rule(Match(role="norm", kind="weight"), norm_scale, "norm scale", optional=True),
        Rule(Match(role="norm", kind="bias"), Constant(0.0), "norm shift", optional=True),
    ]


def norm_scale(slot: Slot) -> Constant:
    """1, or 0 where the norm uses 1 + scale"""  # noqa: D415  # shown in lists of rules
    return Constant(neutral_scale(slot.module))


def biases() -> Rule:
    """Return the rule that sets biases to 0."""
    return rule(Match(kind="bias", role=(*MATRICES, "convolution", "other")), 0.0, "bias")


def rule(
    match: Match, fill: Distribution | float | Callable[[Slot], Distribution], label: str
) -> Rule:
    """Return a rule of a built-in recipe, which may match nothing; a number is a constant."""
    constant = Constant(fill) if isinstance(fill, (int, float)) else fill
    return Rule(match, constant, label, optional=True)


def weights(*roles: str, name: str | tuple[str, ...] = "*") -> Match:
    """Return the condition for weights of some roles."""
    return Match(name, role=roles, kind="weight")


def described(
    words: str,
) -> Callable[[Callable[[Slot], Distribution]], Callable[[Slot], Distribution]]:
    """Set the description of a rule's function that lists of rules show."""

    def decorate(fill: Callable[[Slot], Distribution]) -> Callable[[Slot], Distribution]:
        fill.__doc__ = words
        return fill

    return decorate


def require_positive(recipe: str, **options: float | None) -> None:
    """Refuse an option that is not a finite number > 0; None is an option that was not given.

    Raises:
        ValueError: Naming the option.
    """
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(
                f"initstats.{recipe}: expected {name} finite and > 0, got {name}={value}"
            )


def require_layers(recipe: str, layers: int | None) -> None:
    """Refuse a number of blocks below 1.

    Raises:
        ValueError: With the number.
    """
    if layers is not None and layers < 1:
        raise ValueError(f"initstats.{recipe}: expected layers >= 1, got layers={layers}")


def require_choice(function: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices.

    Raises:
        ValueError: Naming the choices.
    """
    if value not in choices:
        raise ValueError(
            f"initstats.{function}: expected {name} among {', '.join(choices)}, got "
            f"{name}={value!r}{nearest(str(value), choices)}"
        )


def depth(recipe: str, slot: Slot, layers: int | None) -> int:
    """Return the number of blocks L of the stack that a parameter is in.

    Raises:
        ValueError: If `layers` was not given and it is in no stack, or the model is a part of one
            whose depth was not given.
    """
    found = layers if layers is not None else slot.blocks
    if found is None:
        slot.require_place(recipe)
    if found is None:
        raise ValueError(
            f"initstats.{recipe}: expected residual projections inside a ModuleList of blocks, "
            f"got name={slot.name!r}; give the number of blocks with {recipe}(layers=...)"
        )
    return found


def block_number(recipe: str, slot: Slot) -> int:
    """Return l + 1 for the block index l of a parameter.

    Raises:
        ValueError: If it is in no stack, or in a part of one whose place is not known.
    """
    if slot.block is None:
        slot.require_place(recipe)
        raise ValueError(
            f"initstats.{recipe}: expected residual projections inside a ModuleList of blocks, "
            f"got name={slot.name!r}"
        )
    return slot.block + 1


def xavier_uniform(slot: Slot, gain: float = 1.0) -> Uniform:
    """Return U(+-gain sqrt(6 / (fan_in + fan_out))), with the fans of what the layer does."""
    bound = gain * math.sqrt(6 / sum(slot.fans))
    return Uniform(-bound, bound)


def framework_default(slot: Slot) -> Uniform:
    """U(+-1 / sqrt(fan_in)), as torch leaves Linear and convolutions, weight and bias."""
    weight = slot.parameter
    if slot.kind == "bias":
        own = getattr(slot.module, "weight", None)
        weight = own if own is not None else weight
    if is_bank(weight, slot.role.name, slot.module):
        return Uniform(-(slot.fans.fan_in**-0.5), slot.fans.fan_in**-0.5)
    is_matrix = weight.dim() > 1
    fan_in = calculate_fan_in_and_fan_out(weight).fan_in if is_matrix else weight.numel()
    if isinstance(slot.module, nn.Bilinear):  # [out, in1, in2]; its own reset counts in1 alone
        fan_in = slot.module.in1_features
    return Uniform(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


def projection(slot: Slot) -> str:
    """Return "q", "k" or "v" for a single attention input, "" for packed ones and others."""
    words = {"q": "q", "query": "q", "k": "k", "key": "k", "v": "v", "value": "v"}
    for part in slot.leaf.removeprefix("to_").removeprefix("linear_").split("_"):
        plain = part.removeprefix("w") if len(part) == 2 else part  # noqa: PLR2004  # wq, wk, wv
        if plain in words:
            return words[plain]
    return ""


def by_projection(slot: Slot, fills: dict[str, Simple]) -> Distribution:
    """Return the fill of an attention input whose q, k and v differ; packed ones become parts."""
    name = projection(slot)
    if name:
        return fills[name]
    if slot.packed == len(fills):
        dim = 1 if type(slot.module).__name__ == "Conv1D" else 0
        size = slot.parameter.shape[dim] // len(fills)
        return Stacked([Part(fill, size, part) for part, fill in fills.items()], dim)
    return fills["q"]


def is_multihead(slot: Slot) -> bool:
    """Tell whether the parameter belongs to torch's own MultiheadAttention."""
    return isinstance(slot.module, nn.MultiheadAttention)


def normal_by_fan_in(slot: Slot) -> Normal:
    """N(0, fan_in^-1/2)"""  # noqa: D415  # a formula, shown in lists of rules
    return Normal(slot.fans.fan_in**-0.5)
