"""Experts from a dense MLP: a copy in each, whole or with some hidden units drawn anew."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch

from initstats.init.random import normal_, uniform_
from initstats.planning.growth import Grown, whole, working_dtype
from initstats.recipes import Slot
from initstats.recipes.experts import is_bank
from initstats.recipes.library.building import require_choice

_FUNCTION = "warm_start_"
# Layers of an MLP by what they do, in transformers, torchtitan, Megatron-LM, GPT-2 and T5.
_PARTS = {
    "gate": ("gate_proj", "w1", "w1_EFD", "wi_0"),
    "up": ("up_proj", "w3", "w3_EFD", "wi_1"),
    "in": ("fc1", "c_fc", "lin1", "linear1", "linear_fc1", "dense_h_to_4h", "fc_in", "wi"),
    "packed": ("gate_up_proj",),
    "down": (
        *("down_proj", "w2", "w2_EDF", "fc2", "c_proj", "lin2", "linear2", "linear_fc2"),
        *("dense_4h_to_h", "fc_out", "wo"),
    ),
}
_EXPERTS = re.compile(r"^(?P<moe>.+)\.experts\.(?:(?P<index>\d+)\.)?(?P<layer>[^.]+)(?P<rest>.*)$")


class _Place(NamedTuple):
    """Where a parameter of experts stands.

    Attributes:
        moe: Path of the layer that holds the experts.
        expert: Index of the expert; None for a bank of all.
        part: What its layer does: a key of `_PARTS`.
        is_bias: It is a bias.
    """

    moe: str
    expert: int | None
    part: str
    is_bias: bool


def upcycled_experts(
    method: str | None,
    redrawn: float,
    groups: Sequence[tuple[Slot, ...]],
    values: Collection[str],
    dense: Mapping[str, torch.Tensor],
) -> dict[str, Grown]:
    """Plan the parameters of experts that come from a dense MLP.

    Args:
        method: "copy", or None for nothing.
        redrawn: Share of the hidden units of each expert that are drawn anew, in [0, 1].
        groups: The parameters of the model, tied names together.
        values: Names of the model that have values already; experts among them stay.
        dense: What else it has, by name in the model's spelling.

    Returns:
        What is made, by name, of the experts without values.

    Raises:
        TypeError: If `redrawn` is no number.
        ValueError: If an option is out of range, no experts are without values, the checkpoint has
            not exactly one layer of a dense MLP for one, or its size is another.

    Source: Komatsuzaki et al. 2023, "Sparse Upcycling"; Nakamura et al. 2025, "Drop-Upcycling",
        and its `conversions/drop_upcycling.py`, a99f203.
    """
    _require_share(redrawn)
    if method is None:
        if redrawn:
            raise ValueError(
                f"initstats.{_FUNCTION}: expected new_experts='copy' with redrawn, got "
                f"new_experts=None, redrawn={redrawn}"
            )
        return {}
    require_choice(_FUNCTION, "new_experts", method, ("copy",))
    grown = {}
    for group in groups:
        slot = group[0]
        place = None if any(s.name in values for s in group) else _place(slot)
        if place is None:
            continue
        parts = _dense_parts(place, slot, dense)
        if parts:
            grown[slot.name] = _copies(place, slot, parts, dense, redrawn)
    if not grown:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected experts that state_dict does not have for "
            f"new_experts={method!r}, got none"
        )
    return grown


def _require_share(redrawn: object) -> None:
    """Refuse what is no share.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not in [0, 1].
    """
    if isinstance(redrawn, bool) or not isinstance(redrawn, Real):
        raise TypeError(
            f"initstats.{_FUNCTION}: expected redrawn to be a number, got redrawn={redrawn!r}"
        )
    if not 0.0 <= float(redrawn) <= 1.0:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected redrawn in [0, 1], got redrawn={redrawn}"
        )


def is_dense_layer(name: str, value: object) -> bool:
    """Tell whether an entry of a checkpoint is a weight or a bias of a layer of an MLP."""
    layer, _, own = name.rpartition(".")
    known = layer.rpartition(".")[2]
    return (
        own in {"weight", "bias"}
        and isinstance(value, (torch.Tensor, np.ndarray))
        and any(known in names for names in _PARTS.values())
    )


def _place(slot: Slot) -> _Place | None:
    """Return where a parameter of experts stands; None for all others."""
    found = _EXPERTS.match(slot.key_name)  # without wrappers, like the names of dense layers
    if found is None or slot.is_buffer:
        return None
    own = slot.own_name
    is_bias = slot.kind == "bias" or own.endswith("_bias")
    layer = found["layer"].removesuffix("_bias")
    part = next((p for p, names in _PARTS.items() if layer in names), None)
    index = None if found["index"] is None else int(found["index"])
    if part is None:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected experts of known layers "
            f"({', '.join(n for names in _PARTS.values() for n in names)}), got {slot.name}"
        )
    return _Place(found["moe"], index, part, is_bias)


def _dense_parts(place: _Place, slot: Slot, dense: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the dense layers that an expert's is made of, gate before up.

    Returns:
        The names; none for the bias of a layer that has none in the checkpoint.

    Raises:
        ValueError: If the checkpoint has none, or several.
    """
    block = place.moe.rpartition(".")[0]
    wanted = [place.part]
    if place.part == "packed" and not _found(block, "packed", place, dense):
        wanted = ["gate", "up"]
    names = []
    for part in wanted:
        found = _found(block, part, place, dense)
        if place.is_bias and not found:
            return []
        if len(found) != 1:
            raise ValueError(
                f"initstats.{_FUNCTION}: expected one dense layer of state_dict in "
                f"{block or 'the model'} for {slot.name}, named {' or '.join(_PARTS[part])}, got "
                f"{', '.join(found) or 'none'}"
            )
        names += found
    return names


def _found(block: str, part: str, place: _Place, dense: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the dense layers of a block that do one thing: their weights, or their biases."""
    own = "bias" if place.is_bias else "weight"
    ends = tuple(f".{layer}.{own}" for layer in _PARTS[part])
    start = f"{block}." if block else ""
    return [name for name in dense if name.startswith(start) and f".{name}".endswith(ends)]


def _copies(
    place: _Place,
    slot: Slot,
    parts: Sequence[str],
    dense: Mapping[str, torch.Tensor],
    redrawn: float,
) -> Grown:
    """Plan one parameter of experts.

    Raises:
        ValueError: If the dense layers have another size.
    """
    shape = tuple(slot.parameter.shape)
    layout = _Layout.of(place, slot)
    sides = [tuple(dense[name].shape) for name in parts]
    rows = layout.outputs // len(parts)
    want = (rows,) if place.is_bias else (rows, layout.inputs)
    for name, side in zip(parts, sides, strict=True):
        if side != want and (place.is_bias or side != want[::-1]):
            raise ValueError(
                f"initstats.{_FUNCTION}: expected dense layers of the size of an expert, "
                f"{list(want)} for {slot.name}, got {name}={list(side)}"
            )

    def make(seed: int) -> torch.Tensor:
        matrices = [whole(dense[name]) for name in parts]
        matrices = [x if tuple(x.shape) == want else x.t() for x in matrices]
        if place.part == "packed" and len(matrices) == 1:
            matrices = list(matrices[0].chunk(2))
        if not redrawn:
            return layout.joined(matrices).expand(shape)
        experts = []
        for expert in range(shape[0]) if place.expert is None else (place.expert,):
            key = f"{slot.key_name}[{expert}]"
            found = [
                _redrawn(x, place, expert, redrawn, seed, f"{key}@{label}")
                for label, x in zip(("first", "second"), matrices, strict=False)
            ]
            experts.append(layout.joined(found))
        return torch.stack(experts).view(shape)

    words = f"copies of {' and '.join(parts)}"
    if redrawn:
        words += f", {redrawn:.0%} of the hidden units of each drawn anew"
    return Grown(tuple(parts), words, make)


class _Layout(NamedTuple):
    """How the matrix of one expert is stored.

    Attributes:
        outputs: Rows of the matrix, gate and up together where they are packed.
        inputs: Its columns; 0 of a bias.
        is_transposed: It is stored [inputs, outputs].
        is_interleaved: Rows of gate and up take turns.
    """

    outputs: int
    inputs: int
    is_transposed: bool
    is_interleaved: bool

    @classmethod
    def of(cls, place: _Place, slot: Slot) -> _Layout:
        """Return the layout of a parameter of experts."""
        interleaved = getattr(slot.module, "is_concatenated", True) is False
        sides = tuple(slot.parameter.shape)[1 if place.expert is None else 0 :]
        if place.is_bias:
            return cls(sides[0], 0, is_transposed=False, is_interleaved=interleaved)
        transposed = False
        if is_bank(slot.parameter, slot.role.name, slot.module):
            stated = getattr(slot.module, "is_transposed", None)
            transposed = stated if isinstance(stated, bool) else slot.matrix_shape != sides
        outputs, inputs = sides[::-1] if transposed else sides
        return cls(outputs, inputs, transposed, interleaved)

    def joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return gate and up, or one matrix, as they are stored."""
        found = parts[0]
        if len(parts) > 1:
            found = (
                torch.stack(list(parts), 1).flatten(0, 1)
                if self.is_interleaved
                else torch.cat(list(parts))
            )
        return found.t() if self.is_transposed else found


def _redrawn(
    values: torch.Tensor, place: _Place, expert: int, share: float, seed: int, name: str
) -> torch.Tensor:
    """Return a dense layer with some hidden units drawn from N(mean, std) of what they replace.

    The units are the same in all layers of an expert: rows of gate and up, columns of down.
    """
    dim = 1 if place.part == "down" else 0
    if place.is_bias and place.part == "down":  # one number per output, none per hidden unit
        return values
    units = f"{place.moe}.experts[{expert}]@units"
    chosen = _units(values.shape[dim], share, seed, units).to(values.device)
    if not len(chosen):
        return values
    found = values.to(working_dtype(values)).clone()
    old = found.index_select(dim, chosen)
    std = old.std() if old.numel() > 1 else old.new_zeros(())
    new = normal_(torch.empty_like(old), seed=seed, name=name)
    return found.index_copy_(dim, chosen, old.mean() + std * new)


def _units(count: int, share: float, seed: int, name: str) -> torch.Tensor:
    """Return the indices of a share of units, rounded down."""
    u = uniform_(torch.empty(count, dtype=torch.float64, device="cpu"), seed=seed, name=name)
    return u.argsort()[: math.floor(count * share)].sort().values
