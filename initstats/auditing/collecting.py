"""Hooks that keep fused records of what flows through a model, and never a copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from initstats.measuring import stats
from initstats.recipes.slots import stack_blocks
from initstats.record import Stats

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class Flow:
    """Records of one module: one per call, of its output and of the gradient of its output."""

    outputs: list[Stats] = field(default_factory=list)
    gradients: list[Stats] = field(default_factory=list)


class Collector:
    """Context manager that records the output of modules, and its gradient.

    It watches every module that has no children, owns parameters, or is a block of a stack; of
    several output tensors the first floating-point one. Hooks are removed at the end, also after
    an exception. What gradient checkpointing computes again during backward is not recorded twice.

    Args:
        model: The model.

    Attributes:
        flows: Records by module name, in the order of the first calls' ends.
    """

    def __init__(self, model: nn.Module) -> None:
        self.flows: dict[str, Flow] = {}
        self.in_backward = False
        self._model = model
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        blocks = {b for m in self._model.modules() for b in stack_blocks(m).values()}
        for name, module in self._model.named_modules():
            owns = next(module.parameters(recurse=False), None) is not None
            leaf = next(module.children(), None) is None
            if name and (leaf or owns or module in blocks):
                self._watch(name, module)
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _watch(self, name: str, module: nn.Module) -> None:
        """Hook one module."""

        def on_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = next(floating_tensors(output), None)
            if tensor is None:
                return
            flow = self.flows.setdefault(name, Flow())
            if not self.in_backward:
                flow.outputs.append(stats(tensor.detach(), histogram=False))
            # Also of a recomputed output: with reentrant checkpoints only that one gets a gradient,
            # with the others it gets none.
            if tensor.requires_grad:
                handle = tensor.register_hook(on_gradient)  # type: ignore[no-untyped-call]
                self._handles.append(handle)

        def on_gradient(gradient: Tensor) -> None:
            # Gradients that a model takes in its forward pass, as for a penalty on them, are others.
            if self.in_backward:
                flow = self.flows[name]
                flow.gradients.append(stats(gradient.detach(), histogram=False))

        self._handles.append(module.register_forward_hook(on_output))


@dataclass(frozen=True)
class CrossEntropy:
    """One call of a cross-entropy during the first forward pass.

    Attributes:
        classes: Number of classes, C.
        value: The loss in nats, a scalar tensor; reading it syncs.
    """

    classes: int
    value: Tensor


class CrossEntropyWatch(TorchFunctionMode):
    """Context manager that notes the cross-entropies a model and its loss compute.

    Only means over targets are noted, because only they can be compared with ln C.

    Attributes:
        calls: One per call, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[CrossEntropy] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the function, and note it when it is a cross-entropy."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (functional.cross_entropy, functional.nll_loss) and isinstance(result, Tensor):
            scores = args[0] if args else kwargs["input"]
            if result.dim() == 0 and kwargs.get("reduction", "mean") == "mean":
                classes = scores.shape[1] if scores.dim() > 1 else scores.shape[0]
                self.calls.append(CrossEntropy(classes, result.detach()))
        return result


def floating_tensors(value: Any) -> Iterator[Tensor]:
    """Walk through nested outputs of a module.

    Args:
        value: A tensor, or tuples, lists and mappings of them (the outputs of transformers are
            mappings).

    Yields:
        The floating-point tensors, in order.
    """
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floating_tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from floating_tensors(item)


def merged(records: list[Stats]) -> Stats | None:
    """Merge the records of several calls into one.

    Args:
        records: Any number of records.

    Returns:
        Their merge, or None for none.
    """
    return reduce(lambda a, b: a.merge(b), records) if records else None


def parameter_records(tensors: Mapping[str, Tensor]) -> dict[str, Stats]:
    """Take one record per tensor in one call.

    Args:
        tensors: Parameters or gradients by name; sparse gradients are made dense.

    Returns:
        The records by name.
    """
    dense = {n: t.to_dense() if t.layout is not torch.strided else t for n, t in tensors.items()}
    return dict(stats(dense, histogram=False).items()) if dense else {}
