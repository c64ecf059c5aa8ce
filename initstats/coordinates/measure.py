"""Measure the outputs of every layer during the first steps of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from initstats.auditing.batch import LossFunction, forward_loss, inputs_of
from initstats.diagnostics.layer_records import floating_tensors
from initstats.recipes.parameters import stack_blocks
from initstats.statistics.compute import stats
from initstats.statistics.record import Stats

OUTPUT, CHANGE, OWN, INPUT = "output", "change", "own update", "input"
QUANTITIES = (OUTPUT, CHANGE, OWN, INPUT)
WHOLE = "(model)"  # the name of the model's own output


class Watch:
    """Hooks that record, in each forward pass, the first call of every layer.

    A layer is a module with parameters of its own, a block of a stack, or the model.

    Args:
        model: The model, with the weights of step 1.

    Attributes:
        records: By layer, quantity and step, records of "output"; of "change", the output minus
            that of step 1; of "own update", the part of it that the layer's own parameters make:
            the output minus that of the layer with the parameters of step 1 on the same input;
            and of "input".
        kinds: Class of each layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.records: dict[str, dict[str, dict[int, Stats]]] = {}
        self.kinds: dict[str, str] = {}
        self._model = model
        self._first: dict[str, Tensor] = {}
        self._step = 0
        self._seen: set[str] = set()
        self._again = False
        blocks = {id(b) for m in model.modules() for b in stack_blocks(m).values()}
        self._layers = {
            name or WHOLE: module
            for name, module in model.named_modules()
            if not name
            or id(module) in blocks
            or next(module.parameters(recurse=False), None) is not None
        }
        self._owners = {
            name: {n: p.detach().clone() for n, p in module.named_parameters()}
            for name, module in self._layers.items()
            if name != WHOLE and next(module.parameters(recurse=False), None) is not None
        }

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Record the forward pass of one step.

        Args:
            number: Its number, from 1.
        """
        self._step, self._seen = number, set()
        handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tensor = _main_tensor(output)
            if self._again or name in self._seen or tensor is None:
                return
            self._seen.add(name)
            with torch.no_grad():
                self._record(name, module, args, kwargs, tensor.detach())

        return leave

    def _record(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        self.kinds.setdefault(name, type(module).__name__)
        self._keep(name, OUTPUT, stats(output, histogram=False))
        entered = next(floating_tensors((args, kwargs)), None)
        if entered is not None:
            self._keep(name, INPUT, stats(entered.detach(), histogram=False))
        if self._step == 1:
            self._first[name] = output.clone()
            return
        first = self._first.get(name)
        if first is not None and first.shape == output.shape:
            self._keep(name, CHANGE, stats(output, histogram=False, minus=first))
        if name in self._owners:
            before = self._before(name, module, args, kwargs)
            if before is not None and before.shape == output.shape:
                self._keep(name, OWN, stats(output, histogram=False, minus=before))

    def _before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Tensor | None:
        """Return the output of a layer with the parameters of step 1 on this step's input."""
        buffers = {n: b.detach().clone() for n, b in module.named_buffers()}
        self._again = True
        devices = [p.device for p in module.parameters() if p.is_cuda]
        try:
            with torch.random.fork_rng(devices):
                again = functional_call(module, {**self._owners[name], **buffers}, args, kwargs)
        finally:
            self._again = False
        return _main_tensor(again)

    def _keep(self, name: str, quantity: str, record: Stats) -> None:
        self.records.setdefault(name, {}).setdefault(quantity, {})[self._step] = record


def measure(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFunction | None,
    optimizers: Sequence[Optimizer],
    *,
    steps: int,
    seed: int,
) -> tuple[Watch, list[Tensor]]:
    """Train a model for a few steps on one batch, and record every forward pass.

    Args:
        model: The model, in train mode.
        batch: As for `audit`.
        loss_fn: As for `audit`.
        optimizers: What steps its parameters.
        steps: Number of forward passes; there is one update between two of them.
        seed: Seed of torch before each pass, so that dropout is the same in all of them.

    Returns:
        The records, and the loss of each pass.
    """
    watch, losses = Watch(model), []
    for number in range(1, steps + 1):
        torch.manual_seed(seed)
        with watch.step(number):
            loss = forward_loss(model, batch, loss_fn, function="coord_check")
        losses.append(loss.detach())
        if number < steps:
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
    return watch, losses


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Return the cross-entropy of class scores, in the last dimension or the second.

    Args:
        output: Scores `[..., classes]` of targets `[...]`, or `[batch, classes, ...]`; or an output
            that holds them as `logits`.
        target: Classes, integers.
    """
    scores = getattr(output, "logits", output)
    if scores.dim() == target.dim() + 1 and scores.shape[:-1] == target.shape:
        scores, target = scores.flatten(0, -2), target.flatten()
    return nn.functional.cross_entropy(scores, target)


def default_loss(batch: Any, loss_fn: LossFunction | None) -> LossFunction | None:
    """Return the loss: the cross-entropy for a pair of inputs and integer targets.

    Args:
        batch: The batch.
        loss_fn: What the user gave; decides if it is not None.
    """
    if loss_fn is not None or not isinstance(batch, (tuple, list)) or len(batch) < 2:  # noqa: PLR2004
        return loss_fn
    target = batch[-1]
    is_class = isinstance(target, Tensor) and target.dtype in {torch.int64, torch.int32}
    return cross_entropy if is_class and inputs_of(batch, cross_entropy) else None


def _main_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a layer computes: its logits, or the first of two numbers or more."""
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    tensors = list(floating_tensors(output))
    return next((tensor for tensor in tensors if tensor.numel() > 1), None)
