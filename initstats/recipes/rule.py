"""Rules and recipes: conditions on parameters, and the distributions that fill them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import nn

from initstats.recipes.distributions.composite import (
    DISTRIBUTIONS,
    Distribution,
    Slices,
    Stacked,
)
from initstats.recipes.distributions.computed import Computed
from initstats.recipes.distributions.half_basis import HalfBasis
from initstats.recipes.match import Match
from initstats.recipes.multipliers import PLAIN, Forward, ForwardRule, Multipliers, MultipliersLike
from initstats.recipes.optimizer_groups import Hyperparameters, make_groups
from initstats.recipes.parameters import Slot, slots
from initstats.recipes.roles import check_roles
from initstats.recipes.stages import Depth, Names
from initstats.recipes.width import Base

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
        multipliers: What learning rate, weight decay and the like of the parameters are multiplied
            with (`Recipe.param_groups`), or a function from the parameter's `Slot` and the name of
            the optimizer to that.

    Raises:
        TypeError: If `match`, `fill` or `multipliers` is of another kind.
    """

    match: Match | str
    fill: Fill
    label: str = ""
    optional: bool = False
    multipliers: MultipliersLike = PLAIN

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
        if not (isinstance(self.multipliers, Multipliers) or callable(self.multipliers)):
            raise TypeError(
                "initstats.Rule: expected Multipliers or a function from Slot and optimizer to "
                f"them, got multipliers={self.multipliers!r}"
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
        by_value = isinstance(self.fill, DISTRIBUTIONS) and isinstance(
            self.multipliers, Multipliers
        )
        if made_by is not None and not by_value:
            return _rule_of, made_by
        return Rule, (self.match, self.fill, self.label, self.optional, self.multipliers)

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
            if isinstance(each, HalfBasis) and size[each.dim : each.dim + 1] != (each.rank,):
                raise ValueError(
                    f"initstats.Rule: expected rule {self.label!r} to give {each.rank} for "
                    f"dimension {each.dim} of {size}, got rank={each.rank} for name={slot.name!r}"
                )

    def multipliers_of(self, slot: Slot, optimizer: str = "adamw") -> Multipliers:
        """Return the multipliers of a parameter.

        Args:
            slot: The parameter and its place.
            optimizer: "adamw", "adam", "sgd" or "muon".

        Returns:
            The multipliers.

        Raises:
            TypeError: If the rule's function returns something else.
        """
        if isinstance(self.multipliers, Multipliers):
            return self.multipliers
        found = self.multipliers(slot, optimizer)
        if not isinstance(found, Multipliers):
            raise TypeError(
                f"initstats.Rule: expected rule {self.label!r} to give Multipliers, got {found!r} "
                f"for name={slot.name!r}"
            )
        return found


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules. The first rule that matches a parameter takes it.

    Args:
        rules: The rules, most specific first.
        name: Name of the recipe, shown in plans and receipts.
        source: Where the numbers come from.
        partial: The recipe is for some layers only (adapters, a new head): parameters that no rule
            takes are left as they are, without an error.
        base: The narrower model whose hyperparameters are transferred: `slot.width_mult` compares
            with it. None: the model is its own base.
        forward: The multipliers that the model must apply itself, from all its parameters.

    Raises:
        ValueError: If there are no rules.
        TypeError: If an element is not a `Rule`.
    """

    rules: Sequence[Rule]
    name: str = "custom"
    source: str = ""
    partial: bool = False
    base: Base | None = None
    forward: ForwardRule | None = None

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
        vars(self)["_made_by"] = (make, options)
        return self

    def __reduce__(self) -> tuple[Callable[..., Recipe], tuple[object, ...]]:
        """Pickle a built-in recipe with forward multipliers by its call, others by value."""
        made_by = vars(self).get("_made_by")
        if made_by is not None and self.forward is not None:
            return _recipe_of, made_by
        values = (self.rules, self.name, self.source, self.partial, self.base, self.forward)
        return Recipe, values

    def with_base(self, base: Base) -> Recipe:
        """Return the same recipe for models that are compared with another base.

        Args:
            base: The base.

        Returns:
            A new recipe with the same rules.
        """
        return replace(self, base=base)

    def matches(self, slot: Slot) -> list[tuple[int, str]]:
        """Return number and reason of every rule that matches a parameter; the first takes it."""
        explained = ((index, rule.explain(slot)) for index, rule in enumerate(self.rules))
        return [(index, why) for index, why in explained if why is not None]

    def param_groups(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float = 0.0,
        optimizer: str = "adamw",
        eps: float | None = None,
        other_lr: float | None = None,
        roles: Mapping[str, str] | None = None,
        names: Names | None = None,
        depth: Depth | None = None,
        allow_unmatched: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the groups of an optimizer, with the multipliers of this recipe in them.

        A tied parameter is in one group, frozen parameters are in none. Parameters with the same
        numbers share a group, whose `param_names` are their names.

        Args:
            model: Any module.
            lr: Learning rate at the base, finite and > 0.
            weight_decay: Weight decay at the base, finite and >= 0.
            optimizer: "adamw", "adam", "sgd", or "muon": groups then say `use_muon`, True for
                matrices between layers whose both sides grow (for `torch.optim.Muon`), False for
                the rest (for AdamW).
            eps: Adam's epsilon at the base, > 0; 1e-8 where the recipe multiplies it, else the
                optimizer's own.
            other_lr: With "muon", the learning rate of the rest.
            roles: As in `initstats.plan`.
            names: As in `initstats.plan`.
            depth: As in `initstats.plan`.
            allow_unmatched: Give parameters that no rule takes multipliers of 1.

        Returns:
            One dict per group: `params`, `param_names`, `lr`, `weight_decay`, and `eps` or
            `use_muon` where they apply. Every torch optimizer takes them.

        Raises:
            TypeError: If `model` is no module, or a hyperparameter no number.
            ValueError: If a number is out of range, the optimizer is unknown or one that the recipe
                does not know, a parameter is taken by no rule, or nothing is trained.
        """
        hyper = Hyperparameters(lr, weight_decay, optimizer, eps, other_lr)
        if not isinstance(model, nn.Module):
            raise TypeError(
                "initstats.Recipe.param_groups: expected model to be a torch.nn.Module, "
                f"got model={type(model).__name__}"
            )
        check_roles("Recipe.param_groups", roles)
        found, unmatched = [], []
        for group in slots(
            model, roles, names=names, depth=depth, base=self.base, function="Recipe.param_groups"
        ):
            if not group[0].parameter.requires_grad:
                continue
            taken = next(((s, m[0][0]) for s in group if (m := self.matches(s))), None)
            if taken is None:
                unmatched.append(group[0].name)
                found.append((group[0], PLAIN))
            else:
                slot, index = taken
                found.append((slot, self.rules[index].multipliers_of(slot, optimizer)))
        if unmatched and not (allow_unmatched or self.partial):
            raise ValueError(
                "initstats.Recipe.param_groups: expected a rule for every parameter, got "
                f"unmatched={unmatched} with recipe {self.name!r}; add a rule, or pass "
                "allow_unmatched=True"
            )
        return make_groups(found, hyper)

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
            replace(
                rule,
                fill=_Scaled(rule, factor, match),
                # Methods, because functions inside a recipe's own do not pickle.
                multipliers=rule.multipliers_of if callable(rule.multipliers) else rule.multipliers,
            )
            for rule in self.rules
        ]
        forward = None if self.forward is None else self.forward_multipliers
        return replace(self, rules=rules, name=f"{self.name}, scaled", forward=forward)

    def forward_multipliers(self, groups: Sequence[tuple[Slot, ...]]) -> Sequence[Forward]:
        """Return the multipliers that a model with these parameters must apply itself."""
        return () if self.forward is None else self.forward(groups)


def _recipe_of(make: Callable[..., Recipe], options: dict[str, Any]) -> Recipe:
    """Make a recipe again."""
    return make(**options)


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
