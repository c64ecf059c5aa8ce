"""Fills inside torch.func's transforms and forward-mode automatic differentiation.

Ops write memory, and know neither the examples of `torch.vmap` nor tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch._C import _functorch
from torch.autograd import forward_ad

from initstats import _ops

transform_level = _functorch.maybe_current_level  # None outside of all transforms


def transformed() -> bool:
    """Whether a transform of torch.func is being run, or there may be tangents."""
    return transform_level() is not None or forward_ad._current_level >= 0  # noqa: SLF001


def traced() -> bool:
    """Whether `torch.jit.trace` is running."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()  # noqa: SLF001


def forget_tangents(function: str, tensors: Iterable[torch.Tensor]) -> None:
    """Set tangents to 0: what is filled does not depend on what was there.

    Of use inside forward-mode differentiation only. Raises RuntimeError for what a fill cannot
    write, before anything is written.
    """
    todo = list(tensors)
    for tensor in todo:
        _ops.check_memory(function, tensor)
    with torch.no_grad():
        for tensor in todo:
            tensor.zero_()  # torch's rules for it are those of a fill, at every level


def fill_examples(
    function: str,
    tensor: object,
    fill_part: Callable[[torch.Tensor], object],
    *,
    drawn: bool,
) -> bool:
    """Fill the examples of a tensor that `torch.vmap` maps over, and return whether it is one.

    With randomness="different" each example is a fill of its own, in order, as in a loop. With
    "same", or where a seed decides the numbers, all get the numbers of the first.

    Args:
        function: The name for messages.
        tensor: As the mapped function sees it.
        fill_part: Fills one example.
        drawn: Whether a generator decides the numbers.

    Raises:
        RuntimeError: Randomness is not allowed, or another transform is between the tensor and
            its `torch.vmap`; no generator has moved.
    """
    from torch._functorch.pyfunctorch import (  # of no use outside of transforms
        VmapInterpreter,
        retrieve_current_functorch_interpreter,
    )

    if not isinstance(tensor, torch.Tensor):
        return False  # which later checks refuse
    interpreter = retrieve_current_functorch_interpreter()
    here = _functorch.is_batchedtensor(tensor) and (
        _functorch.maybe_get_level(tensor) == interpreter.level()
    )
    if not (here and isinstance(interpreter, VmapInterpreter)):
        refuse_examples(function, [tensor])
        return False
    randomness = interpreter.randomness()
    if drawn and randomness == "error":
        raise RuntimeError(
            f'initstats.{function}: expected randomness="different" or "same" from torch.vmap, got'
            ' "error" (or give a seed)'
        )
    inner = _functorch.get_unwrapped(tensor)
    dim = _functorch.maybe_get_bdim(tensor)
    with interpreter.lower(), torch.no_grad():
        examples = [inner.select(dim, i) for i in range(inner.shape[dim])]
        if drawn and randomness == "different":
            for example in examples:
                fill_part(example)
        elif examples:
            fill_part(examples[0])
            for example in examples[1:]:
                example.copy_(examples[0])
    return True


def refuse_examples(function: str, tensors: Iterable[torch.Tensor]) -> None:
    """Raise RuntimeError where `torch.vmap` maps over a tensor and `fill_examples` cannot help."""
    for tensor in tensors:
        inner = tensor
        while _functorch.is_functorch_wrapped_tensor(inner):
            if _functorch.is_batchedtensor(inner):
                raise RuntimeError(
                    f"initstats.{function}: expected one tensor that the innermost torch.vmap maps"
                    " over, got a list or one of another transform (fill it outside of vmap)"
                )
            inner = _functorch.get_unwrapped(inner)
