"""Checks of fill arguments, for one tensor and many: each raises before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import attrgetter

import torch
from torch._C import _functorch
from torch._subclasses.fake_tensor import FakeTensor

from initstats import _ops
from initstats.init._transforms import traced
from initstats.sharding import PLAIN_TYPES, engine_loaded, refuse_managed, refuse_subclass

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DEVICES = {"cpu", "cuda", "meta"}  # where there are kernels, and where nothing happens
_KIND = attrgetter("dtype", "layout", "is_leaf", "device.type")
_STORAGE = torch.Tensor.untyped_storage


def tensor_to_fill(function: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor if a fill can write it.

    Raises:
        TypeError: not a tensor, a subclass that does not own its memory, sparse, nested, quantised,
            of another dtype, on another device, or managed by an engine (`refuse_managed`).
        ValueError: in the middle of an autograd graph.
        RuntimeError: while `torch.jit.trace` runs.
    """
    refuse_tracing(function)
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(
            f"initstats.{function}: expected a torch.Tensor, got {type(tensor).__name__}"
        )
    if tensor.layout is not torch.strided or tensor.is_nested:
        what = "a nested tensor" if tensor.is_nested else f"layout={tensor.layout}"
        raise TypeError(f"initstats.{function}: expected a dense tensor, got {what}")
    if tensor.dtype not in _DTYPES:
        kind = "a quantized tensor" if tensor.is_quantized else f"dtype={tensor.dtype}"
        raise TypeError(
            f"initstats.{function}: expected dtype float16, bfloat16, float32 or float64,"
            f" got {kind}"
        )
    if not tensor.is_cpu:
        check_device(function, tensor)
    if type(tensor) is not torch.Tensor:
        if type(tensor) is not torch.nn.Parameter:
            refuse_subclass(function, tensor)
        refuse_managed(function, tensor)
    if tensor.requires_grad and not tensor.is_leaf and not _is_part_of_a_parameter(tensor):
        raise ValueError(
            f"initstats.{function}: expected a tensor outside the autograd graph, got one with"
            f" grad_fn={type(tensor.grad_fn).__name__} (fill what it is computed from, such as"
            " parametrizations.weight.original0 of a parametrized module; .detach() fills this"
            " result alone)"
        )
    return tensor


def refuse_tracing(function: str) -> None:
    """Raise RuntimeError while `torch.jit.trace` runs: it would lose what ops write into lists."""
    if traced():
        raise RuntimeError(
            f"initstats.{function}: expected a call outside of torch.jit.trace, which loses fills,"
            " got one inside (fill before tracing, or use torch.compile or torch.export)"
        )


def tensors_to_fill(function: str, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors if a fill can write each: what they have in common is checked at once.

    Raises:
        TypeError: as `tensor_to_fill`.
        ValueError: as `tensor_to_fill`.
        RuntimeError: as `tensor_to_fill`.
    """
    refuse_tracing(function)
    todo = list(tensors)
    common = set(map(type, todo)) <= PLAIN_TYPES and all(
        dtype in _DTYPES and layout is torch.strided and is_leaf and device in _DEVICES
        for dtype, layout, is_leaf, device in set(map(_KIND, todo))
    )
    if not common:
        for tensor in todo:
            tensor_to_fill(function, tensor)
    elif engine_loaded():
        refuse_managed(function, *todo)
    return todo


def check_device(function: str, tensor: torch.Tensor) -> None:
    """Raise TypeError for a tensor on a device for which there are no kernels."""
    device = tensor.device.type
    if device not in _DEVICES:
        raise TypeError(
            f"initstats.{function}: expected a tensor on the CPU, on CUDA or on meta, got"
            f" device={device} (fill one on the CPU with the same seed, then copy it)"
        )


def check_separate(function: str, tensors: Sequence[torch.Tensor]) -> None:
    """Raise ValueError if two of the tensors, which have memory, share a part of it."""
    try:
        storages = list(map(_STORAGE, tensors))
    except NotImplementedError:  # wrappers of torch.func's transforms
        tensors = [_unwrapped(tensor) for tensor in tensors]
        storages = list(map(_STORAGE, tensors))
    places = list(map(id, storages))  # a storage has one object as long as that lives
    if len(set(places)) == len(places):
        return
    sharing: dict[int, list[torch.Tensor]] = {}
    for place, tensor in zip(places, tensors, strict=True):
        if tensor.numel():
            sharing.setdefault(place, []).append(tensor)
    for together in sharing.values():
        if len(together) > 1:
            _check_views(function, together)


def _check_views(function: str, views: Sequence[torch.Tensor]) -> None:
    """Raise ValueError if views of one storage have elements in common."""
    # In elements, or in bytes where these differ.
    unit = views[0].element_size()
    unit = unit if all(view.dtype is views[0].dtype for view in views) else 1
    spans = []
    for view in views:
        _ops.check_memory(function, view)
        item = view.element_size() // unit
        sizes = (*view.shape, item)
        strides = (*(stride * item for stride in view.stride()), 1)
        first = view.storage_offset() * item
        reach = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        spans.append((first, first + reach, sizes, strides))
    spans.sort()
    if all(before[1] < after[0] for before, after in pairwise(spans)):
        return
    low, high = spans[0][0], max(span[1] for span in spans)
    taken = torch.zeros(high - low + 1, dtype=torch.bool, device="cpu")
    for first, _, sizes, strides in spans:
        elements = taken.as_strided(sizes, strides, first - low)
        if elements.any():
            raise ValueError(
                f"initstats.{function}: expected tensors that do not share memory, got two with"
                " elements in common (fill one of them)"
            )
        elements.fill_(True)


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def fillable_dtype(dtype: torch.dtype) -> bool:
    """Whether fills write tensors of the dtype."""
    return dtype in _DTYPES


def _is_part_of_a_parameter(tensor: torch.Tensor) -> bool:
    """Whether it is a view of a leaf, such as one gate's rows: filling it fills the parameter."""
    base = tensor._base  # noqa: SLF001  # torch's name for what a view is a view of
    return base is not None and base.is_leaf


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether there is something to write: not on meta, and not for torch's fake tensors."""
    if type(tensor) in PLAIN_TYPES:
        return not tensor.is_meta
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def places_with_memory(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Return the places of the tensors for which `has_memory` holds."""
    plain = set(map(type, tensors)) <= PLAIN_TYPES
    if plain and True not in {tensor.is_meta for tensor in tensors}:
        return list(range(len(tensors)))
    return [i for i, tensor in enumerate(tensors) if has_memory(tensor)]


def number(function: str, name: str, value: object) -> float:
    """Return the value as a float. Raises TypeError for what is not a number."""
    if type(value) is float:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, torch.Tensor) and value.dim() == 0 and value.device.type == "cpu":
        return float(value)
    if hasattr(value, "__float__") and not isinstance(value, (bool, torch.Tensor)):
        return float(value)
    raise TypeError(f"initstats.{function}: expected {name} to be a number, got {name}={value!r}")


def numbers_for(function: str, name: str, values: Sequence[object], tensors: int) -> list[float]:
    """Return the values, one per tensor. Raises ValueError for a list of another length."""
    if len(values) != tensors:
        raise ValueError(
            f"initstats.{function}: expected one {name} per tensor, {tensors}, got {len(values)}"
        )
    return [number(function, name, value) for value in values]
