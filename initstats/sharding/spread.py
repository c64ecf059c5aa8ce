"""Which ranks hold a tensor, and which of several replicas is counted."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Spread:
    """How the elements of a tensor are spread over the ranks of a mesh.

    Attributes:
        shape: Of the whole tensor.
        ranks: Global ranks of the mesh, in C order of its dimensions.
        mesh_shape: Ranks per dimension of the mesh.
        replicated: For each dimension of the mesh, whether ranks along it hold the same elements.
    """

    shape: tuple[int, ...]
    ranks: tuple[int, ...]
    mesh_shape: tuple[int, ...]
    replicated: tuple[bool, ...]

    @classmethod
    def of(cls, tensor: DTensor) -> Spread:
        """Return the spread of a DTensor whose placements are `Shard`, strided or `Replicate`."""
        mesh = tensor.device_mesh
        return cls(
            tuple(tensor.shape),
            _ranks_of(mesh),
            tuple(mesh.shape),
            tuple(placement.is_replicate() for placement in tensor.placements),
        )

    @classmethod
    def alone(cls, shape: Sequence[int], rank: int) -> Spread:
        """Return the spread of a plain tensor: its rank holds all of it."""
        return cls(tuple(shape), (rank,), (1,), (True,))

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return math.prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether every rank of the mesh holds the whole tensor."""
        pairs = zip(self.mesh_shape, self.replicated, strict=True)
        return all(replicated or n == 1 for n, replicated in pairs)

    @property
    def replicas(self) -> int:
        """How many ranks of the mesh hold each element."""
        pairs = zip(self.mesh_shape, self.replicated, strict=True)
        return math.prod(n for n, replicated in pairs if replicated)

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Return the place of a rank of the mesh."""
        index, found = self.ranks.index(rank), []
        for n in reversed(self.mesh_shape):
            index, at = divmod(index, n)
            found.append(at)
        return tuple(reversed(found))

    def piece(self, rank: int) -> int:
        """Return a number that is the same on ranks of the mesh that hold the same elements."""
        number = 0
        at = zip(self.mesh_shape, self.coordinate(rank), self.replicated, strict=True)
        for n, i, replicated in at:
            number = number if replicated else number * n + i
        return number

    def is_counted(self, rank: int, chosen: int) -> bool:
        """Tell whether a rank counts its elements, so that the ranks together count each once.

        Replicas are those along replicated dimensions of the mesh, and those of other meshes with
        the same tensor, of which this rank knows nothing: a norm that is sharded over data-parallel
        ranks only has one mesh per tensor-parallel rank. One rank is chosen. It lies in one mesh,
        and of that the ranks count that are where it is along replicated dimensions.

        Args:
            rank: A rank; one outside of this mesh counts nothing.
            chosen: The rank that all have chosen.
        """
        if chosen not in self.ranks or rank not in self.ranks:
            return False
        mine, its = self.coordinate(rank), self.coordinate(chosen)
        return all(
            a == b for a, b in itertools.compress(zip(mine, its, strict=True), self.replicated)
        )


@functools.lru_cache(maxsize=64)
def _ranks_of(mesh: DeviceMesh) -> tuple[int, ...]:
    return tuple(mesh.mesh.flatten().tolist())
