"""Every rank of a mesh in one process: DTensors on fake process groups, and torch's own split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore


@contextmanager
def fake_mesh(shape: Sequence[int], rank: int) -> Iterator[DeviceMesh]:
    """Be one rank of a mesh; collectives return at once and send nothing.

    torch remembers the result of an operation on DTensors with the mesh of its first call, whose
    coordinate is that of another rank when the process is the next one: no such operation, nor
    `torch.nn.Parameter` of a DTensor, where one process is several ranks.
    """
    dist.init_process_group("fake", rank=rank, world_size=math.prod(shape), store=FakeStore())
    try:
        names = tuple(f"d{i}" for i in range(len(shape)))
        yield init_device_mesh("cpu", tuple(shape), mesh_dim_names=names)
    finally:
        dist.destroy_process_group()


def coordinates(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the coordinate of every rank, in order."""
    return itertools.product(*map(range, shape))


def owned(
    whole: torch.Tensor,
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Placement],
) -> torch.Tensor:
    """Return the local tensor of a rank as torch itself cuts it: the oracle."""
    local = whole
    for ranks, at, placement in zip(mesh_shape, coordinate, placements, strict=True):
        if isinstance(placement, (Shard, _StridedShard)):
            parts, _ = placement._split_tensor(local, ranks, with_padding=False, contiguous=True)
            local = parts[at]
    return local


def sharded_like(
    whole: torch.Tensor, mesh: DeviceMesh, placements: Sequence[Placement], fill: float = 9.0
) -> DTensor:
    """Return this rank's DTensor with the shape and dtype of a whole tensor, all one value."""
    coordinate = mesh.get_coordinate()
    assert coordinate is not None
    local = torch.full_like(owned(whole, mesh.shape, coordinate, placements), fill)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def placements_of(dims: int, splits: Sequence[int] = (2, 3)) -> list[Placement]:
    """Return the placements of one mesh dimension for a tensor with so many dimensions."""
    strided = [_StridedShard(d, split_factor=n) for d in range(dims) for n in splits]
    return [Replicate(), *(Shard(d) for d in range(dims)), *strided]
