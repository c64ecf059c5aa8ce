"""Sparse matrices: normals, with the same number of zeros in every column."""

from __future__ import annotations

import math

import torch

from initstats.init._dispatch import fill_one
from initstats.init._distributions import SPARSE
from initstats.init._overrides import overridable
from initstats.init._shards import whole_of
from initstats.init._validate import number
from initstats.sharding import Box

_MATRIX_DIMS = 2


@overridable
def sparse_(
    tensor: torch.Tensor,
    sparsity: float,
    std: float = 0.01,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill a matrix with normals and ceil(sparsity * rows) zeros in each column, in place.

    Which rows of a column become zero is decided by the key as well, so that the generator decides
    everything (torch 2.13 draws the rows from the default generator even if another one is given).
    Every subset of rows is equally likely, independently of the other columns and of the values.

    Args:
        tensor: [rows, columns], otherwise as in `uniform_`; a row is an output of the layer.
        sparsity: Share of each column that becomes zero, in [0, 1].
        std: Standard deviation of the other elements, finite, >= 0.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.

    Returns:
        The tensor.

    Raises:
        ValueError: not 2 dimensions (torch's message), sparsity outside [0, 1], std < 0 or not
            finite; otherwise as `uniform_`.
        RuntimeError: 2**32 rows or more; otherwise as `uniform_`.

    Determinism: bitwise, as `normal_`; a shard of the matrix gets the bits of the whole.
    Source: Martens 2010, "Deep learning via Hessian-free optimization"; the signature is
        torch.nn.init.sparse_. The rows are chosen by selection sampling (Knuth, TAOCP volume 2,
        section 3.4.2, algorithm S).
    """
    whole = tensor if box is None else whole_of("sparse_", tensor, box)
    if whole.ndimension() != _MATRIX_DIMS:
        raise ValueError("Only tensors with 2 dimensions are supported")
    share = number("sparse_", "sparsity", sparsity)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"initstats.sparse_: expected sparsity in [0, 1], got sparsity={sparsity}")
    zeros = float(math.ceil(share * whole.shape[0]))
    return fill_one("sparse_", SPARSE, tensor, (std, zeros), generator, seed, name, box)
