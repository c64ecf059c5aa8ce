"""Blocks of an orthogonal matrix without the rest, such as the rows of one rank."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch

from initstats import _ops
from initstats.init._overrides import overridable
from initstats.init._transforms import fill_examples, transform_level
from initstats.init._validate import has_memory, tensor_to_fill
from initstats.init.householder import full_precision, write_block
from initstats.init.keys import draw_key
from initstats.init.orthogonal_fills import finite_gain

_MATRIX_DIMS = 2


@overridable
def orthogonal_block_(
    tensor: torch.Tensor,
    offset: Sequence[int],
    size: Sequence[int],
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
) -> torch.Tensor:
    """Fill the tensor with a block of the matrix that `orthogonal_` draws, in place.

    Every rank calls it for the rows or columns that it owns, with the same seed and name (or with
    generators in the same state). Nothing is sent, and no rank computes the matrix: each draws all
    reflections and applies them to its block.

    Memory besides the tensor: at most three times the block's and 192 times the longer side of the
    matrix (and four factors of 128 x 128, on a GPU of 512 x 512). A block that would need more at
    once is made part by part; each part draws the reflections again.

    Args:
        tensor: The block, [rows, ...]; dimensions after the first are flattened to columns.
            Dtypes and strides as in `orthogonal_`.
        offset: (row, column) of the block's first element in the matrix.
        size: (rows, columns) of the whole matrix.
        gain: Factor, finite.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.

    Returns:
        The tensor.

    Raises:
        TypeError: offset or size do not hold integers; otherwise as `orthogonal_`.
        ValueError: offset or size do not hold two numbers, the block does not lie inside the
            matrix; otherwise as `orthogonal_`.
        RuntimeError: as `orthogonal_`.

    Determinism: run_to_run. The reflections are bitwise those of the whole matrix; the block equals
        that of `orthogonal_` within rounding, because other products are rounded.
    Source: as `orthogonal_`.
    """
    function = "orthogonal_block_"
    if transform_level() is not None and fill_examples(
        function,
        tensor,
        lambda example: orthogonal_block_(
            example, offset, size, gain, generator, seed=seed, name=name
        ),
        drawn=seed is None,
    ):
        return tensor
    tensor_to_fill(function, tensor)
    if tensor.dim() < _MATRIX_DIMS:
        raise ValueError(
            f"initstats.{function}: Only tensors with 2 or more dimensions are supported,"
            f" got shape={tuple(tensor.shape)}"
        )
    first = _two_integers(function, "offset", offset)
    whole = _two_integers(function, "size", size)
    shape = (tensor.shape[0], math.prod(tensor.shape[1:]) if tensor.shape[0] else 0)
    if any(a < 0 or a + n > full for a, n, full in zip(first, shape, whole, strict=True)):
        raise ValueError(
            f"initstats.{function}: expected a block inside the matrix of size={whole},"
            f" got offset={first}, shape={shape}"
        )
    scale = finite_gain(function, gain)
    if not has_memory(tensor) or tensor.numel() == 0:
        return tensor
    _ops.check_memory(function, tensor)
    key = draw_key(function, generator=generator, seed=seed, name=name)
    with torch.no_grad(), full_precision(tensor.device):
        try:
            block, copied = tensor.view(shape), False
        except RuntimeError:  # strides that no view can flatten
            block, copied = torch.empty(shape, dtype=tensor.dtype, device=tensor.device), True
        write_block(block, first, whole, key, scale)
        if copied:
            tensor.copy_(block.view(tensor.shape))
        torch.autograd.graph.increment_version(tensor)
    return tensor


def _two_integers(function: str, name: str, value: Sequence[int]) -> tuple[int, int]:
    try:
        numbers = tuple(operator.index(each) for each in value)
    except TypeError:
        raise TypeError(
            f"initstats.{function}: expected {name} to hold integers, got {name}={value!r}"
        ) from None
    if len(numbers) != _MATRIX_DIMS:
        raise ValueError(
            f"initstats.{function}: expected {name} to be (row, column), got {name}={value!r}"
        )
    return numbers[0], numbers[1]
