"""More blocks than a checkpoint has: copies of its blocks that start as the identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from initstats.planning.fitting import without_wrappers
from initstats.recipes import Slot
from initstats.recipes.library.building import RESIDUAL, require_choice
from initstats.recipes.parameters import stack_blocks

NewBlocks = str | Mapping[str, Sequence[int]]
_FUNCTION = "warm_start_"


@dataclass(frozen=True)
class Expansion:
    """Where the blocks of a deeper model come from.

    Attributes:
        names: Names in the checkpoint by name in the model: what `spelt` was, with the new blocks.
        zeroed: Parameters that are 0, so that a copied block adds nothing, and why, in words.
        copied: Parameters of other blocks than in the checkpoint, and which, in words.
        stacks: Paths of the stacks that grew.
    """

    names: dict[str, str]
    zeroed: dict[str, str]
    copied: dict[str, str]
    stacks: tuple[str, ...]


def expanded_blocks(
    model: nn.Module,
    how: NewBlocks | None,
    groups: Sequence[tuple[Slot, ...]],
    spelt: Mapping[str, str],
) -> Expansion:
    """Find the block of a checkpoint that each block of a deeper model is.

    Args:
        model: The model.
        how: "identity" for a copy after every n-th block, n the number of blocks in the checkpoint
            over that of new ones; or the index in the checkpoint of every block, by path of the
            stack or a pattern of it. None for nothing.
        groups: The parameters of the model, tied names together.
        spelt: Names in the checkpoint by name in the model's spelling.

    Returns:
        What comes from where.

    Raises:
        TypeError: If `how` holds something else than indices.
        ValueError: If `how` is unknown, fits no stack that is deeper than in the checkpoint, leaves
            out or swaps blocks, new blocks cannot be spread evenly, or a copied block has no layer
            that writes to the residual stream.

    Source: Wu et al. 2024, "LLaMA Pro: Progressive LLaMA with Block Expansion"; LLaMA-Pro
        `scripts/block_expansion.py`, 492e07e.
    """
    if isinstance(how, str):
        require_choice(_FUNCTION, "new_blocks", how, ("identity",))
    elif how is not None and not isinstance(how, Mapping):
        raise TypeError(
            f"initstats.{_FUNCTION}: expected new_blocks to be 'identity' or the blocks of each "
            f"stack by its path, got new_blocks={how!r}"
        )
    names = dict(spelt)
    if how is None:
        return Expansion(names, {}, {}, ())
    roles = {s.name: s.role.name for group in groups for s in group if not s.is_buffer}
    expansion = Expansion(names, {}, {}, ())
    for path, module in model.named_modules():
        blocks, old = list(stack_blocks(module)), _count(expansion.names, path)
        if not old or len(blocks) <= old or blocks != [str(i) for i in range(len(blocks))]:
            continue
        sources = _sources(how, path, old, len(blocks))
        if sources is not None:
            expansion = _expanded(expansion, path, sources, roles)
    if not expansion.stacks:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected a stack of more blocks than in state_dict for "
            f"new_blocks={how!r}, got none"
        )
    return expansion


def _expanded(
    before: Expansion, path: str, sources: Sequence[int], roles: Mapping[str, str]
) -> Expansion:
    """Return an expansion with one more stack.

    Args:
        before: The stacks above.
        path: Path of the stack.
        sources: Index in the checkpoint of each block.
        roles: Roles of all parameters by name.

    Raises:
        ValueError: If a copied block has no layer that writes to the residual stream.
    """
    zeroed, copied = dict(before.zeroed), dict(before.copied)
    names = _moved(before.names, path, sources)
    if without_wrappers(path) != path:  # names that the model does not have are without wrappers
        names = _moved(names, without_wrappers(path), sources)
    for new, source in enumerate(sources):
        at = _join(path, new)
        is_copy = source in sources[:new]
        closed = [n for n in roles if n.startswith(at) and roles[n] in RESIDUAL and is_copy]
        if is_copy and not closed:
            raise ValueError(
                f"initstats.{_FUNCTION}: expected layers that write to the residual stream in "
                f"{at[:-1]}, got none with the roles {' or '.join(RESIDUAL)}; name them with roles="
            )
        zeroed |= dict.fromkeys(closed, f"0 in a copy of block {source}")
        if source != new:
            inside = [name for name in names if name.startswith(at)]
            copied |= dict.fromkeys(inside, f"of block {source}")
    return Expansion(names, zeroed, copied, (*before.stacks, path))


def require_complete(
    expansion: Expansion, known: set[str], groups: Sequence[tuple[Slot, ...]], *, routers: bool
) -> None:
    """Refuse a deeper stack with parameters that the checkpoint does not give.

    Args:
        expansion: What comes from where.
        known: Names of what has values.
        groups: The parameters of the model, tied names together.
        routers: The experts of the model are new, and so are its routers.

    Raises:
        ValueError: Naming the first parameter.
    """
    for group in groups:
        if any(slot.name in known for slot in group) or group[0].is_buffer:
            continue
        slot = group[0]
        if routers and slot.role.name == "router":
            continue
        if any(slot.name.startswith(_join(path)) for path in expansion.stacks):
            raise ValueError(
                f"initstats.{_FUNCTION}: expected blocks like those of state_dict for new_blocks, "
                f"got {slot.name}, for which it has nothing of shape "
                f"{tuple(slot.parameter.shape)}"
            )


def _join(path: str, block: int | None = None) -> str:
    """Return the beginning of names inside a stack, or a block of it."""
    inner = "" if block is None else f"{block}."
    return f"{path}.{inner}" if path else inner


def _count(names: Mapping[str, str], path: str) -> int:
    """Return the number of blocks that a checkpoint has of a stack, numbered from 0 on, or 0."""
    start = _join(path)
    found = {
        name[len(start) :].partition(".")[0]
        for name in names
        if name.startswith(start) and "." in name[len(start) :]
    }
    return len(found) if found == {str(i) for i in range(len(found))} else 0


def _sources(how: NewBlocks, path: str, old: int, new: int) -> list[int] | None:
    """Return the index in the checkpoint of each block; None for a stack that is not meant."""
    if isinstance(how, str):
        added = new - old
        if old % added:
            raise ValueError(
                f"initstats.{_FUNCTION}: expected a number of new blocks that divides the {old} of "
                f"state_dict, got {added} in {path or 'the model'}; give their sources with "
                f"new_blocks={{{path!r}: [0, 0, 1, ...]}}"
            )
        each = old // added
        return [i for i in range(old) for _ in range(2 if (i + 1) % each == 0 else 1)]
    given = next((how[p] for p in how if fnmatchcase(path, p)), None)
    if given is None:
        return None
    if any(type(i) is not int for i in given):
        raise TypeError(
            f"initstats.{_FUNCTION}: expected indices of blocks for {path!r}, got {list(given)}"
        )
    if list(given) != sorted(given) or set(given) != set(range(old)) or len(given) != new:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected {new} blocks for {path!r}, each of the {old} in "
            f"state_dict once or more and in order, got {list(given)}"
        )
    return list(given)


def _moved(names: Mapping[str, str], path: str, sources: Sequence[int]) -> dict[str, str]:
    """Return the names with those of each block taken from its source."""
    start = _join(path)
    inside: dict[str, list[tuple[str, str]]] = {}
    for name, origin in names.items():
        block, _, rest = name[len(start) :].partition(".")
        if name.startswith(start) and block.isdigit():
            inside.setdefault(block, []).append((rest, origin))
    others = {
        name: origin
        for name, origin in names.items()
        if not (name.startswith(start) and name[len(start) :].partition(".")[0].isdigit())
    }
    moved = {
        f"{_join(path, new)}{rest}": origin
        for new, source in enumerate(sources)
        for rest, origin in inside.get(str(source), ())
    }
    return others | moved
