"""Orthogonal matrices without QR: products of random reflections, applied as matrix products."""

from __future__ import annotations

import math

import torch

from initstats import _ops
from initstats.fill_checks import number, tensor_to_fill
from initstats.keys import draw_keys

# Reflections that are applied together. Larger panels are fewer and larger matrix products, at the
# price of _PANEL / (2 n) more operations.
_PANEL = 128
_MATRIX_DIMS = 2


def orthogonal_(
    tensor: torch.Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
) -> torch.Tensor:
    """Fill the tensor with a random (semi-)orthogonal matrix times gain, in place.

    The matrix is uniform on the orthogonal group (Haar): the product of n random reflections. Their
    vectors come from the stream, all known beforehand, so that whole panels of them are applied as
    matrix products; there is no QR. Rows are orthonormal if there are at most as many as columns,
    else columns are.

    Args:
        tensor: [rows, ...], at least two dimensions; those after the first are flattened to
            columns. float16, bfloat16 (computed in float32), float32 or float64, any strides.
        gain: factor, finite.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.

    Returns:
        The tensor.

    Raises:
        TypeError: as `uniform_`.
        ValueError: fewer than two dimensions, gain not finite; otherwise as `uniform_`.
        RuntimeError: elements of the tensor share memory (expanded tensors).

    Determinism: run_to_run. The reflections are bitwise the same on any device; their product is
        rounded as torch's matrix product rounds, which depends on device, library and threads.
    Source: Stewart 1980, SIAM J. Numer. Anal. 17, "The efficient generation of random orthogonal
        matrices with an application to condition estimators"; panels by the UT transform, Joffrain
        et al. 2006, "Accumulating Householder transformations, revisited". The signature is
        torch.nn.init.orthogonal_ (Saxe et al. 2013).
    """
    tensor_to_fill("orthogonal_", tensor)
    if tensor.dim() < _MATRIX_DIMS:
        raise ValueError(
            "initstats.orthogonal_: Only tensors with 2 or more dimensions are supported,"
            f" got shape={tuple(tensor.shape)}"
        )
    scale = number("orthogonal_", "gain", gain)
    if not math.isfinite(scale):
        raise ValueError(f"initstats.orthogonal_: expected gain to be finite, got gain={gain}")
    names = None if name is None else [name]
    if tensor.is_meta or tensor.numel() == 0:
        return tensor
    key = draw_keys("orthogonal_", 1, generator=generator, seed=seed, names=names)
    with torch.no_grad():
        # Writes zeros, and refuses a tensor whose elements share memory.
        _ops.uniform_([tensor], [0], [0.0], [0.0])
        rows = tensor.shape[0]
        narrow = tensor.dtype in (torch.float16, torch.bfloat16)
        in_place = not narrow and tensor.is_contiguous()
        matrix = tensor.view(rows, -1) if in_place else _zeros_like_matrix(tensor)
        _multiply_reflections(matrix if rows >= matrix.shape[1] else matrix.t(), key, scale)
        if not in_place:
            tensor.copy_(matrix.view(tensor.shape))
        torch.autograd.graph.increment_version(tensor)
    return tensor


def _zeros_like_matrix(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    rows = tensor.shape[0]
    return torch.zeros(rows, tensor.numel() // rows, dtype=dtype, device=tensor.device)


def _reflectors(m: int, n: int, key: list[int], like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the vectors of n reflections of R^m, [m, n], and the signs of the R that they leave.

    Column k is zero above its diagonal element; below stands a standard normal vector x of m - k
    elements, with x_0 + sign(x_0) |x| in place of x_0: the reflection takes x to the first axis.
    """
    vectors = torch.empty(m, n, dtype=like.dtype, device=like.device)
    _ops.normal_([vectors], key, [0.0], [1.0])
    vectors.tril_()
    diagonal = vectors.diagonal()
    signs = torch.where(diagonal < 0, 1.0, -1.0).to(like.dtype)
    diagonal.sub_(signs * torch.linalg.vector_norm(vectors, dim=0))
    return vectors, signs


def _multiply_reflections(matrix: torch.Tensor, key: list[int], gain: float) -> None:
    """Turn zeros, [m, n] with m >= n, into the first n columns of H_0 ... H_(n-1), times gain.

    The signs make the diagonal of the R of the implied QR positive, without which the product would
    not be Haar. From the last panel to the first, so that each touches only the rows and columns
    from its own first one on.
    """
    m, n = matrix.shape
    vectors, signs = _reflectors(m, n, key, matrix)
    matrix.diagonal().copy_(signs * gain)
    for begin in reversed(range(0, n, _PANEL)):
        v = vectors[begin:, begin : begin + _PANEL]
        part = matrix[begin:, begin:]
        factor = _panel_factor(v)
        part.addmm_(v, factor @ (v.t() @ part), alpha=-1)


def _panel_factor(v: torch.Tensor) -> torch.Tensor:
    """Return the T of H_0 ... H_(k-1) = I - V T V^t: T^-1 = striu(V^t V) + diag(V^t V) / 2."""
    gram = (v.t() @ v).double()
    inverse = gram.triu()
    inverse.diagonal().mul_(0.5)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor: torch.Tensor = torch.linalg.solve_triangular(inverse, identity, upper=True)
    return factor.to(v.dtype)
