"""Rules and recipes: conditions on parameters, and the distributions that fill them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from initstats.recipes.distributions.composite import (
    DISTRIBUTIONS,
    Distribution,
    Slices,
    Stacked,
)
from initstats.recipes.distributions.computed import Computed
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot

MadeBy: TypeAlias = "tuple[Callable[..., Recipe], dict[str, Any], int]"
Fill: TypeAlias = Distribution | Callable[[Slot], Distribution]


@dataclass(frozen=True)
class Rule:
    """A condition on parameters and the distribution that fills those that match.

    Args:
        match: The condition, or a glob pattern on the parameter name.
        fill: The distribution, or a function from the parameter's `Slot` to one, for rules that
            depend on shape or depth; the first line of its docstring is shown in lists of rules.
        label: Short name of the rule, shown in plans; the condition when empty.
        optional: The rule may match nothing. A rule of a user that matches nothing is refused,
            since it is most often misspelt.

    Raises:
        TypeError: If `match` or `fill` is of another kind.
    """

    match: Match | str
    fill: Fill
    label: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.match, str):
            object.__setattr__(self, "match", Match(self.match))
        if not isinstance(self.match, Match):
            raise TypeError(
                f"initstats.Rule: expected a Match or a name pattern, got match={self.match!r}"
            )
        if not (isinstance(self.fill, DISTRIBUTIONS) or callable(self.fill)):
            raise TypeError(
                "initstats.Rule: expected a distribution or a function from Slot to one, "
                f"got fill={self.fill!r}"
            )
        if not self.label:
            object.__setattr__(self, "label", str(self.match))

    @property
    def condition(self) -> str:
        """The condition, in words."""
        return str(self.match)

    @property
    def promise(self) -> str:
        """The distribution, in words: of a function the first line of its docstring."""
        if isinstance(self.fill, DISTRIBUTIONS):
            return str(self.fill)
        return (self.fill.__doc__ or "depends on the parameter").partition("\n")[0]

    def explain(self, slot: Slot) -> str | None:
        """Say why this rule takes a parameter, or return None when it does not."""
        assert isinstance(self.match, Match)  # __post_init__ made it so
        return self.match.explain(slot)

    def __reduce__(self) -> tuple[Callable[..., Rule], tuple[object, ...]]:
        """Pickle a rule of a built-in recipe by the call that makes the recipe, others by value."""
        made_by: MadeBy | None = vars(self).get("_made_by")
        if made_by is not None and not isinstance(self.fill, DISTRIBUTIONS):
            return _rule_of, made_by
        return Rule, (self.match, self.fill, self.label, self.optional)

    def names(self, slot: Slot) -> bool:
        """Tell whether the rule is about this parameter by name, not by kind or role."""
        assert isinstance(self.match, Match)
        return self.match.names(slot)

    def distribution(self, slot: Slot) -> Distribution:
        """Return what this rule promises for a parameter.

        Args:
            slot: The parameter and its place.

        Returns:
            The distribution.

        Raises:
            TypeError: If the rule's function returns something else.
            ValueError: If the parts of a `Stacked` do not add up to the parameter's size, or values
                are computed for another shape.
        """
        promised = self.fill if isinstance(self.fill, DISTRIBUTIONS) else None
        if promised is None and callable(self.fill):
            promised = self.fill(slot)
        if not isinstance(promised, DISTRIBUTIONS):
            raise TypeError(
                f"initstats.Rule: expected rule {self.label!r} to give a distribution, "
                f"got {promised!r} for name={slot.name!r}"
            )
        if isinstance(promised, Stacked):
            have = slot.parameter.shape[promised.dim]
            if sum(part.size for part in promised.parts) != have:
                raise ValueError(
                    f"initstats.Rule: expected the parts of rule {self.label!r} to add up to "
                    f"{have}, got {[part.size for part in promised.parts]} for name={slot.name!r}"
                )
        self._check_shapes(promised, slot)
        return promised

    def _check_shapes(self, promised: Distribution, slot: Slot) -> None:
        """Refuse values that are computed for another shape, and slices of missing dimensions."""
        shape = tuple(slot.parameter.shape)
        found: list[tuple[Distribution, tuple[int, ...]]] = [(promised, shape)]
        if isinstance(promised, Stacked):
            dim = promised.dim % len(shape)
            found = [
                (part.distribution, (*shape[:dim], part.size, *shape[dim + 1 :]))
                for part in promised.parts
            ]
        elif isinstance(promised, Slices):
            if max(promised.dims) >= len(shape):
                raise ValueError(
                    f"initstats.Rule: expected rule {self.label!r} to slice dimensions of "
                    f"{shape}, got dims={promised.dims} for name={slot.name!r}"
                )
            rest = tuple(n for dim, n in enumerate(shape) if dim not in promised.dims)
            found = [(promised.each, rest)]
        for each, size in found:
            if isinstance(each, Computed) and each.shape != size:
                raise ValueError(
                    f"initstats.Rule: expected rule {self.label!r} to compute values of shape "
                    f"{size}, got shape={each.shape} for name={slot.name!r}"
                )


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules. The first rule that matches a parameter takes it.

    Args:
        rules: The rules, most specific first.
        name: Name of the recipe, shown in plans and receipts.
        source: Where the numbers come from.
        partial: The recipe is for some layers only (adapters, a new head): parameters that no rule
            takes are left as they are, without an error.

    Raises:
        ValueError: If there are no rules.
        TypeError: If an element is not a `Rule`.
    """

    rules: Sequence[Rule]
    name: str = "custom"
    source: str = ""
    partial: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules:
            raise ValueError("initstats.Recipe: expected at least one rule, got rules=[]")
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"initstats.Recipe: expected Rule objects, got rules={rule!r}")

    def made_by(self, make: Callable[..., Recipe], options: dict[str, Any]) -> Recipe:
        """Remember the call that made the recipe, by which its rules pickle, and return it.

        Args:
            make: An importable function that makes the recipe.
            options: Its keyword arguments.

        Returns:
            This recipe.
        """
        for index, rule in enumerate(self.rules):
            vars(rule)["_made_by"] = (make, options, index)
        return self

    def scaled(self, factor: float | Callable[[Slot], float], match: Match | None = None) -> Recipe:
        """Return the recipe with other standard deviations.

        For a larger variance before pruning, for gains on skip connections, or for attention
        outputs divided by the root of the number of heads. Constants stay as they are.

        Args:
            factor: Finite and > 0; a number, or a function from the parameter's `Slot` to one.
            match: Which parameters; all when None.

        Returns:
            A new recipe with the same rules in the same order.

        Raises:
            ValueError: If a number is not finite and > 0; of a function when it is used.

        Determinism: bitwise. The same seed gives the same numbers, times the factor up to rounding.
        """
        if not callable(factor):
            _check_factor(factor)
        rules = [
            Rule(rule.match, _Scaled(rule, factor, match), rule.label, rule.optional)
            for rule in self.rules
        ]
        return Recipe(rules, f"{self.name}, scaled", self.source, self.partial)


def _rule_of(make: Callable[..., Recipe], options: dict[str, Any], index: int) -> Rule:
    """Make a recipe again and return one of its rules."""
    return make(**options).rules[index]


class _Scaled:
    """The fill of a rule with other standard deviations."""

    def __init__(
        self, rule: Rule, factor: float | Callable[[Slot], float], match: Match | None
    ) -> None:
        self._rule, self._factor, self._match = rule, factor, match
        by = f"{factor:g}" if not callable(factor) else "a factor of the parameter"
        self.__doc__ = f"{rule.promise}, times {by}"

    def __call__(self, slot: Slot) -> Distribution:
        promised = self._rule.distribution(slot)
        if self._match is not None and self._match.explain(slot) is None:
            return promised
        factor = self._factor(slot) if callable(self._factor) else self._factor
        _check_factor(factor)
        return promised.scaled(factor)


def _check_factor(factor: float) -> None:
    """Refuse a factor that is not a finite number > 0."""
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(
            f"initstats.Recipe.scaled: expected factor finite and > 0, got factor={factor}"
        )
