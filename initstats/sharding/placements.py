"""Which indices of each dimension a rank owns, by mesh, coordinate and placements."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from initstats.sharding.box import Run

if TYPE_CHECKING:
    from torch.distributed.tensor.placement_types import Placement


def runs_of(
    shape: Sequence[int],
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Placement],
) -> tuple[tuple[Run, ...], ...]:
    """Return per dimension the runs of indices that a rank owns, in the order of its local tensor.

    A dimension of the tensor can be cut by several of the mesh; they cut from left to right, each
    what the ones before it left, into `torch.chunk`'s parts. A strided shard owns a part of each of
    `split_factor` parts, hence several runs.

    Args:
        shape: Of the whole tensor.
        mesh_shape: Ranks per dimension of the mesh.
        coordinate: Of the rank in the mesh.
        placements: One per dimension of the mesh: `Shard`, `Replicate` and `_StridedShard`.

    Returns:
        One tuple per dimension of the tensor, without empty runs.

    Raises:
        TypeError: a placement that is none of these, such as `Partial`.
    """
    return _runs(tuple(shape), tuple(mesh_shape), tuple(coordinate), tuple(map(_cut, placements)))


def _cut(placement: Placement) -> tuple[int, int]:
    """Return the dimension that a placement cuts, -1 for none, and into how many parts first.

    Placements themselves are no keys of a cache: in some versions of torch a `_StridedShard` equals
    the `Shard` of its dimension.
    """
    from torch.distributed.tensor.placement_types import Replicate, Shard, _StridedShard

    if type(placement) is Replicate:
        return -1, 1
    if type(placement) is Shard:
        return placement.dim, 1
    if type(placement) is _StridedShard:
        return placement.dim, int(placement.split_factor)
    raise TypeError(
        f"expected the placements Shard, Replicate and _StridedShard, got {placement!r}"
    )


# A model repeats few shapes and placements.
@functools.lru_cache(maxsize=4096)
def _runs(
    shape: tuple[int, ...],
    mesh_shape: tuple[int, ...],
    coordinate: tuple[int, ...],
    cuts: tuple[tuple[int, int], ...],
) -> tuple[tuple[Run, ...], ...]:
    runs = [[Run(0, n)] if n else [] for n in shape]
    for ranks, at, (dim, parts) in zip(mesh_shape, coordinate, cuts, strict=True):
        if dim < 0:
            continue
        owned = runs[dim]
        total = sum(length for _, length in owned)
        taken: list[Run] = []
        for part in range(parts):
            first, length = _chunk(total, parts, part)
            start, n = _chunk(length, ranks, at)
            taken += _take(owned, first + start, n)
        runs[dim] = _joined(taken)
    return tuple(map(tuple, runs))


def _chunk(n: int, parts: int, i: int) -> tuple[int, int]:
    """Return start and length of part i of n indices, as torch.chunk cuts; empty past the last."""
    most = -(-n // parts)
    start = min(n, most * i)
    return start, min(n, start + most) - start


def _take(runs: Sequence[Run], start: int, length: int) -> list[Run]:
    """Return `length` indices of the runs, from their start-th on."""
    taken = []
    for first, n in runs:
        if start >= n:
            start -= n
            continue
        if length <= 0:
            break
        here = min(n - start, length)
        taken.append(Run(first + start, here))
        start, length = 0, length - here
    return taken


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with neighbours joined."""
    joined: list[Run] = []
    for run in runs:
        if joined and sum(joined[-1]) == run.start:
            joined[-1] = Run(joined[-1].start, joined[-1].length + run.length)
        else:
            joined.append(run)
    return joined
