"""Conditions on a parameter: name, class of the owner, role, kind and place in the stack."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

from torch import nn

from initstats.recipes.parameters import Slot
from initstats.recipes.roles import ROLES
from initstats.text import nearest

ModuleKind: TypeAlias = type[nn.Module] | str
_T = TypeVar("_T")


@dataclass(frozen=True)
class Match:
    """A condition on a parameter: its name and the class of the module that owns it.

    Args:
        name: Glob pattern or patterns on the full parameter name; `*` also spans dots.
        module: Class or classes of the owner, subclasses included. A string is compared with the
            names of the owner's class and its bases, so that a class of a library that may be
            absent can be named. Empty means any module.
        role: Role or roles (`initstats.recipes.ROLES`). Empty means any role.
        kind: "weight" or "bias"; empty means both.
        blocks: First and last block of a stack, both included; negative ones count from the end.
            None means any place, also outside stacks.

    Raises:
        TypeError: If a pattern is no string or a module kind is neither a class nor a string.
        ValueError: If a role or a kind does not exist.
    """

    name: str | tuple[str, ...] = "*"
    module: ModuleKind | tuple[ModuleKind, ...] = ()
    role: str | tuple[str, ...] = ()
    kind: str = ""
    blocks: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for pattern in _as_tuple(self.name):
            if not isinstance(pattern, str):
                raise TypeError(f"initstats.Match: expected name patterns, got name={pattern!r}")
        for kind in _as_tuple(self.module):
            if not isinstance(kind, (str, type)):
                raise TypeError(
                    f"initstats.Match: expected module classes or their names, got module={kind!r}"
                )
        for role in _as_tuple(self.role):
            if role not in ROLES:
                raise ValueError(
                    f"initstats.Match: expected roles among {', '.join(ROLES)}, got role={role!r}"
                    f"{nearest(role, ROLES)}"
                )
        if self.kind not in {"", "weight", "bias"}:
            raise ValueError(
                f'initstats.Match: expected kind "weight" or "bias", got kind={self.kind!r}'
            )

    def explain(self, slot: Slot) -> str | None:
        """Say why a parameter matches.

        Buffers and parameters with numbers of their own (`SPECIAL`) match only a name pattern that
        spells them out, or a role that the user gave them.

        Args:
            slot: The parameter and its place.

        Returns:
            The reason in words, or None when the parameter does not match.
        """
        roles = _as_tuple(self.role)
        if (roles and slot.role.name not in roles) or (self.kind and slot.kind != self.kind):
            return None
        patterns = (p for p in _as_tuple(self.name) if p == "*" or fnmatchcase(slot.name, p))
        pattern = next(patterns, None)
        if pattern is None or (slot.is_special and not self.names(slot)):
            return None
        reasons = [] if pattern == "*" else [f"name matches {pattern}"]
        kinds = _as_tuple(self.module)
        if kinds:
            kind = next((k for k in kinds if _is_kind(slot.module, k)), None)
            if kind is None:
                return None
            reasons.append(f"module is {_kind_name(kind)}")
        if roles:
            reasons.append(f"{slot.role.name} ({slot.role.why})")
        elif self.kind:
            reasons.append(f"a {self.kind}")
        if self.blocks is not None:
            if not self._holds_block(slot):
                return None
            reasons.append(f"block {slot.block} of {slot.blocks}")
        return ", ".join(reasons) or "takes every parameter"

    def names(self, slot: Slot) -> bool:
        """Tell whether a name pattern spells out the layer or the parameter, wildcards aside."""
        if slot.leaf in {"weight", "bias"}:
            return slot.name in _as_tuple(self.name)
        spelt: tuple[str, ...] = (slot.leaf, f"{slot.leaf}.{slot.own_name}")
        if slot.is_entry:  # of a dictionary, which is what has a name
            spelt += (slot.name.split(".")[-2],)
        patterns = (p for p in _as_tuple(self.name) if fnmatchcase(slot.name, p))
        return any(pattern.rstrip("*.").endswith(spelt) for pattern in patterns)

    def _holds_block(self, slot: Slot) -> bool:
        """Tell whether a parameter's block lies in the range.

        Raises:
            ValueError: If the place in the whole stack is not known.
        """
        if slot.cut and self.blocks is not None and (slot.block is None or min(self.blocks) < 0):
            slot.require_place("Match")
        if slot.block is None or self.blocks is None:
            return False
        first, last = (b + (slot.blocks or 0) if b < 0 else b for b in self.blocks)
        return first <= slot.block <= last

    def __str__(self) -> str:
        words = [] if self.name == "*" else [" or ".join(map(str, _as_tuple(self.name)))]
        if self.module:
            words.append("of " + " or ".join(_kind_name(kind) for kind in _as_tuple(self.module)))
        if self.kind:
            words.append(self.kind)
        if self.role:
            words.append("of " + " or ".join(_as_tuple(self.role)))
        if self.blocks is not None:
            words.append(f"in blocks {self.blocks[0]} to {self.blocks[1]}")
        return " ".join(words) or "every parameter"


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
