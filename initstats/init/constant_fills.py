"""Fills without randomness: constants, identity matrices and Dirac kernels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from initstats import _ops
from initstats.init._shards import refuse_in_graph, shards_of, whole_of
from initstats.init._transforms import traced, transformed
from initstats.init._validate import fillable_dtype, has_memory, number
from initstats.sharding import PLAIN_TYPES, Box, Piece, is_dtensor, refuse_managed, refuse_subclass

_CONVOLUTIONS = (3, 4, 5)  # dimensions of the weights of 1-d, 2-d and 3-d convolutions


def constant_(tensor: torch.Tensor, val: float) -> torch.Tensor:
    """Fill the tensor with one value, in place.

    Args:
        tensor: Any dtype, shape, strides and device.
        val: The value, rounded to the tensor's dtype.

    Returns:
        The tensor.

    Raises:
        RuntimeError: val does not fit into the dtype (torch's message).

    Determinism: bitwise.
    Source: the signature is torch.nn.init.constant_.
    """
    return _fill("constant_", tensor, lambda local: local.fill_(val))


def ones_(tensor: torch.Tensor) -> torch.Tensor:
    """Fill the tensor with 1, in place.

    Args:
        tensor: As in `constant_`.

    Returns:
        The tensor.

    Determinism: bitwise.
    Source: the signature is torch.nn.init.ones_.
    """
    return _fill("ones_", tensor, lambda local: local.fill_(1.0))


def zeros_(tensor: torch.Tensor) -> torch.Tensor:
    """Fill the tensor with 0, in place.

    Args:
        tensor: As in `constant_`.

    Returns:
        The tensor.

    Determinism: bitwise.
    Source: the signature is torch.nn.init.zeros_.
    """
    return _fill("zeros_", tensor, torch.Tensor.zero_)


def eye_(tensor: torch.Tensor) -> torch.Tensor:
    """Fill a matrix with ones on the diagonal and zeros elsewhere, in place.

    Args:
        tensor: [rows, columns], any dtype, strides and device.

    Returns:
        The tensor.

    Raises:
        ValueError: not 2 dimensions (torch's message).
        RuntimeError: elements share memory, as those of an expanded tensor do.

    Determinism: bitwise.
    Source: the signature is torch.nn.init.eye_.
    """
    if tensor.ndimension() != 2:  # noqa: PLR2004  # torch's rule and torch's words
        raise ValueError("Only tensors with 2 dimensions are supported")
    if _has_place("eye_", tensor):
        return _fill_diagonal("eye_", tensor, 1.0, 1, None)
    _check_memory("eye_", tensor)
    _refuse_overlaps("eye_", tensor)
    with torch.no_grad():
        tensor.zero_().diagonal().fill_(1)
    return tensor


def dirac_(tensor: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Fill a convolution's weight so that it passes its input channels on, in place.

    Output channel d of each group is input channel d, for as many channels as both sides have; the
    1 stands at index size // 2 of every kernel dimension. Other output channels are 0.

    Args:
        tensor: [out, in / groups, ...] with 1, 2 or 3 kernel dimensions, any dtype, strides and
            device.
        groups: Of the convolution, a divisor of the first dimension, >= 1.

    Returns:
        The tensor.

    Raises:
        ValueError: not 3, 4 or 5 dimensions, or groups does not divide the first (torch's
            messages); groups < 0.
        IndexError: a kernel dimension of size 0, as in torch.
        ZeroDivisionError: groups is 0, as in torch.

    Determinism: bitwise.
    Source: the signature is torch.nn.init.dirac_; Zagoruyko and Komodakis 2017, "DiracNets".
    """
    if tensor.ndimension() not in _CONVOLUTIONS:
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.size(0) % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    if groups < 0:
        raise ValueError(f"initstats.dirac_: expected groups >= 1, got groups={groups}")
    if _has_place("dirac_", tensor):
        return _fill_diagonal("dirac_", tensor, 1.0, groups, None)
    if not tensor.is_meta:
        _fill_dirac("dirac_", tensor, 1.0, groups)
    return tensor


def identity_(
    tensor: torch.Tensor, gain: float = 1.0, *, groups: int = 1, box: Box | None = None
) -> torch.Tensor:
    """Fill the weight of a linear layer or a convolution with gain times its identity, in place.

    A matrix becomes gain * I (cut off or padded with zeros if it is not square), a convolution's
    weight gain times what `dirac_` fills.

    Args:
        tensor: [out, in] or [out, in / groups, ...] with up to 3 kernel dimensions, any dtype,
            strides and device.
        gain: The value on the diagonal.
        groups: Of the convolution, a divisor of the first dimension, >= 1; 1 for a matrix.
        box: As in `uniform_`; eye_ and dirac_ of a plain shard are this function with gain 1.

    Returns:
        The tensor.

    Raises:
        TypeError: gain is not a number.
        ValueError: not 2 to 5 dimensions, groups < 1, no divisor, or not 1 with a matrix.

    Determinism: bitwise.
    Source: Le, Jaitly and Hinton 2015, section 2 (recurrent weights, gain 1 or 0.01);
        keras.initializers.Identity.
    """
    gain = number("identity_", "gain", gain)
    shape = whole_of("identity_", tensor, box).shape
    dimensions = len(shape)
    if dimensions != 2 and dimensions not in _CONVOLUTIONS:  # noqa: PLR2004
        raise ValueError(
            f"initstats.identity_: expected 2 to 5 dimensions, got shape={list(shape)}"
        )
    if groups < 1 or shape[0] % groups:
        raise ValueError(
            "initstats.identity_: expected groups to divide the first dimension,"
            f" {shape[0]}, got groups={groups}"
        )
    if dimensions == 2 and groups != 1:  # noqa: PLR2004
        raise ValueError(
            f"initstats.identity_: expected groups=1 with a matrix, got groups={groups}"
        )
    if _has_place("identity_", tensor, box):
        return _fill_diagonal("identity_", tensor, gain, groups, box)
    if not tensor.is_meta:
        _fill_dirac("identity_", tensor, gain, groups)
    return tensor


def _has_place(function: str, tensor: torch.Tensor, box: Box | None = None) -> bool:
    """Whether the tensor is a shard, of which this rank may hold any part."""
    if torch.compiler.is_compiling():
        refuse_in_graph(function, tensor)
        return False
    return box is not None or (type(tensor) not in PLAIN_TYPES and is_dtensor(tensor))


def _check_memory(function: str, tensor: torch.Tensor) -> None:
    """Raise for memory that torch's fills would write although an engine freed it."""
    if not torch.compiler.is_compiling():
        if type(tensor) is not torch.Tensor:
            refuse_managed(function, tensor)
        _ops.check_storage(function, tensor)


def _refuse_overlaps(function: str, tensor: torch.Tensor) -> None:
    """Raise RuntimeError where elements share memory, so that the diagonal would be everywhere."""
    if not torch.compiler.is_compiling() and not transformed() and has_memory(tensor):
        _ops.check_memory(function, tensor)


def _local(
    function: str, tensor: torch.Tensor, box: Box | None
) -> tuple[torch.Tensor, tuple[Piece, ...]]:
    """Return the memory of a shard and its pieces, or raise for what is no shard to write."""
    refuse_subclass(function, tensor)
    refuse_managed(function, tensor)
    (local,), (pieces,) = shards_of(function, [tensor], [box])
    _ops.check_storage(function, local)
    return local, pieces


def _fill(
    function: str, tensor: torch.Tensor, write: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Call a fill of torch for the memory of the tensor; ranks without any raise as the others."""
    if not _has_place(function, tensor):
        _check_memory(function, tensor)
        with torch.no_grad():
            return write(tensor)
    local, _ = _local(function, tensor, None)
    with torch.no_grad():
        write(torch.empty(2, dtype=tensor.dtype, device="cpu"))
        write(local)
    torch.autograd.graph.increment_version(tensor)
    return tensor


def _fill_diagonal(
    function: str, tensor: torch.Tensor, value: float, groups: int, box: Box | None
) -> torch.Tensor:
    """Write a shard of what `_fill_dirac` writes, by the indices in the whole tensor."""
    local, pieces = _local(function, tensor, box)
    with torch.no_grad():
        torch.empty(2, dtype=tensor.dtype, device="cpu").fill_(value)
        local.zero_()
        if has_memory(local):
            for slices, place in pieces:
                _write_diagonal(local[slices], place, value, groups)
    torch.autograd.graph.increment_version(tensor)
    return tensor


def _write_diagonal(view: torch.Tensor, box: Box, value: float, groups: int) -> None:
    """Write the value to the elements of a block that are (g * out + d, d, centre)."""
    for size, first in zip(box.size[2:], box.offset[2:], strict=True):
        centre = size // 2 - first
        if not 0 <= centre < view.shape[2]:
            return
        view = view.select(2, centre)
    rows = torch.arange(view.shape[0], device="cpu")
    columns = (rows + box.offset[0]) % (box.size[0] // groups) - box.offset[1]
    inside = (columns >= 0) & (columns < view.shape[1])
    view[rows[inside], columns[inside]] = value


def _fill_dirac(function: str, tensor: torch.Tensor, value: float, groups: int) -> None:
    """Write the value to (g * out + d, d, centre) for every group g and channel d, else 0."""
    plain = type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter
    others_see = not torch.compiler.is_compiling() and (transformed() or traced())
    plain = plain and not others_see
    known = fillable_dtype(tensor.dtype) and tensor.device.type in {"cpu", "cuda"}
    # torch refuses to round a finite value to infinity.
    fits = known and (math.isinf(value) or not abs(value) > torch.finfo(tensor.dtype).max)
    if plain and fits and tensor.is_contiguous() and 0 not in tensor.shape:
        with torch.no_grad():
            _ops.dirac_([tensor], [groups], [value])
        # The op writes through raw pointers: tell autograd, so that it notices stale tensors.
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(tensor)
        return
    _check_memory(function, tensor)
    _refuse_overlaps(function, tensor)
    with torch.no_grad():
        tensor.zero_()
        if 0 in tensor.shape[:2]:
            return
        by_group = torch.unflatten(tensor, 0, (groups, tensor.size(0) // groups))
        for size in reversed(tensor.shape[2:]):
            by_group = by_group.select(-1, size // 2)
        by_group.diagonal(dim1=1, dim2=2).fill_(value)
