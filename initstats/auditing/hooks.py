"""Hooks that record activations and gradients of a model, and never copy them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from initstats.auditing.function_mode import ActivationFunctions
from initstats.auditing.operations import Operations
from initstats.diagnostics.layer_records import (
    Flow,
    Logits,
    dot_products,
    floating_tensors,
    unit_axis,
)
from initstats.diagnostics.nested import nested_tensors
from initstats.diagnostics.unit_records import unit_records
from initstats.recipes.parameters import stack_blocks
from initstats.statistics.compute import stats
from initstats.statistics.record import Stats

if TYPE_CHECKING:
    from typing_extensions import Self


# Modules that pass values on: what they return was made by what came before.
_PASSING_KINDS = ("Dropout", "Identity", "Flatten", "Unflatten")
_NO_UNITS = (
    *_PASSING_KINDS,
    "MaxPool",
    "AvgPool",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "Embedding",
)


@dataclass(frozen=True)
class _Known:
    """Records of a tensor that is still alive: nothing is measured twice."""

    version: int
    record: Stats
    producer: str
    axis: int | None
    unit: tuple[int, int] = (0, 0)  # size and stride of the axis, which views keep

    def axis_of(self, tensor: Tensor) -> int | None:
        """Return the dimension of the units in a view, None where it is none of its own."""
        if self.axis is None:
            return None
        same = [d for d in range(tensor.dim()) if (tensor.shape[d], tensor.stride(d)) == self.unit]
        return self.axis if self.axis in same else next(iter(same), None)


@dataclass
class _Call:
    """A module that is running, with its input, which it may change in place."""

    name: str
    module: nn.Module
    watched: bool
    input: Tensor | None = None
    known: _Known | None = None
    functions: dict[str, int] = field(default_factory=dict)


class Collector:
    """Context manager that records inputs, outputs and gradients of modules.

    It watches every module that has no children, owns parameters, or is a block of a stack, and
    non-linearities that are called as functions; of several tensors the first floating-point one.
    Hooks are removed at the end, also after an exception. What gradient checkpointing computes
    again during backward is not recorded twice.

    Args:
        model: The model.

    Attributes:
        flows: Records by module name, in the order of the first calls' ends. A function that
            module `path` calls is `path.relu()`, its second call in one run `path.relu()[2]`.
        in_backward: To be set when backward begins.
        running: Names of the modules that are running, outermost first; after an exception those
            that it left.
    """

    def __init__(self, model: nn.Module) -> None:
        self.flows: dict[str, Flow] = {}
        self.in_backward = False
        self.running: list[str] = []
        self._model = model
        self._calls: list[_Call] = []
        self._outside = _Call("", model, watched=False)
        self._handles: list[RemovableHandle] = []
        self._known = WeakTensorKeyDictionary()
        self._batch = WeakTensorKeyDictionary()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._blocks = {b for m in self._model.modules() for b in stack_blocks(m).values()}
        for name, module in self._model.named_modules():
            self._watch(name, module)
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._known.clear()
        self._batch.clear()
        self._calls.clear()

    def functions(self) -> ActivationFunctions:
        """Return a context manager inside which functions are recorded too."""
        return ActivationFunctions(self._on_function_input, self._on_function)

    def operations(self, batch: Any = None) -> Operations:
        """Return a context manager inside which operations between modules are noted.

        Args:
            batch: The batch, to know its tensors in the loss.
        """
        return Operations(self._producer, self._innermost, nested_tensors(batch))

    def _innermost(self) -> str:
        """Return the module that is running, "" in the model itself and in the loss."""
        return self.running[-1] if self.running else ""

    def _producer(self, tensor: Tensor) -> str:
        """Return the module or function that made a tensor, "" when none did."""
        key = _whole(tensor)
        known: _Known | None = self._known.get(key)  # type: ignore[no-untyped-call]
        return "" if known is None or known.version != _version(key) else known.producer

    def _watch(self, name: str, module: nn.Module) -> None:
        """Hook one module."""
        owns = next(module.parameters(recurse=False), None) is not None
        leaf = next(module.children(), None) is None
        watched = bool(name) and (leaf or owns or module in self._blocks)

        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            call = _Call(name, module, watched)
            if not name:
                self._batch.update({_whole(x): True for x in floating_tensors((args, kwargs))})
            if watched and not self.in_backward:
                call.input = next(floating_tensors((args, kwargs)), None)
                call.known = None if call.input is None else self._record(call.input)
            self._calls.append(call)
            self.running = [running.name for running in self._calls]

        def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
            while self._calls and self._calls[-1].name != name:
                self._calls.pop()  # left by an exception that the model caught
            if not self._calls:
                return
            call = self._calls.pop()
            if output is not None:
                self.running = [running.name for running in self._calls]
            tensor = next(floating_tensors(output), None) if watched else None
            if tensor is not None:
                self._on_output(call, tensor)

        self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        self._handles.append(module.register_forward_hook(leave))

    def _on_output(self, call: _Call, tensor: Tensor) -> None:
        """Record the output of a module."""
        flow = self.flows.setdefault(call.name, Flow(type(call.module).__name__))
        if not self.in_backward:
            self._keep(flow, call, tensor)
            x, known = call.input, call.known
            if (
                x is not None
                and known is not None
                and known.version == _version(x)  # else it is not what entered
                and call.module in self._blocks
                and x.shape == tensor.shape
            ):
                flow.products.append(dot_products(x, tensor))
        # Also of a recomputed output: with reentrant checkpoints only that one gets a gradient,
        # with the others it gets none.
        if tensor.requires_grad:
            handle = tensor.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._on_gradient(flow, gradient)
            )
            self._handles.append(handle)

    def _on_gradient(self, flow: Flow, gradient: Tensor) -> None:
        """Record the gradient of an output."""
        # Gradients that a model takes in its forward pass, as for a penalty on them, are others.
        if self.in_backward:
            flow.gradients.append(stats(gradient.detach()))

    def _keep(self, flow: Flow, call: _Call, output: Tensor) -> None:
        """Keep the records of an output and of the input that made it."""
        producer, inherited = "", None
        if call.known is not None and call.input is not None:
            flow.inputs.append(call.known.record)
            producer = call.known.producer
            flow.producers[producer] = None
            flow.from_batch |= _whole(call.input) in self._batch
            if call.input.dim() == output.dim():
                inherited = call.known.axis_of(call.input)
        axis = unit_axis(call.module, output, inherited) if output.dim() > 0 else None
        made_by = producer if flow.kind.startswith(_PASSING_KINDS) else call.name
        record = self._record(output, made_by, axis)
        flow.outputs.append(record.record)
        flow.dtype = str(output.dtype).removeprefix("torch.")
        if isinstance(call.module, nn.Softmax):
            flow.row_length = output.shape[-1 if call.module.dim is None else call.module.dim]
        if axis is not None and _has_units(call.module):
            flow.add_units(producer, unit_records(output.detach(), axis))

    def _record(self, tensor: Tensor, producer: str = "", axis: int | None = None) -> _Known:
        """Return the record of a tensor, taken now or when it was made."""
        key = _whole(tensor)  # has the same record
        known: _Known | None = self._known.get(key)  # type: ignore[no-untyped-call]
        if known is None or known.version != _version(key) or producer:
            if known is not None and known.version == _version(key):
                record = known.record
            else:
                record = stats(tensor.detach())
            unit = (0, 0) if axis is None else (tensor.shape[axis], tensor.stride(axis))
            known = _Known(_version(key), record, producer, axis, unit)
            self._known[key] = known
        return known

    def _on_function_input(self, tensor: Tensor) -> _Known | None:
        """Record the input of a function, before it may change it in place."""
        return None if self.in_backward else self._record(tensor)

    def _on_function(
        self, name: str, inputs: tuple[Any, ...], known: Any, output: Tensor, scale: Any
    ) -> None:
        """Record a non-linearity that a module calls as a function."""
        if self.in_backward:
            return
        call = self._calls[-1] if self._calls else self._outside  # the loss
        is_module = call.watched and next(call.module.children(), None) is None
        if is_module and next(call.module.parameters(recurse=False), None) is None:
            return  # a module such as nn.ReLU, which has a record of its own
        count = call.functions[name] = call.functions.get(name, 0) + 1
        path = f"{call.name}." if call.name else ""
        place = f"{path}{name}()" + (f"[{count}]" if count > 1 else "")
        flow = self.flows.setdefault(place, Flow(name))
        if name == "scaled_dot_product_attention":
            query, key = inputs[0], inputs[1]
            width = query.shape[-1]
            factor = width**0.5 * (width**-0.5 if scale is None else float(scale))
            records = (self._record(query).record, self._record(key).record)
            flow.logits.append(Logits(*records, factor))
        elif name == "softmax":
            flow.row_length = output.shape[scale]
        flow.dtype = str(output.dtype).removeprefix("torch.")
        flow.inputs.append(known.record)
        flow.producers[known.producer] = None
        axis = known.axis_of(inputs[0])
        if axis is None and output.dim() > 0:
            axis = 1 if output.dim() > 3 else output.dim() - 1  # noqa: PLR2004  # images
        flow.outputs.append(self._record(output, place, axis).record)
        if axis is not None and name not in {"softmax", "scaled_dot_product_attention"}:
            flow.add_units(known.producer, unit_records(output.detach(), axis))


def parameter_records(tensors: Mapping[str, Tensor]) -> dict[str, Stats]:
    """Take one record per tensor in one call.

    Args:
        tensors: Parameters or gradients by name; sparse gradients are made dense.

    Returns:
        The records by name.
    """
    dense = {n: t.to_dense() if t.layout is not torch.strided else t for n, t in tensors.items()}
    return dict(stats(dense).items()) if dense else {}


def _has_units(module: nn.Module) -> bool:
    """Tell whether a module is a weight layer or a non-linearity."""
    if type(module).__name__.startswith(_NO_UNITS):
        return False
    owned = [parameter.dim() for parameter in module.parameters(recurse=False)]
    return max(owned) > 1 if owned else next(module.children(), None) is None


def _whole(tensor: Tensor) -> Tensor:
    """Return the tensor of which this one is a view of every element, or itself."""
    base = tensor._base  # noqa: SLF001
    return base if base is not None and base.numel() == tensor.numel() else tensor


def _version(tensor: Tensor) -> int:
    """Return the counter of in-place changes; 0 for inference tensors, which have none."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001
