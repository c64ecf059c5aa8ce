"""The steps of an audit: the first one recorded, and the evidence that they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from initstats.auditing.batches import LossFunction, forward_loss
from initstats.auditing.collecting import (
    Collector,
    CrossEntropyWatch,
    Flow,
    merged,
    parameter_records,
)
from initstats.auditing.depth import depth_series, has_normalisation
from initstats.auditing.evidence import (
    CrossEntropyReport,
    Evidence,
    LayerReport,
    LossReport,
    ParameterReport,
)
from initstats.measuring import stats
from initstats.planning import Plan
from initstats.recipes.slots import stack_blocks
from initstats.record import Stats
from initstats.verifying import compare


@dataclass
class FirstSteps:
    """The steps of an audit, and the records they leave. Nothing here reads a record."""

    model: nn.Module
    batch: Any
    loss_fn: LossFunction | None
    optimizer: Optimizer
    losses: list[Tensor] = field(default_factory=list)
    flows: dict[str, Flow] = field(default_factory=dict)
    weights: dict[str, Stats] = field(default_factory=dict)
    gradients: dict[str, Stats] = field(default_factory=dict)
    updates: dict[str, Stats] = field(default_factory=dict)
    watch: CrossEntropyWatch = field(default_factory=CrossEntropyWatch)

    def first_step(self, before: Mapping[str, Tensor]) -> None:
        """Run one step with hooks.

        Args:
            before: Copies of the parameters, by name.
        """
        self.weights = parameter_records(before)
        self.optimizer.zero_grad()
        with Collector(self.model) as collector:
            self.flows = collector.flows  # also for the note on an exception
            with self.watch:
                loss = forward_loss(self.model, self.batch, self.loss_fn)
            collector.in_backward = True
            loss.backward()  # type: ignore[no-untyped-call]
        parameters = dict(self.model.named_parameters())
        gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
        self.gradients = parameter_records(gradients)
        self.optimizer.step()
        self.losses.append(loss.detach())
        # One tensor at a time: a difference lives only until its record is taken.
        self.updates = {
            name: stats(p.detach() - before[name], histogram=False)
            for name, p in parameters.items()
            if p.requires_grad
        }

    def step(self) -> None:
        """Run one step without hooks."""
        self.optimizer.zero_grad()
        loss = forward_loss(self.model, self.batch, self.loss_fn)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.losses.append(loss.detach())


def gather(model: nn.Module, run: FirstSteps, planned: Plan | None) -> Evidence:
    """Read all records of the steps, and put them in order.

    Args:
        model: The model, with its weights of before the steps or not: only names are read.
        run: The steps.
        planned: What the weights should be, or None.

    Returns:
        The evidence.
    """
    parameters = _parameters(model, run, planned)
    layers = _layers(model, run, parameters)
    verification = None
    if planned is not None:
        weights = {e.name: parameters[id(e.parameter)].weight for e in planned}
        verification = compare(planned, weights)
    return Evidence(
        layers=layers,
        parameters={report.name: report for report in parameters.values()},
        loss=LossReport(
            tuple(float(loss) for loss in run.losses),
            tuple(CrossEntropyReport(c.classes, float(c.value)) for c in run.watch.calls),
        ),
        series=depth_series(model, list(layers)),
        normalised=has_normalisation(model),
        verification=verification,
    )


def _parameters(
    model: nn.Module, run: FirstSteps, planned: Plan | None
) -> dict[int, ParameterReport]:
    """Return one report per parameter, by its identity: tied names share one."""
    promised = {} if planned is None else {id(e.parameter): e for e in planned if not e.keep}
    reports = {}
    for name, parameter in model.named_parameters():
        entry = promised.get(id(parameter))
        reports[id(parameter)] = ParameterReport(
            name=name,
            shape=tuple(parameter.shape),
            weight=run.weights[name],
            expected_std=None if entry is None else entry.distribution.std,
            gradient=run.gradients.get(name),
            update=run.updates.get(name),
            trained=parameter.requires_grad,
        )
    return reports


def _layers(
    model: nn.Module, run: FirstSteps, parameters: dict[int, ParameterReport]
) -> dict[str, LayerReport]:
    """Return one report per module that was called, in order."""
    blocks = {b for m in model.modules() for b in stack_blocks(m).values()}
    layers = {}
    for name, flow in run.flows.items():
        module = model.get_submodule(name)
        is_block = module in blocks and next(module.children(), None) is not None
        activation = merged(flow.outputs)
        if activation is not None:
            layers[name] = LayerReport(
                name=name,
                kind=type(module).__name__,
                is_block=is_block,
                activation=activation,
                output_gradient=merged(flow.gradients),
                calls=len(flow.outputs),
                parameters=tuple(parameters[id(p)] for p in module.parameters(recurse=is_block)),
            )
    return layers
