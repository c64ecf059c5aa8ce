"""Which ranks share one batch: those of tensor parallelism."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn

from initstats.sharding.dtensor import is_dtensor
from initstats.sharding.fsdp import data_parallel_ranks, sharded_parameters


def tensor_parallel_ranks(module: nn.Module) -> tuple[int, ...]:
    """Return the ranks among which parameters of this one are cut, though not by FSDP2.

    They are a line of the mesh of DTensors, the one along which most parameters are cut. FSDP2 cuts
    along the ranks that have batches of their own, which are left out.

    Args:
        module: A model of this rank.

    Returns:
        Global ranks, this one among them; nothing where no parameter is cut so.
    """
    data = data_parallel_ranks(module)
    lines: Counter[tuple[int, ...]] = Counter()
    for parameter in sharded_parameters(module).values():
        if not is_dtensor(parameter) or parameter.device_mesh.get_coordinate() is None:
            continue
        mesh = parameter.device_mesh
        with_data = data.get(id(parameter), frozenset())
        for dim, placement in enumerate(parameter.placements):
            place: list[int | slice] = list(mesh.get_coordinate() or ())
            place[dim] = slice(None)
            line = tuple(mesh.mesh[tuple(place)].tolist())
            if len(line) > 1 and not placement.is_replicate() and not with_data.issuperset(line):
                lines[line] += 1
    return lines.most_common(1)[0][0] if lines else ()


def is_first_of(tensor: Tensor, peers: Sequence[int]) -> bool:
    """Tell whether this rank is the first of those that hold the same elements and share a batch.

    Args:
        tensor: One of this rank. A DTensor says along which dimensions of its mesh it is copied; a
            plain one is the same on all of them.
        peers: Ranks that share a batch with this one, itself included.
    """
    import torch.distributed as dist

    rank = dist.get_rank()
    if not is_dtensor(tensor):
        return rank == peers[0]
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    if coordinate is None or not set(peers).intersection(mesh.mesh.flatten().tolist()) - {rank}:
        return rank == peers[0]  # a mesh of other dimensions: its peers have copies that it omits
    for dim, placement in enumerate(tensor.placements):
        place: list[int | slice] = list(coordinate)
        place[dim] = slice(None)
        line = mesh.mesh[tuple(place)].tolist()
        if placement.is_replicate() and set(line) <= set(peers) and coordinate[dim] > 0:
            return False
    return True
