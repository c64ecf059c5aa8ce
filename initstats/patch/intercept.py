"""Intercept fills of third-party code: a torch function mode, and replaced function bodies.

The mode sees every call of a tensor's method in its thread. The functions of torch.nn.init get
another body (`initstats/patch/bodies.py`) while any thread is inside; a thread that is not
inside runs the original one. Torch shows some of those functions to modes too, but under the name
that stands in its module at the moment, which transformers replaces while it initialises a model.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from initstats.init import random, xavier_kaiming
from initstats.init._distributions import DISTRIBUTIONS
from initstats.patch import bodies
from initstats.patch.accelerate import ORIGINALS, THREAD, Fill, accelerate
from initstats.patch.gathered import constant, note_rows
from initstats.patch.report import AccelerationReport

# What gets another body.
_BODIES: dict[str, Fill] = {
    "torch.nn.init.uniform_": bodies.uniform_,
    "torch.nn.init.normal_": bodies.normal_,
    "torch.nn.init.kaiming_uniform_": bodies.kaiming_uniform_,
    "torch.nn.init.xavier_uniform_": bodies.xavier_uniform_,
    "torch.nn.init.xavier_normal_": bodies.xavier_normal_,
    "torch.nn.init.kaiming_normal_": bodies.kaiming_normal_,
    "torch.nn.init.trunc_normal_": bodies.trunc_normal_,
    "torch.nn.init.orthogonal_": bodies.orthogonal_,
    "torch.nn.init.sparse_": bodies.sparse_,
    "torch.nn.init.dirac_": bodies.dirac_,
    "torch.nn.init.eye_": bodies.eye_,
    # timm's own, which its trunc_normal_, trunc_normal_tf_ and lecun_normal_ call.
    "timm.layers.weight_init._trunc_normal_": bodies._trunc_normal_,
}

_OF_TORCH = {
    name: getattr(torch.nn.init, name.removeprefix("torch.nn.init."), None)
    for name in _BODIES
    if name.startswith("torch.nn.init.")
}


_LOCK = threading.Lock()
_inside = 0  # blocks that are open, of all threads
_replaced: list[tuple[FunctionType, Any]] = []  # functions, and the bodies that they had


def enter(report: AccelerationReport, *, generators: bool) -> None:
    """Accelerate fills in this thread, and tell the report."""
    global _inside  # noqa: PLW0603  # bodies are replaced for the whole process
    with _LOCK:
        if _inside == 0:
            _replace_bodies()
        _inside += 1
    THREAD.blocks.append((report, generators))
    if len(THREAD.blocks) == 1:
        THREAD.mode = _Interceptor()
        THREAD.mode.__enter__()  # type: ignore[no-untyped-call]


def leave(report: AccelerationReport, *, generators: bool) -> None:
    """End what `enter` began with this report."""
    global _inside  # noqa: PLW0603
    THREAD.blocks.remove((report, generators))
    mode = THREAD.mode
    if mode is not None and not THREAD.blocks:
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        THREAD.mode = None
    with _LOCK:
        _inside -= 1
        if _inside == 0:
            _restore_bodies()


def _replace_bodies() -> None:
    for function, original, body in _found():
        theirs = [(p.name, p.kind) for p in inspect.signature(original).parameters.values()]
        if theirs != [(p.name, p.kind) for p in inspect.signature(body).parameters.values()]:
            continue  # of a version of torch or timm that is not known: left alone
        kept = FunctionType(
            original.__code__, original.__globals__, original.__name__, original.__defaults__
        )
        ORIGINALS[function] = kept
        _replaced.append((original, original.__code__))
        original.__code__ = body.__code__


def _restore_bodies() -> None:
    while _replaced:
        function, code = _replaced.pop()
        function.__code__ = code


def _found() -> Iterator[tuple[str, FunctionType, FunctionType]]:
    """Yield names, functions and new bodies of imported functions to replace."""
    for function, body in _BODIES.items():
        module, _, name = function.rpartition(".")
        original = _OF_TORCH.get(function, getattr(sys.modules.get(module), name, None))
        # Under the name there may be another module's function by now.
        if isinstance(original, FunctionType) and original.__module__ == module:
            assert isinstance(body, FunctionType)
            yield function, original, body


class _Interceptor(TorchFunctionMode):
    """Sees the calls of torch's functions in one thread."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        # Dynamo traces this method: its graph has torch's own call.
        fill = None if torch.compiler.is_compiling() else _SEEN.get(func)
        if fill is None or THREAD.in_torch:
            return func(*args, **(kwargs or {}))
        return fill(func, args, kwargs or {})


def _method(name: str, fill: Fill, words: dict[str, str]) -> Callable[..., Any]:
    """Return what handles a method of tensors; `words` translates its keywords to ours."""

    def handle(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if args[0].requires_grad and torch.is_grad_enabled():
            return func(*args, **kwargs)  # torch has to record it, or to refuse it
        ours = {words.get(word, word): value for word, value in kwargs.items()}
        return accelerate(name, fill, func, args, kwargs, ours)

    return handle


def _function(name: str, fill: Fill) -> Callable[..., Any]:
    """Return what handles a function of torch.nn.init."""

    def handle(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return accelerate(name, fill, func, args, kwargs)

    return handle


_SEEN: dict[Any, Callable[..., Any]] = {
    # Methods of tensors that draw from one of our distributions.
    getattr(torch.Tensor, family.name): _method(
        family.name,
        getattr(random, family.name),
        dict(zip(family.method, family.parameters, strict=True)),
    )
    for family in DISTRIBUTIONS
    if family.method
}
_SEEN |= {
    torch.Tensor.__getitem__: note_rows,
    torch.Tensor.fill_: constant("fill_"),
    torch.Tensor.zero_: constant("zero_"),
    torch.nn.init.constant_: constant("constant_"),
    # The functions for the case that they could not get another body.
    torch.nn.init.normal_: _function("normal_", random.normal_),
    torch.nn.init.uniform_: _function("uniform_", random.uniform_),
    torch.nn.init.kaiming_uniform_: _function("kaiming_uniform_", xavier_kaiming.kaiming_uniform_),
}
