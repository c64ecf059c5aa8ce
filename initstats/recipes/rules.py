"""Rules and recipes: which parameters a rule takes, and what it promises to put there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

from torch import nn

from initstats.recipes.distributions import Constant, Distribution, Normal, Uniform
from initstats.recipes.slots import Slot

ModuleKind: TypeAlias = type[nn.Module] | str
Fill: TypeAlias = Distribution | Callable[[Slot], Distribution]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Match:
    """A condition on a parameter: its name and the class of the module that owns it.

    Args:
        name: Glob pattern or patterns on the full parameter name; `*` also spans dots.
        module: Class or classes of the owner, subclasses included. A string is compared with the
            names of the owner's class and its bases, so that a class of a library that may be
            absent can be named. Empty means any module.

    Raises:
        TypeError: If a pattern is no string or a module kind is neither a class nor a string.
    """

    name: str | tuple[str, ...] = "*"
    module: ModuleKind | tuple[ModuleKind, ...] = ()

    def __post_init__(self) -> None:
        for pattern in _as_tuple(self.name):
            if not isinstance(pattern, str):
                raise TypeError(f"initstats.Match: expected name patterns, got name={pattern!r}")
        for kind in _as_tuple(self.module):
            if not isinstance(kind, (str, type)):
                raise TypeError(
                    f"initstats.Match: expected module classes or their names, got module={kind!r}"
                )

    def explain(self, slot: Slot) -> str | None:
        """Say why a parameter matches.

        Args:
            slot: The parameter and its place.

        Returns:
            The reason in words, or None when the parameter does not match.
        """
        pattern = next((p for p in _as_tuple(self.name) if fnmatchcase(slot.name, p)), None)
        if pattern is None:
            return None
        reasons = [] if pattern == "*" else [f"name matches {pattern}"]
        kinds = _as_tuple(self.module)
        if kinds:
            kind = next((k for k in kinds if _is_kind(slot.module, k)), None)
            if kind is None:
                return None
            reasons.append(f"module is {_kind_name(kind)}")
        return ", ".join(reasons) or "takes every parameter"

    def __str__(self) -> str:
        names = " or ".join(map(str, _as_tuple(self.name)))
        kinds = " or ".join(_kind_name(kind) for kind in _as_tuple(self.module))
        return f"{names} of {kinds}" if kinds else names


@dataclass(frozen=True)
class Rule:
    """What to put into the parameters that match.

    Args:
        match: The condition, or a glob pattern on the parameter name.
        fill: The distribution, or a function from the parameter's `Slot` to one, for rules that
            depend on shape or depth; the first line of its docstring is shown in lists of rules.
        label: Short name of the rule, shown in plans; the pattern when empty.

    Raises:
        TypeError: If `match` or `fill` is of another kind.
    """

    match: Match | str
    fill: Fill
    label: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.match, str):
            object.__setattr__(self, "match", Match(self.match))
        if not isinstance(self.match, Match):
            raise TypeError(
                f"initstats.Rule: expected a Match or a name pattern, got match={self.match!r}"
            )
        if not (isinstance(self.fill, (Normal, Uniform, Constant)) or callable(self.fill)):
            raise TypeError(
                "initstats.Rule: expected a distribution or a function from Slot to one, "
                f"got fill={self.fill!r}"
            )
        if not self.label:
            object.__setattr__(self, "label", " | ".join(_as_tuple(self.match.name)))

    @property
    def condition(self) -> str:
        """What the rule takes, in words."""
        return str(self.match)

    @property
    def promise(self) -> str:
        """What the rule puts there, in words: of a function the first line of its docstring."""
        if isinstance(self.fill, (Normal, Uniform, Constant)):
            return str(self.fill)
        return (self.fill.__doc__ or "depends on the parameter").partition("\n")[0]

    def explain(self, slot: Slot) -> str | None:
        """Say why this rule takes a parameter, or return None when it does not."""
        assert isinstance(self.match, Match)  # __post_init__ made it so
        return self.match.explain(slot)

    def distribution(self, slot: Slot) -> Distribution:
        """Return what this rule promises for a parameter.

        Args:
            slot: The parameter and its place.

        Returns:
            The distribution.

        Raises:
            TypeError: If the rule's function returns something else.
        """
        promised = self.fill if isinstance(self.fill, (Normal, Uniform, Constant)) else None
        if promised is None and callable(self.fill):
            promised = self.fill(slot)
        if not isinstance(promised, (Normal, Uniform, Constant)):
            raise TypeError(
                f"initstats.Rule: expected rule {self.label!r} to give a distribution, "
                f"got {promised!r} for name={slot.name!r}"
            )
        return promised


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules. The first rule that matches a parameter takes it.

    Args:
        rules: The rules, most specific first.
        name: Name of the recipe, shown in plans and receipts.
        source: Where the numbers come from.

    Raises:
        ValueError: If there are no rules.
        TypeError: If an element is not a `Rule`.
    """

    rules: Sequence[Rule]
    name: str = "custom"
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules:
            raise ValueError("initstats.Recipe: expected at least one rule, got rules=[]")
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"initstats.Recipe: expected Rule objects, got rules={rule!r}")


def _kind_name(kind: object) -> str:
    """Return the name of a module class that is given as class or as name."""
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _as_tuple(value: _T | tuple[_T, ...]) -> tuple[_T, ...]:
    """Return a tuple as it is and anything else as a tuple of one."""
    return value if isinstance(value, tuple) else (value,)


def _is_kind(module: nn.Module, kind: object) -> bool:
    """Tell whether a module is of a class, or of a class of that name."""
    if isinstance(kind, str):
        return any(base.__name__ == kind for base in type(module).__mro__)
    return isinstance(kind, type) and isinstance(module, kind)
