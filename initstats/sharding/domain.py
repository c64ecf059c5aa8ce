"""Totals over the ranks that hold the parameters of a model together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from initstats.sharding.dtensor import is_dtensor, is_held

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_NOBODY = 1 << 62  # above any rank


class Domain:
    """The ranks of the widest mesh among the tensors of a model.

    Each element of each tensor is contributed by one rank: of replicas, said (`Replicate`, plain
    tensors) or unsaid (a tensor on a mesh of some of the ranks), the first; see `settle`.

    Args:
        function: The name for messages.
        mesh: The widest mesh.
    """

    def __init__(self, function: str, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self._ranks = set(mesh.mesh.flatten().tolist())
        self._first = int(mesh.mesh.flatten()[0])
        self._firsts: dict[int, int] = {}
        if mesh.get_coordinate() is None:
            raise ValueError(
                f"initstats.{function}: expected to be called by the ranks of mesh {mesh}, got "
                "another rank"
            )

    @classmethod
    def of(cls, function: str, tensors: Iterable[torch.Tensor]) -> Domain | None:
        """Return the domain of some tensors; None if none of them is a DTensor.

        Raises:
            ValueError: If this rank is not in it, or no mesh holds the ranks of all others.
        """
        meshes = list(dict.fromkeys(x.device_mesh for x in tensors if is_dtensor(x)))
        if not meshes:
            return None
        domain = cls(function, max(meshes, key=lambda mesh: mesh.size()))
        for mesh in meshes:
            if not set(mesh.mesh.flatten().tolist()) <= domain._ranks:
                raise ValueError(
                    f"initstats.{function}: expected one mesh with the ranks of all others, got "
                    f"{domain._mesh} and {mesh}; call it for a part of the model at a time"
                )
        return domain

    def settle(self, tensors: Sequence[torch.Tensor]) -> None:
        """Find the first rank that holds each tensor. Collective if a mesh is smaller than this.

        A rank does not know whether others have meshes of their own with the same tensor (a norm
        that is sharded over data-parallel ranks has one per tensor-parallel rank), or hold nothing.

        Args:
            tensors: Those that `owns` is asked of, in one order on all ranks.
        """
        some = [x for x in tensors if is_dtensor(x) and x.device_mesh.size() < self._mesh.size()]
        if not some:
            return
        held = [min(x.device_mesh.mesh.flatten().tolist()) if is_held(x) else _NOBODY for x in some]
        firsts = self._reduced(torch.tensor(held, dtype=torch.int64), "MIN").tolist()
        self._firsts |= dict(zip(map(id, some), firsts, strict=True))

    def owns(self, tensor: torch.Tensor) -> bool:
        """Tell whether this rank contributes what it holds of a tensor."""
        import torch.distributed as dist

        if not is_dtensor(tensor):
            return dist.get_rank() == self._first
        coordinate = tensor.device_mesh.get_coordinate()
        return (
            coordinate is not None
            and self._firsts.get(id(tensor), self._first)
            in tensor.device_mesh.mesh.flatten().tolist()
            and all(
                at == 0 or not placement.is_replicate()
                for at, placement in zip(coordinate, tensor.placements, strict=True)
            )
        )

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all ranks, the same on each; of integers modulo 2**64. Collective."""
        return self._reduced(values, "SUM")

    def equal(self, values: torch.Tensor) -> torch.Tensor:
        """Tell of each integer whether it is the same on all ranks. Collective."""
        low, high = self._reduced(values, "MIN"), self._reduced(values, "MAX")
        return low == high

    def gather(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the values of all ranks along one dimension of the mesh, stacked. Collective."""
        import torch.distributed as dist

        sent = values.to(self._mesh.device_type)
        group = self._mesh.get_group(dim)
        parts = [torch.empty_like(sent) for _ in range(self._mesh.size(dim))]
        dist.all_gather(parts, sent, group=group)
        return torch.stack(parts).to(values.device)

    @property
    def mesh(self) -> DeviceMesh:
        """The widest mesh, which a message is reduced over one dimension at a time."""
        return self._mesh

    @property
    def dims(self) -> range:
        """The dimensions of the mesh."""
        return range(self._mesh.ndim)

    def replicas(self, tensors: Sequence[torch.Tensor], fingerprints: torch.Tensor) -> torch.Tensor:
        """Return the sums of int64 numbers [n] over the shards that make up a tensor. Collective.

        Unlike `sum`, every replica gets its own.
        """
        import torch.distributed as dist

        found = fingerprints.clone()
        alike: dict[tuple[DeviceMesh, tuple[int, ...]], list[int]] = {}
        for i, tensor in enumerate(tensors):
            if is_dtensor(tensor):
                places = enumerate(tensor.placements)
                cut = tuple(d for d, placement in places if not placement.is_replicate())
                alike.setdefault((tensor.device_mesh, cut), []).append(i)
        for (mesh, cut), at in alike.items():
            if mesh.get_coordinate() is None:
                continue
            sent = found[at].to(mesh.device_type)
            for dim in cut:
                dist.all_reduce(sent, group=mesh.get_group(dim))
            found[at] = sent.to(found.device)
        return found

    def _reduced(self, values: torch.Tensor, how: str) -> torch.Tensor:
        import torch.distributed as dist

        sent = values.detach().to(self._mesh.device_type, copy=True)
        for dim in self.dims:
            dist.all_reduce(sent, getattr(dist.ReduceOp, how), group=self._mesh.get_group(dim))
        return sent.to(values.device)
