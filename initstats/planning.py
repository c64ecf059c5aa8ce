"""Plans: which rule of a recipe takes each parameter of a model, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from initstats.recipes import Distribution, Recipe, Rule, Slot, by_name
from initstats.recipes.slots import slots
from initstats.tables import block_pattern, render

__all__ = ["Plan", "PlanEntry", "Recipe", "Rule", "plan"]


@dataclass(frozen=True, eq=False)
class PlanEntry:
    """What a plan holds for one parameter.

    Attributes:
        name: Name under which the rule took it; with the seed it makes the key of its values.
        shape: Its shape.
        dtype: Its dtype, as text.
        count: Number of elements.
        rule: Label of the rule that took it.
        why: What of the parameter matched.
        distribution: What the rule promises.
        tied_to: The other names of the same parameter.
        also_matched: Labels of later rules that match too; the first rule wins.
        keep: True when transformers marked the parameter as loaded: `init_` leaves it alone.
        parameter: The parameter itself.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    rule: str
    why: str
    distribution: Distribution
    tied_to: tuple[str, ...]
    also_matched: tuple[str, ...]
    keep: bool
    parameter: torch.Tensor = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-able values."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "count": self.count,
            "rule": self.rule,
            "why": self.why,
            "distribution": str(self.distribution),
            "mean": self.distribution.mean,
            "std": self.distribution.std,
            "tied_to": list(self.tied_to),
            "also_matched": list(self.also_matched),
            "keep": self.keep,
        }


@dataclass(frozen=True, eq=False)
class Plan:
    """What a recipe does to a model: iterate over its entries, or print it as a table.

    Attributes:
        recipe: The recipe.
        entries: One per parameter that a rule takes, in the order of the model.
        unmatched: Names of the parameters that no rule takes.
        unused_rules: Labels of the rules that took nothing.
    """

    recipe: Recipe
    entries: tuple[PlanEntry, ...]
    unmatched: tuple[str, ...]
    unused_rules: tuple[str, ...]

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return {
            "recipe": self.recipe.name,
            "source": self.recipe.source,
            "parameters": [entry.to_dict() for entry in self.entries],
            "unmatched": list(self.unmatched),
            "unused_rules": list(self.unused_rules),
        }

    def __rich__(self) -> Table:
        groups: dict[tuple[str, ...], int] = {}
        for entry in self.entries:
            name = " = ".join(block_pattern(n) for n in (entry.name, *entry.tied_to))
            shape = "x".join(map(str, entry.shape)) or "scalar"
            fill = "kept: already loaded" if entry.keep else str(entry.distribution)
            key = (name, shape, fill, f"{entry.rule}: {entry.why}")
            groups[key] = groups.get(key, 0) + 1
        title = f"plan of recipe {self.recipe.name}: {len(self)} parameters"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        table.add_column("parameter", overflow="fold", min_width=24)
        for column in ("shape", "values"):
            table.add_column(column, no_wrap=True, min_width=10)
        table.add_column("rule, and why it matches")
        for (name, *rest), members in groups.items():
            table.add_row(name if members == 1 else f"{members} x {name}", *rest)
        for name in self.unmatched:
            table.add_row(name, "", "", "[red]no rule takes it[/]")
        return table

    def __str__(self) -> str:
        return render(self)


def plan(model: nn.Module, recipe: Recipe | str) -> Plan:
    """Decide which rule of a recipe takes each parameter. Writes nothing.

    Rules are tried in the order of the recipe and the first that matches takes the parameter;
    the entry names the others. A tied parameter is planned once: its names are tried in the order
    of the model, and the first name that any rule takes decides.

    Args:
        model: Any module, also on the meta device.
        recipe: A recipe, or the name of one in `initstats.recipes.available()`.

    Returns:
        The plan. Parameters that no rule takes are listed in `unmatched`.

    Raises:
        TypeError: If `model` is no module or `recipe` neither a recipe nor a name.
        ValueError: If the model has no parameters, the recipe is unknown, or a parameter cannot
            be filled: lazy and not yet shaped, of size 0, sparse, not floating point, or hidden
            behind a parametrization.

    Determinism: bitwise. A plan depends on the names, classes and shapes of the model only.
    """
    recipe = resolve("plan", model, recipe)
    entries: list[PlanEntry] = []
    unmatched: list[str] = []
    used: set[int] = set()
    for group in slots(model):
        _require_fillable(group[0])
        taken = next((m for m in (_take(slot, recipe) for slot in group) if m is not None), None)
        if taken is None:
            unmatched.append(group[0].name)
            continue
        slot, matches = taken
        index, why = matches[0]
        used.add(index)
        entries.append(
            PlanEntry(
                name=slot.name,
                shape=tuple(slot.parameter.shape),
                dtype=str(slot.parameter.dtype).removeprefix("torch."),
                count=slot.parameter.numel(),
                rule=recipe.rules[index].label,
                why=why,
                distribution=recipe.rules[index].distribution(slot),
                tied_to=tuple(other.name for other in group if other is not slot),
                also_matched=tuple(recipe.rules[i].label for i, _ in matches[1:]),
                # transformers v5 marks what it loaded from a checkpoint.
                keep=bool(getattr(slot.parameter, "_is_hf_initialized", False)),
                parameter=slot.parameter,
            )
        )
    unused = tuple(rule.label for i, rule in enumerate(recipe.rules) if i not in used)
    return Plan(recipe, tuple(entries), tuple(unmatched), unused)


def require_complete(function: str, planned: Plan) -> None:
    """Refuse a plan with parameters that no rule takes.

    Args:
        function: Public function on whose behalf this is checked, for the message.
        planned: The plan.

    Raises:
        ValueError: Naming the parameters.
    """
    if planned.unmatched:
        raise ValueError(
            f"initstats.{function}: expected a rule for every parameter, got "
            f"unmatched={list(planned.unmatched)} with recipe {planned.recipe.name!r}; "
            "add a rule, or pass allow_unmatched=True"
        )


def resolve(function: str, model: nn.Module, recipe: Recipe | str) -> Recipe:
    """Check a model and turn the name of a recipe into the recipe.

    Args:
        function: Public function on whose behalf this is checked, for the message.
        model: The model.
        recipe: A recipe or a name.

    Returns:
        The recipe.

    Raises:
        TypeError: If either is of another kind.
        ValueError: If the model has no parameters or the recipe is unknown.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"initstats.{function}: expected model to be a torch.nn.Module, "
            f"got model={type(model).__name__}"
        )
    if isinstance(recipe, str):
        recipe = by_name(recipe)
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"initstats.{function}: expected recipe to be a Recipe or its name, "
            f"got recipe={recipe!r}"
        )
    if next(model.parameters(), None) is None:
        raise ValueError(
            f"initstats.{function}: expected a model with parameters, "
            f"got model={type(model).__name__} with none"
        )
    return recipe


def _take(slot: Slot, recipe: Recipe) -> tuple[Slot, list[tuple[int, str]]] | None:
    """Return the slot with (index, reason) of every rule that matches it, or None."""
    matches = []
    for index, rule in enumerate(recipe.rules):
        why = rule.explain(slot)
        if why is not None:
            matches.append((index, why))
    return (slot, matches) if matches else None


def _require_fillable(slot: Slot) -> None:
    """Refuse a parameter whose values a fill would not reach.

    Raises:
        ValueError: With the name, the reason and the fix.
    """
    parameter = slot.parameter
    problem = None
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        problem = ("a shape", "lazy", "run one batch first")
    elif ".parametrizations." in f".{slot.name}":
        fix = "remove the parametrization, initialise, register it again"
        problem = ("a plain parameter", "parametrized", fix)
    elif parameter.layout is not torch.strided:
        problem = ("a dense parameter", str(parameter.layout), "make it dense")
    elif not parameter.dtype.is_floating_point:
        fix = "initialise before quantising"
        problem = ("a floating-point parameter", str(parameter.dtype), fix)
    elif parameter.numel() == 0:
        fix = "initialise before partitioning, or gather the parameter"
        problem = ("at least one element", "an empty one", fix)
    if problem:
        rule, got, fix = problem
        raise ValueError(f"initstats.plan: expected {rule}, got {slot.name}={got}; {fix}")
