"""Hear the gradients before functions of `torch.nn.utils` clip them, with their norm if known."""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad

# Called with gradients, the type of the norm, and the norm of all of them, None if unknown.
Listener = Callable[[Sequence[Tensor], float, Tensor | None], None]

_LISTENERS: set[weakref.WeakMethod[Listener]] = set()
_TORCH: Any = clip_grad
_total_norm = _TORCH._get_total_norm  # noqa: SLF001
_group = _TORCH._group_tensors_by_device_and_dtype  # noqa: SLF001
# Those that group gradients, and tell no norm of theirs: `clip_grad_norm_` has told before.
_CLIPPERS = {
    inspect.unwrap(function).__code__
    for function in (clip_grad.clip_grad_value_, clip_grad._clip_grads_with_norm_)
}


@functools.wraps(_total_norm)
def _heard(tensors: Sequence[Tensor], norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Any:
    norm = _total_norm(tensors, norm_type, *args, **kwargs)
    if not torch.compiler.is_compiling():
        for reference in tuple(_LISTENERS):
            if (listener := reference()) is not None:
                listener(tensors, float(norm_type), norm)
    return norm


@functools.wraps(_group)
def _heard_groups(tensors: Sequence[Sequence[Tensor]], *args: Any, **kwargs: Any) -> Any:
    """Group as torch does; when a function that clips asks, tell the gradients, without a norm."""
    if sys._getframe(1).f_code in _CLIPPERS and not torch.compiler.is_compiling():  # noqa: SLF001
        for reference in tuple(_LISTENERS):
            if (listener := reference()) is not None:
                listener(tensors[0], 0.0, None)
    return _group(tensors, *args, **kwargs)


def listen(listener: Listener) -> None:
    """Call a method whenever gradients are about to be clipped, whoever imported the function.

    It is held weakly. `clip_grad_norm_` looks the computation of the norm up in its module, and
    `clip_grad_value_` and `clip_grads_with_norm_` that of the groups. Lightning, Accelerate and
    transformers call the first two, loops of torchtitan the last. The public `get_total_norm`
    is another name and stays as it is.
    """
    _LISTENERS.add(weakref.WeakMethod(listener))
    _TORCH._get_total_norm = _heard  # noqa: SLF001
    _TORCH._group_tensors_by_device_and_dtype = _heard_groups  # noqa: SLF001


def unlisten(listener: Listener | None = None) -> None:
    """Forget a listener, and those that are gone; without any, torch is as it was."""
    gone = {reference for reference in _LISTENERS if reference() is None}
    if listener is not None:
        gone.add(weakref.WeakMethod(listener))
    _LISTENERS.difference_update(gone)
    if not _LISTENERS:
        _TORCH._get_total_norm = _total_norm  # noqa: SLF001
        _TORCH._group_tensors_by_device_and_dtype = _group  # noqa: SLF001
