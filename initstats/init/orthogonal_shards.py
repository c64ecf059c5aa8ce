"""Blocks of orthogonal matrices, for shards: small matrices are made whole and cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from initstats import _ops
from initstats.init.householder import full_precision, write_block
from initstats.sharding import Box


def write_orthogonal_piece(
    view: torch.Tensor, box: Box, batch_dims: int, key: int, gain: float
) -> None:
    """Write a block of what `orthogonal_` makes of the whole tensor.

    Where both sides of a matrix are at most `SMALL_SIDE`, the bits are those of the whole.

    Args:
        view: The block, not empty.
        box: Where it lies.
        batch_dims: Of the whole.
        key: Of the stream.
        gain: Factor.
    """
    offset, size = box.offset, box.size
    if batch_dims == 0:
        view, offset, size, batch_dims = view[None], (0, *offset), (1, *size), 1
    inner, matrix = offset[batch_dims:], size[batch_dims:]
    small = max(matrix[0], math.prod(matrix[1:])) <= _ops.SMALL_SIDE
    outer = [range(n) for n in view.shape[: batch_dims - 1]]
    for index in itertools.product(*outer):
        row = 0  # of matrices, in the last dimension of the batch
        for first, full, i in zip(offset, size, index, strict=False):
            row = row * full + first + i
        start = row * size[batch_dims - 1] + offset[batch_dims - 1]
        if small:
            _write_small(view[index], start, inner, matrix, key, gain)
        else:
            for j, block in enumerate(view[index]):
                _write_large(block, start + j, inner, matrix, key, gain)


def _write_small(
    blocks: torch.Tensor,
    start: int,
    offset: Sequence[int],
    size: Sequence[int],
    key: int,
    gain: float,
) -> None:
    """Write blocks of the matrices start, start + 1, ...: each is made whole and cut."""
    shape = (size[0], math.prod(size[1:]))
    cut = [slice(o, o + n) for o, n in zip(offset, blocks.shape[1:], strict=True)]
    slices = (slice(None), *cut)
    # At once no more than the blocks hold, so that memory stays that of the shard.
    most = max(1, blocks.numel() // math.prod(shape))
    for i in range(0, len(blocks), most):
        part = blocks[i : i + most]
        whole = torch.empty(len(part), *shape, dtype=blocks.dtype, device=blocks.device)
        _ops.small_orthogonal_([whole], [key], [gain], [start + i])
        part.copy_(whole.view(len(part), *size)[slices])


def _write_large(
    block: torch.Tensor,
    number: int,
    offset: Sequence[int],
    size: Sequence[int],
    key: int,
    gain: float,
) -> None:
    """Write a block of one matrix, whose columns are flattened dimensions."""
    columns = torch.zeros((), dtype=torch.int64, device="cpu")
    for full, first, n in zip(size[1:], offset[1:], block.shape[1:], strict=True):
        columns = columns[..., None] * full + torch.arange(first, first + n, device="cpu")
    columns = columns.flatten()
    low, reach = int(columns[0]), int(columns[-1] - columns[0]) + 1
    whole = (size[0], math.prod(size[1:]))
    rows = block.shape[0]
    out = block.reshape(rows, -1) if block.is_contiguous() else None
    if out is None or reach != len(columns):
        # Between the columns there are others, or no view can flatten them.
        out = torch.empty(rows, reach, dtype=block.dtype, device=block.device)
    with full_precision(block.device):
        write_block(out, (offset[0], low), whole, key, gain, number)
    if out.data_ptr() != block.data_ptr():
        taken = out if reach == len(columns) else out[:, (columns - low).to(out.device)]
        block.copy_(taken.view(block.shape))


def write_delta_orthogonal_piece(
    view: torch.Tensor, box: Box, groups: int, key: int, gain: float
) -> None:
    """Write a block of what `delta_orthogonal_` makes of the whole weight.

    Args:
        view: The block, not empty.
        box: Where it lies.
        groups: Of the convolution.
        key: Of the stream.
        gain: Factor.
    """
    view.zero_()
    for k, first in zip(box.size[2:], box.offset[2:], strict=True):
        centre = (k - 1) // 2 - first
        if not 0 <= centre < view.shape[2]:
            return
        view = view.select(2, centre)
    (row, column), (outputs, inputs) = box.offset[:2], box.size[:2]
    height, end = outputs // groups, row + view.shape[0]
    for group in range(row // height, -(-end // height)):
        top, bottom = max(row, group * height), min(end, (group + 1) * height)
        place = Box((group, top - group * height, column), (groups, height, inputs))
        write_orthogonal_piece(view[None, top - row : bottom - row], place, 1, key, gain)
