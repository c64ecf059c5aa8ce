"""Ranks agree on numbers that each drew for itself: the keys of a fill without a seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def agreed(function: str, numbers: Sequence[int], mesh: DeviceMesh) -> list[int]:
    """Return the numbers of the mesh's first rank, and warn where this rank's own differ.

    Collective: one broadcast for a mesh of all ranks, else one per dimension of the mesh.

    Args:
        function: The name for messages.
        numbers: Signed 64-bit integers, as many on every rank.
        mesh: Who agrees. A rank outside of it sends nothing and keeps its own.
    """
    import torch.distributed as dist

    own = list(numbers)
    if mesh.size() == 1 or mesh.get_coordinate() is None or not own:
        return own
    sent = torch.tensor(own, dtype=torch.int64, device=mesh.device_type)
    if mesh.size() == dist.get_world_size():
        dist.broadcast(sent, src=int(mesh.mesh.flatten()[0]))
    else:  # its first rank reaches the first of each row, those reach the rest of their rows
        for group in mesh.get_all_groups():
            dist.broadcast(sent, group=group, group_src=0)
    first: list[int] = sent.tolist()
    if first != own:
        warnings.warn(
            f"initstats.{function}: the generators of the ranks differ, and this rank filled with"
            " the keys of the mesh's first rank (seed all ranks alike, or give seed=)",
            stacklevel=2,
        )
    return first
