"""DTensors: the local tensor of this rank, and where its elements lie in the whole tensor."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch

from initstats.sharding.box import Piece, Run, pieces_of
from initstats.sharding.placements import runs_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})  # what is no subclass of anybody
_Runs = tuple[tuple[Run, ...], ...]


def is_dtensor(value: object) -> TypeGuard[DTensor]:
    """Whether it is a DTensor; nobody has one where torch's module has not been imported."""
    if type(value) in PLAIN_TYPES:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    kind = getattr(module, "DTensor", None)
    return kind is not None and isinstance(value, kind)


def is_held(tensor: torch.Tensor) -> bool:
    """Whether this rank is in the mesh of a tensor; of a plain one every rank is."""
    return not is_dtensor(tensor) or tensor.device_mesh.get_coordinate() is not None


def local_tensor(tensor: DTensor) -> torch.Tensor:
    """Return the tensor that this rank holds, outside of autograd; writing it writes the DTensor.

    Take it afresh each time: FSDP2 replaces the local tensors of its parameters.
    """
    with torch.no_grad():
        local = tensor.to_local()
        wait = getattr(local, "wait", None)  # of a collective that may still run
        return local if wait is None else wait()


def local_runs(function: str, tensor: DTensor) -> _Runs:
    """Return per dimension of a DTensor the runs of indices that this rank owns, in local order.

    Args:
        function: The name for messages.
        tensor: The DTensor, of any device.

    Raises:
        TypeError: Partial, or a placement that is not known.
        ValueError: The runs do not add up to the shape of the local tensor, or the DTensor is a
            view whose memory is a copy.
    """
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None:  # this rank is not in the mesh
        return ((),) * tensor.dim()
    try:
        runs = runs_of(tensor.shape, mesh.shape, coordinate, tensor.placements)
    except TypeError as error:
        raise TypeError(f"initstats.{function}: {error}") from None
    _check(function, tensor, runs)
    return runs


def local_boxes(
    function: str,
    tensor: DTensor,
    offset: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> tuple[Piece, ...]:
    """Return the pieces of a DTensor's local tensor with their boxes in the whole tensor.

    One piece for most placements; one per run for strided shards; none where the rank owns nothing.
    No rank asks another one.

    Args:
        function: The name for messages.
        tensor: The DTensor, of any device.
        offset: Of one block of the whole that is meant instead of all of it: see `pieces_of`.
        size: Of that block.

    Raises:
        TypeError: as `local_runs`.
        ValueError: as `local_runs`.
    """
    runs = local_runs(function, tensor)
    if offset is None or size is None:
        return _pieces(runs, tuple(tensor.shape))
    return pieces_of(runs, offset, size)


def _check(function: str, tensor: DTensor, runs: _Runs) -> None:
    """Raise ValueError where torch cut otherwise than it documents: nothing may be written then.

    So too for a view along a sharded dimension, such as `x[3]`: torch gathers it, and what is
    written there reaches no shard.
    """
    held = local_tensor(tensor)
    if is_gathered(tensor):
        raise ValueError(
            f"initstats.{function}: expected a DTensor with memory of its own, got a view that"
            f" torch gathered into a copy, {_described(tensor)} (fill the DTensor that it is of)"
        )
    local = tuple(held.shape)
    expected = tuple(sum(length for _, length in each) for each in runs)
    if local != expected:
        raise ValueError(
            f"initstats.{function}: expected a local tensor of shape {expected} from"
            f" {_described(tensor)}, got {local} (give DTensor.from_local the whole shape if shards"
            " are uneven)"
        )


def is_gathered(tensor: DTensor) -> bool:
    """Tell whether a DTensor is a view of another one that torch gathered into a copy."""
    base = tensor._base  # noqa: SLF001  # there is no public way to ask
    return is_dtensor(base) and not _share_memory(local_tensor(tensor), local_tensor(base))


def _share_memory(x: torch.Tensor, y: torch.Tensor) -> bool:
    return bool(x.untyped_storage()._cdata == y.untyped_storage()._cdata)  # noqa: SLF001


def _described(tensor: DTensor) -> str:
    mesh = tuple(tensor.device_mesh.shape)
    return f"shape={tuple(tensor.shape)}, mesh={mesh}, placements={tensor.placements}"


@functools.lru_cache(maxsize=4096)
def _pieces(runs: _Runs, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    return pieces_of(runs, (0,) * len(shape), shape)
