"""Hear the gradient norm that `torch.nn.utils.clip_grad_norm_` computes before it clips."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad

# Called with gradients, the type of the norm, and the norm of all of them.
Listener = Callable[[Sequence[Tensor], float, Tensor], None]

_LISTENERS: set[weakref.WeakMethod[Listener]] = set()
_TORCH: Any = clip_grad
_total_norm = _TORCH._get_total_norm  # noqa: SLF001


@functools.wraps(_total_norm)
def _heard(tensors: Sequence[Tensor], norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Any:
    norm = _total_norm(tensors, norm_type, *args, **kwargs)
    if not torch.compiler.is_compiling():
        for reference in tuple(_LISTENERS):
            if (listener := reference()) is not None:
                listener(tensors, float(norm_type), norm)
    return norm


def listen(listener: Listener) -> None:
    """Call a method whenever gradients are about to be clipped, whoever imported the function.

    It is held weakly. `clip_grad_norm_` looks the computation of the norm up in its module;
    Lightning, Accelerate and transformers call it too. The public `get_total_norm` is another name
    and stays as it is.
    """
    _LISTENERS.add(weakref.WeakMethod(listener))
    _TORCH._get_total_norm = _heard  # noqa: SLF001


def unlisten(listener: Listener) -> None:
    """Forget a listener; without any, torch is as it was."""
    gone = {reference for reference in _LISTENERS if reference() is None}
    _LISTENERS.difference_update({weakref.WeakMethod(listener)}, gone)
    if not _LISTENERS:
        _TORCH._get_total_norm = _total_norm  # noqa: SLF001
