"""Run one third-party call of a fill on initstats, or on the original; count it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from initstats import _ops
from initstats.init import orthogonal_fills, random, sparse_fills, xavier_kaiming
from initstats.init._distributions import DISTRIBUTIONS
from initstats.init._validate import fillable_dtype
from initstats.init.constant_fills import dirac_, eye_
from initstats.patch.report import AccelerationReport
from initstats.sharding import is_dtensor, local_runs, local_tensor, unsharded_copies

Fill = Callable[..., torch.Tensor]

# The fill that runs instead of a function.
_OURS: dict[str, Fill] = {
    **{f"torch.nn.init.{f.name}": getattr(random, f.name) for f in DISTRIBUTIONS},
    "torch.nn.init.kaiming_uniform_": xavier_kaiming.kaiming_uniform_,
    "torch.nn.init.xavier_uniform_": xavier_kaiming.xavier_uniform_,
    "torch.nn.init.xavier_normal_": xavier_kaiming.xavier_normal_,
    "torch.nn.init.kaiming_normal_": xavier_kaiming.kaiming_normal_,
    "torch.nn.init.orthogonal_": orthogonal_fills.orthogonal_,
    "torch.nn.init.sparse_": sparse_fills.sparse_,
    "torch.nn.init.dirac_": dirac_,
    "torch.nn.init.eye_": eye_,
    "timm.layers.weight_init._trunc_normal_": random.trunc_normal_,
}


class _Thread(threading.local):
    """The open blocks of a thread."""

    def __init__(self) -> None:
        # One per open block: its report, and whether fills with an explicit generator run here.
        self.blocks: list[tuple[AccelerationReport, bool]] = []
        self.mode: TorchFunctionMode | None = None
        self.in_torch = False  # torch does a fill that was left to it


THREAD = _Thread()
# Functions as they were, of those whose body is replaced.
ORIGINALS: dict[str, FunctionType] = {}


def stand_in(function: str, *arguments: Any) -> Any:
    """Run the call of a replaced body: our fill, or the original function."""
    original = ORIGINALS[function]
    if not THREAD.blocks or THREAD.in_torch or torch.compiler.is_compiling():
        return original(*arguments)
    short = function.rpartition(".")[2]
    return accelerate(short.removeprefix("_"), _OURS[function], original, arguments, {})


def accelerate(
    name: str,
    fill: Fill,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    words: dict[str, Any] | None = None,
) -> Any:
    """Call our fill where it accepts the tensor, else the original function, and report it."""
    tensor = args[0] if args else kwargs.get("tensor")
    reason = _why_not(tensor)
    if reason is None and not THREAD.blocks[-1][1] and _has_generator(args, kwargs):
        reason = "an explicit generator"
    if reason is None:
        assert isinstance(tensor, torch.Tensor)
        memory = local_tensor(tensor) if is_dtensor(tensor) else tensor
        _ops.check_storage(name, memory)  # torch would write a storage that was freed
        try:
            result = fill(*args, **(kwargs if words is None else words))
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError):
            if _is_lost(name, tensor):
                raise
            reason = "arguments left to torch"
        else:
            for report in _reports():
                report.add(name, memory.numel())
            return result
    for report in _reports():
        report.leave(name, reason)
    THREAD.in_torch = True
    try:
        return original(*args, **kwargs)
    finally:
        THREAD.in_torch = False


def _is_lost(name: str, tensor: torch.Tensor) -> bool:
    """Tell whether what torch would write reaches no shard, or differs by the mesh."""
    if not is_dtensor(tensor):
        return id(tensor) in unsharded_copies()  # FSDP2 drops them when it shards again
    try:
        local_runs(name, tensor)
    except (TypeError, ValueError):
        return True
    return False


def _reports() -> list[AccelerationReport]:
    """Return the reports of the open blocks, each once."""
    return list(dict.fromkeys(report for report, _ in THREAD.blocks))


def _has_generator(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether a call names a generator."""
    return any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))


def _why_not(tensor: object) -> str | None:
    """Return why our fills leave the tensor to torch, or nothing if they take it."""
    kind = type(tensor)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter and not is_dtensor(tensor):
        return f"a {kind.__name__}"
    assert isinstance(tensor, torch.Tensor)
    if not fillable_dtype(tensor.dtype):
        return str(tensor.dtype)
    if tensor.device.type not in {"cpu", "cuda"}:
        return f"on {tensor.device.type}"
    return None if tensor.numel() else "no elements"
