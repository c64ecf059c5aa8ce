"""Orthogonal matrices without QR, as products of random reflections: one, many, in convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch

from initstats import _ops
from initstats.init._compiled import EAGER, orthogonal_in_graph
from initstats.init._dispatch import keys_by_place
from initstats.init._overrides import overridable
from initstats.init._shards import agreed_keys, refuse_in_graph, shards_of
from initstats.init._transforms import (
    fill_examples,
    forget_tangents,
    refuse_examples,
    transform_level,
    transformed,
)
from initstats.init._validate import (
    check_separate,
    has_memory,
    number,
    numbers_for,
    places_with_memory,
    tensor_to_fill,
    tensors_to_fill,
)
from initstats.init.householder import prefers_few_calls, write_batch
from initstats.init.householder_batches import write_together
from initstats.init.keys import draw_key
from initstats.init.orthogonal_shards import write_delta_orthogonal_piece, write_orthogonal_piece
from initstats.sharding import Box

_MATRIX_DIMS = 2


@overload
def orthogonal_(
    tensor: torch.Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    batch_dims: int = 0,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor: ...


@overload
def orthogonal_(
    tensor: Iterable[torch.Tensor],
    gain: float | Sequence[float] = 1,
    generator: torch.Generator | None = None,
    *,
    batch_dims: int = 0,
    seed: int | None = None,
    name: Sequence[str | None] | None = None,
    box: Sequence[Box | None] | None = None,
) -> list[torch.Tensor]: ...


@overridable
def orthogonal_(
    tensor: torch.Tensor | Iterable[torch.Tensor],
    gain: float | Sequence[float] = 1,
    generator: torch.Generator | None = None,
    *,
    batch_dims: int = 0,
    seed: int | None = None,
    name: str | Sequence[str | None] | None = None,
    box: Box | Sequence[Box | None] | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """Fill the tensor, or many, with random (semi-)orthogonal matrices times gain, in place.

    A matrix is uniform on the orthogonal group (Haar): the product of n random reflections. Their
    vectors come from the stream, all known beforehand, so that whole panels of them are applied as
    matrix products; there is no QR. Rows are orthonormal if there are at most as many as columns,
    else columns are. Matrices with sides of at most 128 are made side by side in one call of a
    kernel, so a list or a batch of them is much faster than a loop. On a GPU so are larger ones of
    one size, with equal gains.

    Args:
        tensor: [rows, ...], at least two dimensions after the batch's; those after the first are
            flattened to columns. float16, bfloat16 (computed in float32), float32 or float64, any
            strides. Or several such tensors, on any devices; none is written unless all are fit.
        gain: Factor, finite; for several tensors also a list or tuple, one each.
        generator: As in `uniform_`; one draw per tensor.
        batch_dims: How many of the first dimensions number independent matrices, as in
            [heads, d, d]. The four gates of an LSTM are such a batch:
            `orthogonal_(lstm.weight_hh_l0.detach().unflatten(0, (4, -1)), batch_dims=1)`.
        seed: As in `uniform_`.
        name: As in `uniform_`; for several tensors, one name each.
        box: As in `uniform_`; for several tensors, one each.

    Returns:
        The tensor, or the list of tensors.

    Raises:
        TypeError: batch_dims is not an integer; otherwise as `uniform_`.
        ValueError: fewer than two dimensions after the batch's, batch_dims < 0, gain not finite, a
            tensor that occurs twice, names or gains of another number; otherwise as `uniform_`.
        RuntimeError: elements of a tensor share memory (expanded tensors).

    Determinism: run_to_run. The reflections are bitwise the same on any device and for any number
        of threads; their product is rounded as torch's matrix product rounds, which depends on
        device, library, threads and the sizes of a shard. Where both sides are at most 128:
        bitwise, shards included.
    Source: Stewart 1980, SIAM J. Numer. Anal. 17, "The efficient generation of random orthogonal
        matrices with an application to condition estimators"; panels by the UT transform, Joffrain
        et al. 2006, "Accumulating Householder transformations, revisited". The signature is
        torch.nn.init.orthogonal_ (Saxe et al. 2013).
    """
    function = "orthogonal_"
    one = isinstance(tensor, torch.Tensor) or not isinstance(tensor, Iterable)
    tensors: list[torch.Tensor] = [tensor] if one else list(tensor)  # type: ignore[list-item]
    if torch.compiler.is_compiling():
        if box is not None:
            raise ValueError(f"initstats.{function}: expected no box inside torch.compile, got one")
        for each in tensors:
            refuse_in_graph(function, each)
        orthogonal_in_graph(tensors, gain, generator, batch_dims, seed, name, one=one)
        return tensors[0] if one else tensors
    if transform_level() is not None:
        if one and fill_examples(
            function,
            tensors[0],
            lambda example: EAGER["orthogonal_"](
                example,
                gain,
                generator,
                batch_dims=batch_dims,
                seed=seed,
                name=name,
                box=box,
            ),
            drawn=seed is None,
        ):
            return tensors[0]
        refuse_examples(function, tensors)
    _check_batch_dims(function, batch_dims)
    tensors_to_fill(function, tensors)
    boxes: list[Any] = [box] * len(tensors) if one or box is None else _each("box", box, tensors)
    gains = _gains(function, gain, len(tensors), one=one)
    names = None if name is None else _each("name", name, tensors)
    if len(set(map(id, tensors))) != len(tensors):
        raise ValueError(f"initstats.{function}: expected every tensor once, got one tensor twice")
    _fill_all(function, tensors, gains, batch_dims, boxes, generator, seed, names)
    return tensors[0] if one else tensors


EAGER["orthogonal_"] = orthogonal_


@overridable
def delta_orthogonal_(
    tensor: torch.Tensor,
    gain: float = 1,
    generator: torch.Generator | None = None,
    *,
    groups: int = 1,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill the weight of a convolution with zeros and an orthogonal matrix at its centre, in place.

    With circular padding (and away from the border with any) the convolution then keeps the norm of
    its input, times gain; deep networks of such layers train without normalisation.

    Args:
        tensor: Weight of a convolution, [out_channels, in_channels / groups, k, ...] with one to
            three kernel dimensions; dtypes and strides as in `orthogonal_`. The centre of a kernel
            dimension is (k - 1) // 2, where padding="same" has it.
        gain: Factor, finite.
        generator: As in `uniform_`.
        groups: Of the convolution: each gets an orthogonal matrix of its own.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.

    Returns:
        The tensor.

    Raises:
        TypeError: groups is not an integer; otherwise as `orthogonal_`.
        ValueError: not three to five dimensions, groups < 1 or no divisor of out_channels, a group
            with more channels in than out (its norm cannot be kept); otherwise as `orthogonal_`.
        RuntimeError: as `orthogonal_`.

    Determinism: run_to_run, as `orthogonal_`.
    Source: Xiao et al. 2018, "Dynamical isometry and a mean field theory of CNNs", section 2.4.
    """
    function = "delta_orthogonal_"
    if transform_level() is not None and fill_examples(
        function,
        tensor,
        lambda example: delta_orthogonal_(
            example, gain, generator, groups=groups, seed=seed, name=name, box=box
        ),
        drawn=seed is None,
    ):
        return tensor
    tensor_to_fill(function, tensor)
    if tensor.dim() not in (3, 4, 5):
        raise ValueError(
            f"initstats.{function}: expected a weight with 3, 4 or 5 dimensions,"
            f" got shape={tuple(tensor.shape)}"
        )
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(
            f"initstats.{function}: expected groups to be an integer, got groups={groups!r}"
        )
    (local,), (pieces,) = shards_of(function, [tensor], [box])
    outputs, inputs = (tensor.shape if box is None else box.size)[:2]
    if groups < 1 or outputs % groups != 0:
        raise ValueError(
            f"initstats.{function}: expected groups >= 1 that divides out_channels={outputs},"
            f" got groups={groups}"
        )
    if inputs > outputs // groups:
        raise ValueError(
            f"initstats.{function}: expected at most as many channels in as out,"
            f" got in={inputs}, out={outputs // groups}"
        )
    scale = finite_gain(function, gain)
    if not has_memory(local) or not _is_any(tensor, box):
        return tensor
    _ops.check_memory(function, local)
    keys = {0: draw_key(function, generator=generator, seed=seed, name=name)}
    key = keys[0] if seed is not None else agreed_keys(function, [tensor], keys)[0]
    with torch.no_grad():
        if local is tensor and box is None:
            _write_centre(tensor, groups, key, scale)
        for slices, place in pieces if local is not tensor or box is not None else ():
            write_delta_orthogonal_piece(local[slices], place, groups, key, scale)
        torch.autograd.graph.increment_version(list({tensor, local}))
    return tensor


def _write_centre(tensor: torch.Tensor, groups: int, key: int, gain: float) -> None:
    """Write a whole weight of `delta_orthogonal_`."""
    outputs, inputs = tensor.shape[:2]
    tensor.zero_()
    centre = tensor
    for k in tensor.shape[2:]:
        centre = centre.select(2, (k - 1) // 2)
    write_matrices([(centre.view(groups, outputs // groups, inputs), 1, key, gain)])


def finite_gain(function: str, gain: object) -> float:
    """Return the gain as a float. Raises TypeError, or ValueError where it is not finite."""
    scale = number(function, "gain", gain)
    if not math.isfinite(scale):
        raise ValueError(f"initstats.{function}: expected gain to be finite, got gain={gain}")
    return scale


def _check_batch_dims(function: str, batch_dims: int) -> None:
    if isinstance(batch_dims, bool) or not isinstance(batch_dims, int):
        raise TypeError(
            f"initstats.{function}: expected batch_dims to be an integer,"
            f" got batch_dims={batch_dims!r}"
        )
    if batch_dims < 0:
        raise ValueError(
            f"initstats.{function}: expected batch_dims >= 0, got batch_dims={batch_dims}"
        )


def _fill_all(
    function: str,
    tensors: list[torch.Tensor],
    gains: list[float],
    batch_dims: int,
    boxes: list[Box | None],
    generator: torch.Generator | None,
    seed: int | None,
    names: list[str | None] | None,
) -> None:
    """Draw the keys and write what this rank holds."""
    local, pieces = shards_of(function, tensors, boxes)
    _check(function, tensors, local, batch_dims)
    real = [i for i in places_with_memory(local) if _is_any(tensors[i], boxes[i])]
    if len(real) > 1:
        check_separate(function, [local[i] for i in real])
    keys = keys_by_place(function, real, len(tensors), generator=generator, seed=seed, names=names)
    if seed is None:
        keys = agreed_keys(function, tensors, keys)
    if transformed():
        forget_tangents(function, [local[i] for i in real])
    whole = [i for i in real if local[i] is tensors[i] and boxes[i] is None]
    with torch.no_grad():
        write_matrices([(tensors[i], batch_dims, keys[i], gains[i]) for i in whole])
        for i in sorted({*real} - {*whole}):
            for slices, place in pieces[i]:
                write_orthogonal_piece(local[i][slices], place, batch_dims, keys[i], gains[i])
            torch.autograd.graph.increment_version(list({tensors[i], local[i]}))


def _each(name: str, value: Any, tensors: Sequence[object]) -> list[Any]:
    """Return one value per tensor from one value or a sequence."""
    values = [value] if isinstance(value, str) else list(value)
    if len(values) != len(tensors):
        raise ValueError(
            f"initstats.orthogonal_: expected one {name} per tensor, {len(tensors)},"
            f" got {len(values)}"
        )
    return values


def _gains(function: str, gain: float | Sequence[float], tensors: int, *, one: bool) -> list[float]:
    """Return one finite gain per tensor."""
    if isinstance(gain, (list, tuple)) and not one:
        return [finite_gain(function, g) for g in numbers_for(function, "gain", gain, tensors)]
    return [finite_gain(function, gain)] * tensors


def _is_any(tensor: torch.Tensor, box: Box | None) -> bool:
    """Whether the whole tensor has elements: then every rank draws."""
    return tensor.numel() > 0 if box is None else 0 not in box.size


def _check(
    function: str, tensors: Sequence[torch.Tensor], local: Sequence[torch.Tensor], batch_dims: int
) -> None:
    for tensor, memory in zip(tensors, local, strict=True):
        if tensor.dim() < _MATRIX_DIMS + batch_dims:
            after = f" after batch_dims={batch_dims}" if batch_dims else ""
            raise ValueError(
                f"initstats.{function}: Only tensors with 2 or more dimensions{after} are"
                f" supported, got shape={tuple(tensor.shape)}"
            )
        if has_memory(memory):
            check = _ops.check_storage if memory.is_contiguous() else _ops.check_memory
            check(function, memory)


def write_matrices(todo: Sequence[tuple[torch.Tensor, int, int, float]]) -> None:
    """Fill tensors, each with its batch_dims, key and gain, which are checked and not empty."""
    small: list[tuple[torch.Tensor, int, float]] = []
    together: list[tuple[torch.Tensor, int, float]] = []
    copied = []
    for tensor, batch_dims, key, gain in todo:
        shape = tensor.shape
        matrices = tensor
        if batch_dims or len(shape) != _MATRIX_DIMS:
            flattened = (math.prod(shape[:batch_dims]), shape[batch_dims], -1)
            try:
                matrices = tensor.view(flattened)
            except RuntimeError:  # strides that no view can flatten
                matrices = torch.empty_like(tensor, memory_format=torch.contiguous_format)
                matrices = matrices.view(flattened)
                copied.append((tensor, matrices))
            shape = matrices.shape
        if shape[-1] <= _ops.SMALL_SIDE and shape[-2] <= _ops.SMALL_SIDE:
            small.append((matrices, key, gain))
            continue
        batch = matrices if matrices.dim() > _MATRIX_DIMS else matrices[None]
        if prefers_few_calls(tensor.device):
            together.append((batch, key, gain))
        else:
            write_batch(batch, key, gain)
    write_together(together)
    for device in {matrices.device for matrices, *_ in small}:
        here = [each for each in small if each[0].device == device]
        _ops.small_orthogonal_(*(list(column) for column in zip(*here, strict=True)))
    for tensor, matrices in copied:
        tensor.copy_(matrices.view(tensor.shape))
    torch.autograd.graph.increment_version([tensor for tensor, *_ in todo])
