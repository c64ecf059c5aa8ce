"""Steps of an audit: the first one recorded, further ones for their losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from initstats.auditing.batch import LossFunction, forward_loss, halves
from initstats.auditing.hooks import Collector, parameter_records
from initstats.auditing.leaves import unregistered
from initstats.auditing.loss_mode import LossCall, LossInputs, LossWatch
from initstats.auditing.operations import Operations
from initstats.auditing.probing import batch_report, dependence
from initstats.diagnostics.dataflow import BatchReport, DependenceReport
from initstats.diagnostics.layer_records import Flow
from initstats.diagnostics.nested import nested_tensors
from initstats.diagnostics.weight_rows import RowReport, equal_weights, row_report
from initstats.statistics.compute import stats
from initstats.statistics.record import Stats


@dataclass
class FirstSteps:
    """The steps of an audit, and the records they leave.

    Attributes:
        losses: Loss before each step.
        flows: Records of the modules in the first step.
        weights: Records of the parameters before the first step.
        rows: Counts of their different rows.
        copies: Name of an earlier parameter with the same values.
        gradients: Records of the first gradients.
        last_gradients: Records of the gradients of the last step.
        updates: Records of the change by the first step.
        calls: Loss functions that ran, by step.
        half_losses: Loss of the batch and of its halves after the steps, or empty.
        half_error: Why the halves could not run, or empty.
        log_softmaxes: Number of classes of every log_softmax of the first step.
        loss_inputs: What entered the loss functions of the first step.
        operations: What happened between modules in the first step.
        examples: The examples of the batch.
        dependence: Which outputs depend on which inputs.
        probe_error: Why this could not be measured, or empty.
        unregistered: What the loss depends on and that is no parameter of the model.
        unfilled_norms: Norms of other classes than torch's whose running statistics stay untouched.
    """

    model: nn.Module
    batch: Any
    loss_fn: LossFunction | None
    optimizer: Optimizer
    losses: list[Tensor] = field(default_factory=list)
    flows: dict[str, Flow] = field(default_factory=dict)
    weights: dict[str, Stats] = field(default_factory=dict)
    rows: dict[str, RowReport] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    gradients: dict[str, Stats] = field(default_factory=dict)
    last_gradients: dict[str, Stats] = field(default_factory=dict)
    updates: dict[str, Stats] = field(default_factory=dict)
    calls: list[list[LossCall]] = field(default_factory=list)
    half_losses: list[Tensor] = field(default_factory=list)
    half_error: str = ""
    log_softmaxes: list[int] = field(default_factory=list)
    loss_inputs: list[LossInputs] = field(default_factory=list)
    operations: Operations | None = None
    examples: BatchReport = field(default_factory=BatchReport)
    dependence: DependenceReport = field(default_factory=DependenceReport)
    probe_error: str = ""
    unregistered: tuple[str, ...] = ()
    unfilled_norms: tuple[str, ...] = ()

    def first_step(self, before: Mapping[str, Tensor]) -> None:
        """Run one step with hooks.

        Args:
            before: Copies of the parameters, by name.
        """
        self.weights = parameter_records(before)
        reports = {name: row_report(weight) for name, weight in before.items()}
        self.rows = {name: report for name, report in reports.items() if report is not None}
        self.copies = equal_weights(before, self.weights)
        self.optimizer.zero_grad()
        with Collector(self.model) as collector:
            self.flows = collector.flows  # also for the note on an exception
            watch = LossWatch(with_scores=True)
            self.operations = collector.operations(self.batch)
            with self.operations, collector.functions(), watch:
                loss = forward_loss(self.model, self.batch, self.loss_fn)
            self.unregistered = unregistered(loss, self.model, self._known())
            collector.in_backward = True
            loss.backward()  # type: ignore[no-untyped-call]
        self.calls.append(watch.calls)
        self.log_softmaxes = watch.log_softmaxes
        self.loss_inputs = watch.inputs
        self.gradients = self._gradients()
        self.optimizer.step()
        self.losses.append(loss.detach())
        # One tensor at a time: a difference lives only until its record is taken.
        self.updates = {
            name: stats(p.detach() - before[name], histogram=False)
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }

    def step(self) -> None:
        """Run one step without hooks."""
        self.optimizer.zero_grad()
        watch = LossWatch(with_scores=False)
        with watch:
            loss = forward_loss(self.model, self.batch, self.loss_fn)
        loss.backward()  # type: ignore[no-untyped-call]
        self.calls.append(watch.calls)
        self.optimizer.step()
        self.losses.append(loss.detach())

    def finish(self) -> None:
        """Record the last gradients, and norms whose statistics nothing has filled."""
        if len(self.losses) > 1:
            self.last_gradients = self._gradients()
        self.unfilled_norms = tuple(
            name
            for name, module in self.model.named_modules()
            if name in self.flows and not isinstance(module, _NormBase) and _is_unfilled(module)
        )

    def compare_halves(self) -> None:
        """Run the batch and its halves once more, to tell a sum over examples from a mean.

        Not when the first step shows it, because one loss function of torch returned the loss, nor
        when the batch has no halves or the model does not take them.
        """
        total = float(self.losses[0])
        parts = halves(self.batch)
        known = any(abs(float(call.value) - total) <= 1e-6 * abs(total) for call in self.calls[0])
        if known or parts is None:
            return
        try:
            losses = [
                forward_loss(self.model, part, self.loss_fn).detach()
                for part in (self.batch, *parts)
            ]
        except Exception as error:  # noqa: BLE001  # a batch of another size may not be wanted
            self.half_error = f"{type(error).__name__}: {error}"
        else:
            self.half_losses = losses

    def probe(self) -> None:
        """Change parts of the batch, and see which outputs move.

        Not when the model cannot run in eval mode, without gradients or on a part of the batch.
        """
        self.examples = batch_report(self.batch, self.loss_fn)
        try:
            self.dependence = dependence(self.model, self.batch, self.loss_fn)
        except Exception as error:  # noqa: BLE001  # the first steps have run: this may be unwanted
            self.probe_error = f"{type(error).__name__}: {error}"

    def _known(self) -> set[int]:
        """Return what a loss may depend on besides the model."""
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = list(self.loss_fn.parameters()) if isinstance(self.loss_fn, nn.Module) else []
        return {id(x) for x in (*held, *own, *nested_tensors(self.batch))}

    def _gradients(self) -> dict[str, Stats]:
        """Return the records of the gradients that arrived."""
        parameters = self.model.named_parameters()
        return parameter_records({n: p.grad for n, p in parameters if p.grad is not None})


def _is_unfilled(module: nn.Module) -> bool:
    """Tell whether a module has running statistics of 0 and 1."""
    buffers = dict(module.named_buffers(recurse=False))
    mean, variance = (buffers.get(name) for name in ("running_mean", "running_var"))
    if mean is None or variance is None or not any(True for _ in module.parameters(recurse=False)):
        return False
    return bool((mean == 0).all()) and bool((variance == 1).all())
