"""How `fast_init` gets at fills of code that it does not own: a torch function mode, and bodies.

The mode sees every call of a tensor's method in its thread. The functions of torch.nn.init get
another body (`initstats/patch/bodies.py`) while any thread is inside; a thread that is not inside runs
the original one. Torch shows some of those functions to modes too, but under the name that stands
in its module at the moment, which transformers replaces while it initialises a model.
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

from initstats import fills, orthogonal_fills, scaled_fills, sparse_fills, stand_ins
from initstats.patch.report import AccelerationReport
from initstats.init.constant_fills import dirac_
from initstats.init._validate import fillable_dtype

Fill = Callable[..., torch.Tensor]

# What gets another body, and what the body calls.
_BODIES: dict[str, tuple[Fill, Fill]] = {
    "torch.nn.init.uniform_": (stand_ins.uniform_, fills.uniform_),
    "torch.nn.init.normal_": (stand_ins.normal_, fills.normal_),
    "torch.nn.init.kaiming_uniform_": (stand_ins.kaiming_uniform_, scaled_fills.kaiming_uniform_),
    "torch.nn.init.xavier_uniform_": (stand_ins.xavier_uniform_, scaled_fills.xavier_uniform_),
    "torch.nn.init.xavier_normal_": (stand_ins.xavier_normal_, scaled_fills.xavier_normal_),
    "torch.nn.init.kaiming_normal_": (stand_ins.kaiming_normal_, scaled_fills.kaiming_normal_),
    "torch.nn.init.trunc_normal_": (stand_ins.trunc_normal_, fills.trunc_normal_),
    "torch.nn.init.orthogonal_": (stand_ins.orthogonal_, orthogonal_fills.orthogonal_),
    "torch.nn.init.sparse_": (stand_ins.sparse_, sparse_fills.sparse_),
    "torch.nn.init.dirac_": (stand_ins.dirac_, dirac_),
    # timm's own, which its trunc_normal_, trunc_normal_tf_ and lecun_normal_ call.
    "timm.layers.weight_init._trunc_normal_": (
        stand_ins._trunc_normal_,  # its name in timm
        fills.trunc_normal_,
    ),
}


_OF_TORCH = {
    name: getattr(torch.nn.init, name.removeprefix("torch.nn.init."), None)
    for name in _BODIES
    if name.startswith("torch.nn.init.")
}


class _Thread(threading.local):
    """What a thread is inside of."""

    def __init__(self) -> None:
        self.reports: list[AccelerationReport] = []
        self.mode: _Interceptor | None = None
        self.in_torch = False  # torch does a fill that was left to it


_THREAD = _Thread()
_LOCK = threading.Lock()
_inside = 0  # blocks that are open, of all threads
_originals: dict[str, FunctionType] = {}  # functions as they were, of those whose body is replaced
_replaced: list[tuple[FunctionType, Any]] = []  # functions, and the bodies that they had


def enter(report: AccelerationReport) -> None:
    """Accelerate fills in this thread, and tell the report."""
    global _inside  # noqa: PLW0603  # bodies are replaced for the whole process
    with _LOCK:
        if _inside == 0:
            _replace_bodies()
        _inside += 1
    _THREAD.reports.append(report)
    if len(_THREAD.reports) == 1:
        _THREAD.mode = _Interceptor()
        _THREAD.mode.__enter__()  # type: ignore[no-untyped-call]


def leave(report: AccelerationReport) -> None:
    """End what `enter` began with this report."""
    global _inside  # noqa: PLW0603
    _THREAD.reports.remove(report)
    mode = _THREAD.mode
    if mode is not None and not _THREAD.reports:
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        _THREAD.mode = None
    with _LOCK:
        _inside -= 1
        if _inside == 0:
            _restore_bodies()


def stand_in(function: str, *arguments: Any) -> Any:
    """Do what a replaced body is called for: our fill, or the original one."""
    original = _originals[function]
    if not _THREAD.reports or _THREAD.in_torch or torch.compiler.is_compiling():
        return original(*arguments)
    short = function.rpartition(".")[2]
    return _accelerate(short.removeprefix("_"), _BODIES[function][1], original, arguments, {})


def _replace_bodies() -> None:
    for function, original, body in _found():
        theirs = [(p.name, p.kind) for p in inspect.signature(original).parameters.values()]
        if theirs != [(p.name, p.kind) for p in inspect.signature(body).parameters.values()]:
            continue  # of a version of torch or timm that is not known: left alone
        kept = FunctionType(
            original.__code__, original.__globals__, original.__name__, original.__defaults__
        )
        _originals[function] = kept
        _replaced.append((original, original.__code__))
        original.__code__ = body.__code__


def _restore_bodies() -> None:
    while _replaced:
        function, code = _replaced.pop()
        function.__code__ = code


def _found() -> Iterator[tuple[str, FunctionType, FunctionType]]:
    """Yield the names, functions and new bodies of what is imported and may get one."""
    for function, (body, _) in _BODIES.items():
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
        fill = _SEEN.get(func)
        if fill is None or _THREAD.in_torch:
            return func(*args, **(kwargs or {}))
        return fill(func, args, kwargs or {})


def _method(name: str, fill: Fill, words: dict[str, str]) -> Callable[..., Any]:
    """Return what handles a method of tensors; `words` translates its keywords to ours."""

    def handle(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if args[0].requires_grad and torch.is_grad_enabled():
            return func(*args, **kwargs)  # torch has to record it, or to refuse it
        ours = {words.get(word, word): value for word, value in kwargs.items()}
        return _accelerate(name, fill, func, args, kwargs, ours)

    return handle


def _function(name: str, fill: Fill) -> Callable[..., Any]:
    """Return what handles a function of torch.nn.init."""

    def handle(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return _accelerate(name, fill, func, args, kwargs)

    return handle


# The functions for the case that they could not get another body.
_SEEN: dict[Any, Callable[..., Any]] = {
    torch.Tensor.normal_: _method("normal_", fills.normal_, {}),
    torch.Tensor.uniform_: _method("uniform_", fills.uniform_, {"from": "a", "to": "b"}),
    torch.nn.init.normal_: _function("normal_", fills.normal_),
    torch.nn.init.uniform_: _function("uniform_", fills.uniform_),
    torch.nn.init.kaiming_uniform_: _function("kaiming_uniform_", scaled_fills.kaiming_uniform_),
}


def _accelerate(
    name: str,
    fill: Fill,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    words: dict[str, Any] | None = None,
) -> Any:
    """Call our fill where it can take the tensor, else the original function; tell the reports."""
    tensor = args[0] if args else kwargs.get("tensor")
    reason = _why_not(tensor)
    if reason is None:
        try:
            result: torch.Tensor = fill(*args, **(kwargs if words is None else words))
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError):
            reason = "arguments left to torch"
        else:
            for report in _THREAD.reports:
                report.add(name, result.numel())
            return result
    for report in _THREAD.reports:
        report.leave(name, reason)
    _THREAD.in_torch = True
    try:
        return original(*args, **kwargs)
    finally:
        _THREAD.in_torch = False


def _why_not(tensor: object) -> str | None:
    """Return why our fills leave the tensor to torch, or nothing if they take it."""
    kind = type(tensor)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return f"a {kind.__name__}"
    assert isinstance(tensor, torch.Tensor)
    if not fillable_dtype(tensor.dtype):
        return str(tensor.dtype)
    if tensor.device.type not in {"cpu", "cuda"}:
        return f"on {tensor.device.type}"
    return None if tensor.numel() else "no elements"
