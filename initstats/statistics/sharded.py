"""Statistics of DTensors: the records of local tensors, with their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from initstats import _ops
from initstats.sharding import Spread, is_dtensor, local_boxes, local_runs, local_tensor
from initstats.statistics.record_array import Batch, Groups, Records

Rows = tuple[Tensor, Tensor, Tensor]


def sharded_batch(
    tensors: Sequence[Tensor], groups: int, scale: int, minus: Sequence[Tensor]
) -> Batch:
    """Take the records of the elements that this rank holds: one launch, nothing is sent.

    Args:
        tensors: DTensors and plain tensors of one device.
        groups: A sum of `Groups`.
        scale: Scale of the histograms.
        minus: What is to be subtracted from each, or nothing.

    Returns:
        One row per tensor. Those of DTensors are not read before they are merged over ranks.

    Raises:
        TypeError: If a placement is Partial or unknown.
        ValueError: If a local tensor is not what the placements say, or minus is placed otherwise.
    """
    for x, y in zip(tensors, minus, strict=bool(minus)):
        _check_pair(x, y)
    parts = [_parts(x, groups) for x in tensors]
    box: list[int] = []
    if groups & Groups.FINGERPRINT:
        box = [n for each in parts for _, offset, size in each for n in (*offset, *size)]
    locals_ = [part for each in parts for part, _, _ in each]
    others = [local_tensor(y) if is_dtensor(y) else y for y in minus]
    rows = _ops.stats(locals_, groups, scale, box, others)
    return Batch(
        _joined(rows, [len(each) for each in parts]),
        groups,
        scale,
        [Spread.of(x) if is_dtensor(x) else None for x in tensors],
    )


_Part = tuple[Tensor, Sequence[int], Sequence[int]]  # with its offset in the whole, and the sizes


def _parts(tensor: Tensor, groups: int) -> list[_Part]:
    """Return the parts of what this rank holds; fingerprints alone need more than one."""
    if not is_dtensor(tensor):
        return [(tensor, (0,) * tensor.dim(), tuple(tensor.shape))]
    local = local_tensor(tensor)
    if not groups & Groups.FINGERPRINT:
        local_runs("stats", tensor)  # refuses what it does not know
        return [(local, (), ())]
    pieces = local_boxes("stats", tensor)
    if not pieces:
        # A rank outside of the mesh has an empty tensor of one dimension, whatever the whole has.
        return [(local, (0,) * local.dim(), tuple(local.shape))]
    return [(local[p.slices], p.box.offset, p.box.size) for p in pieces]


def _joined(rows: Rows, lengths: Sequence[int]) -> Rows:
    """Merge the rows of the parts of each tensor, where they are."""
    if max(lengths, default=1) == 1:
        return rows
    parts = list(lengths)
    moments, counts, histograms = rows
    pairs = zip(torch.split(moments, parts), torch.split(counts, parts), strict=True)
    records = [Records(m, c).merge_first_axis() for m, c in pairs]
    if len(histograms):
        histograms = torch.stack([part.sum(0) for part in torch.split(histograms, parts)])
    return (
        torch.stack([record.moments for record in records]),
        torch.stack([record.counts for record in records]),
        histograms,
    )


def _check_pair(x: Tensor, minus: Tensor) -> None:
    """Refuse two tensors whose local elements are not at the same places."""
    if is_dtensor(x) != is_dtensor(minus):
        msg = (
            "initstats.stats: expected minus to be of the kind of x, got"
            f" {type(minus).__name__} for {type(x).__name__}"
        )
        raise TypeError(msg)
    if not is_dtensor(x) or not is_dtensor(minus):
        return
    mine, its = (x.device_mesh, x.placements), (minus.device_mesh, minus.placements)
    if mine != its:
        msg = (
            "initstats.stats: expected minus to have the mesh and placements of x, got"
            f" {minus.placements} for {x.placements}"
        )
        raise ValueError(msg)
