"""Fills of shards: the local memory of DTensors and of boxes, with its place in the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from initstats.sharding import (
    PLAIN_TYPES,
    Box,
    Piece,
    agreed,
    is_dtensor,
    local_boxes,
    local_tensor,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Shards(NamedTuple):
    """What this rank holds of the tensors of a call.

    Attributes:
        local: The tensors themselves, and the local tensors of DTensors.
        pieces: Of each, its blocks with their boxes in the whole.
    """

    local: list[torch.Tensor]
    pieces: list[tuple[Piece, ...]]


def has_shards(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether one of the tensors is a DTensor."""
    return not set(map(type, tensors)) <= PLAIN_TYPES and any(map(is_dtensor, tensors))


def shards_of(
    function: str, tensors: Sequence[torch.Tensor], boxes: Sequence[Box | None] | None
) -> Shards:
    """Return what this rank holds of DTensors, and of tensors that are blocks of larger ones.

    Raises:
        TypeError: A box that is none, or placements that `local_boxes` refuses.
        ValueError: A box of a DTensor, of other dimensions, or in which the tensor does not lie.
    """
    given = [None] * len(tensors) if boxes is None else boxes
    local, pieces = [], []
    for tensor, box in zip(tensors, given, strict=True):
        if box is not None:
            check_box(function, tensor, box)
        if is_dtensor(tensor):
            local.append(local_tensor(tensor))
            pieces.append(local_boxes(function, tensor))
        else:
            local.append(tensor)
            whole = Box((0,) * tensor.dim(), tuple(tensor.shape)) if box is None else box
            pieces.append((Piece((), whole),))
    return Shards(local, pieces)


def check_box(function: str, tensor: torch.Tensor, box: Box) -> None:
    """Raise unless the tensor is a plain one that lies in the box's whole tensor."""
    if not isinstance(box, Box):
        raise TypeError(f"initstats.{function}: expected box to be an initstats.Box, got {box!r}")
    if is_dtensor(tensor):
        raise ValueError(
            f"initstats.{function}: expected no box with a DTensor, which says where its elements"
            f" lie, got {box}"
        )
    inside = len(box.size) == tensor.dim() and all(
        first + n <= full for first, n, full in zip(box.offset, tensor.shape, box.size, strict=True)
    )
    if not inside:
        raise ValueError(
            f"initstats.{function}: expected a box whose size holds the tensor at its offset,"
            f" got {box} for shape={tuple(tensor.shape)}"
        )


def refuse_in_graph(function: str, tensor: object) -> None:
    """Raise TypeError for a DTensor that is being compiled, whose shard no graph knows."""
    if type(tensor).__name__ == "DTensor":
        raise TypeError(
            f"initstats.{function}: expected a plain tensor inside torch.compile, got a DTensor"
            " (fill it outside)"
        )


def whole_of(function: str, tensor: torch.Tensor, box: Box | None) -> torch.Tensor:
    """Return a tensor with the sizes of the whole: itself, or one on meta for a box."""
    if box is None or not isinstance(tensor, torch.Tensor):
        return tensor
    check_box(function, tensor, box)
    return torch.empty(box.size, dtype=tensor.dtype, device="meta")


def wholes_of(
    function: str, tensors: Sequence[torch.Tensor], boxes: Sequence[Box | None] | None
) -> Sequence[torch.Tensor]:
    """Return `whole_of` each tensor. Raises ValueError for another number of boxes."""
    if boxes is None:
        return tensors
    if len(boxes) != len(tensors):
        raise ValueError(
            f"initstats.{function}: expected one box per tensor, {len(tensors)}, got {len(boxes)}"
        )
    return [whole_of(function, tensor, box) for tensor, box in zip(tensors, boxes, strict=True)]


def agreed_keys(
    function: str, tensors: Sequence[torch.Tensor], keys: Mapping[int, int]
) -> dict[int, int]:
    """Return the keys, by place, with those of DTensors as their meshes agree on: collective."""
    agreement = dict(keys)
    by_mesh: dict[DeviceMesh, list[int]] = {}
    for i in keys:
        tensor = tensors[i]
        if is_dtensor(tensor):
            by_mesh.setdefault(tensor.device_mesh, []).append(i)
    for mesh, places in by_mesh.items():
        numbers = agreed(function, [keys[i] for i in places], mesh)
        agreement.update(zip(places, numbers, strict=True))
    return agreement
