"""Parts of a model, such as pipeline stages: global names, and the depth of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

Names: TypeAlias = Mapping[str, str] | Callable[[str], str]
Depth: TypeAlias = int | Mapping[str, int]

_DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
CONFIGS = ("config", "model_args", "args")


@dataclass(frozen=True)
class Place:
    """The block that a parameter is in.

    Attributes:
        block: Index from 0 in the whole stack; None outside stacks, or if it is not known.
        blocks: Number of blocks of the whole stack; None outside stacks, or if it is not known.
        cut: Why the number of blocks of the whole is not known, in words; empty where it is.
    """

    block: int | None = None
    blocks: int | None = None
    cut: str = ""


@dataclass(frozen=True)
class Stack:
    """Blocks that the signal passes in turn, as the local model holds them.

    Attributes:
        blocks: Their names in the container.
        children: The names of all children of the container.
        stated: The number of blocks that the owner of the container states; None if it does not.
    """

    blocks: Sequence[str]
    children: Sequence[str]
    stated: int | None

    @property
    def is_numbered_with_gaps(self) -> bool:
        """Tell whether the names are numbers, and not those from 0 on."""
        digits = all(name.isdigit() for name in self.children)
        return digits and [int(name) for name in self.children] != list(range(len(self.children)))

    @property
    def cut(self) -> str:
        """Why this seems to be a part of a stack; empty where nothing tells."""
        if self.is_numbered_with_gaps:
            return f"its blocks are {self.blocks[0]} to {self.blocks[-1]}"
        if self.stated is not None and self.stated > len(self.children):
            return f"it holds {len(self.children)} blocks and states {self.stated}"
        return ""


def stated_depth(parents: Sequence[nn.Module]) -> int | None:
    """Return the number of blocks that the nearest module states, itself or in its configuration.

    Args:
        parents: The modules from the model down to the container of the blocks.
    """
    for module in reversed(parents):
        own = vars(module)
        configs = [vars(c) for c in map(own.get, CONFIGS) if hasattr(c, "__dict__")]
        for values in (own, *configs):
            for name in _DEPTHS:
                value = values.get(name)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
    return None


def global_names(function: str, local: Sequence[str], names: Names | None) -> dict[str, str]:
    """Return the name in the whole model of each local parameter.

    Args:
        function: Public function on whose behalf this is done, for messages.
        local: Names of all parameters, as in `named_parameters`.
        names: A function from local names; or global names by local ones, of parameters or of
            modules, the longest deciding; names that it does not mention are global. None: all are.

    Raises:
        TypeError: If names is neither, or gives something else than text.
        ValueError: If two parameters get one name, or a local name is none of the model.
    """
    if names is None:
        return dict(zip(local, local, strict=True))
    if isinstance(names, Mapping):
        _check_known(function, local, names)
        found: dict[str, Any] = {name: _renamed(name, names) for name in local}
    elif callable(names):
        found = {name: names(name) for name in local}
    else:
        raise TypeError(
            f"initstats.{function}: expected names to be a mapping or a function, got "
            f"names={names!r}"
        )
    owners: dict[str, str] = {}
    for name, full in found.items():
        if not isinstance(full, str):
            raise TypeError(
                f"initstats.{function}: expected names to give text, got {full!r} for {name!r}"
            )
        if owners.setdefault(full, name) != name:
            raise ValueError(
                f"initstats.{function}: expected a global name for every parameter, got {full!r} "
                f"for {owners[full]!r} and {name!r}"
            )
    return found


def _check_known(function: str, local: Sequence[str], names: Mapping[str, str]) -> None:
    for key in names:
        if not any(name == key or name.startswith(f"{key}.") for name in local):
            raise ValueError(
                f"initstats.{function}: expected names of parameters or modules of the model in "
                f"names, got {key!r}"
            )


def _renamed(name: str, names: Mapping[str, str]) -> Any:
    """Return a name with its longest known beginning replaced."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        known: Any = names.get(".".join(parts[:n]))
        if known is not None:  # text is checked for by the caller
            return ".".join([known, *parts[n:]]) if isinstance(known, str) else known
    return name


def check_depth(function: str, depth: Depth | None) -> None:
    """Refuse a depth that is neither an integer >= 1 nor a mapping to such.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If it is < 1.
    """
    if depth is None:
        return
    for value in depth.values() if isinstance(depth, Mapping) else (depth,):
        if type(value) is not int:
            raise TypeError(
                f"initstats.{function}: expected depth to be a number of blocks, or such by the "
                f"path of the stack, got depth={depth!r}"
            )
        if value < 1:
            raise ValueError(f"initstats.{function}: expected depth >= 1, got depth={depth!r}")


def depth_of(path: str, depth: Depth | None) -> int | None:
    """Return the depth that is given for the stack of a global path."""
    if not isinstance(depth, Mapping):
        return depth
    return next((n for pattern, n in depth.items() if fnmatchcase(path, pattern)), None)


def place(
    local: str, name: str, stacks: Mapping[str, Stack], *, renamed: bool, depth: Depth | None
) -> Place:
    """Return the block that a parameter is in, of the outermost stack that holds it.

    Args:
        local: Its name in the local model.
        name: Its name in the whole model.
        stacks: The stacks of the local model, by path.
        renamed: Names were given: the local model is a part.
        depth: Number of blocks of the whole.

    Raises:
        ValueError: If the number of the block does not fit the depth.
    """
    parts = local.split(".")
    for i, part in enumerate(parts):
        stack = stacks.get(".".join(parts[:i]))
        if stack is None or part not in stack.blocks:
            continue
        index, own = stack.blocks.index(part), len(stack.blocks)
        above = name.removesuffix("." + ".".join(parts[i + 1 :]))
        path, _, number = above.rpartition(".")
        total = depth_of(path, depth)
        by_name = renamed or (stack.is_numbered_with_gaps and total != own)
        known = index if not by_name else int(number) if number.isdigit() else None
        if total is None and not renamed and not stack.cut:
            return Place(index, own)
        cut = stack.cut or "names= were given"
        if total is None:
            return Place(known if by_name else None, None, cut)
        if known is None:
            return Place(None, total, f"{above!r} does not end in the number of a block")
        if own > total or known >= total:
            raise ValueError(
                f"initstats.plan: expected depth to be the number of blocks of the whole stack, "
                f"got depth={total} with {own} blocks here, among them block {known} ({name})"
            )
        if own < total and not by_name:
            return Place(None, total, "its blocks are numbered from 0; give names=")
        return Place(known, total)
    return Place()
