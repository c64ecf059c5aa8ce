"""Run an audit: one recorded step, further steps, and everything restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from initstats.auditing.batch import (
    LossFunction,
    require_batch,
    require_device,
    require_values,
)
from initstats.auditing.errors import Explained
from initstats.auditing.gather import gather
from initstats.auditing.report.report import AuditReport
from initstats.auditing.seed_sweep import audit_seeds
from initstats.auditing.snapshot import Snapshot
from initstats.auditing.steps import FirstSteps
from initstats.auditing.unwrap import Training, unwrapped
from initstats.diagnostics.findings import AuditRule, by_severity
from initstats.diagnostics.nested import nested_tensors
from initstats.diagnostics.rules.table import DEFAULT_RULES
from initstats.diagnostics.unwatched import unwatched
from initstats.planning.planner import plan
from initstats.planning.validate import refuse_sharded
from initstats.recipes import Recipe

OptimizerFactory: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]

DEFAULT_LEARNING_RATE = 1e-4


def audit(
    model: nn.Module | Callable[[], nn.Module],
    batch: Any,
    *,
    loss_fn: LossFunction | None = None,
    optimizer: Optimizer | OptimizerFactory | None = None,
    steps: int = 10,
    recipe: Recipe | str | None = None,
    seeds: int = 1,
    seed: int = 0,
    rules: Sequence[AuditRule] = DEFAULT_RULES,
    on_step: Callable[[int], None] | None = None,
) -> AuditReport:
    """Train a model for a few steps on one batch, and report how it starts. Changes nothing.

    The first step is recorded: outputs of the layers and their gradients by hooks that keep fused
    records and no tensor, weights, their gradients and their first update. Further steps give
    losses only. Afterwards parameters, gradients, buffers, attributes of the modules, train and
    eval modes, the optimizer, the batch and the random generators of torch, numpy and Python are
    as before, also when something raises. The model is put in train mode meanwhile. A model that
    is given is audited with the weights it has: call `init_` before.

    With `seeds`, weights are drawn afresh for each seed, and the spread over the seeds is reported
    as well. A function builds the model anew under each seed, by its own initialisation; a given
    model is initialised by the recipe, or without one by each module's own `reset_parameters`, and
    its weights are as before afterwards.

    Args:
        model: The model, as it would start training, or a function that builds one. Of a model
            inside DataParallel, DistributedDataParallel or torch.compile the original is audited,
            and nothing runs compiled, because hooks do not run in compiled code.
        batch: A mapping (passed as keywords), a tuple or list (passed in order), or one argument.
        loss_fn: Called with the output and the target: the last item of a tuple or list, which
            the model then does not get; the whole batch otherwise. None when the output of the
            model is the loss, has a `loss`, or holds a scalar tensor.
        optimizer: An optimizer over parameters of the model, or a function from a list of
            parameters to one; AdamW with learning rate 1e-4 when None.
        steps: Number of steps on the batch, >= 1.
        recipe: The recipe of the weights, or its name; not checked when None.
        seeds: Number of seeds, >= 1: `seed`, `seed + 1`, and so on.
        seed: The first seed, >= 0. Used when `seeds` is above 1 or `model` is a function.
        rules: The checks, for example `[InitialLoss(severe=3.0)]`.
        on_step: Called with the number of finished steps after each step, of all seeds.

    Returns:
        The report: of the first seed, with `lottery` for all, when `seeds` is above 1.

    Raises:
        TypeError: If an argument is of another kind, or no loss is found.
        ValueError: If a number is out of range, nothing is trainable, the batch is empty or on
            another device, the optimizer belongs to another model, the loss is not a scalar, or
            weights cannot be drawn afresh.
        Exception: What the model, the loss or the optimizer raises, with a note on where, and the
            layers that had finished.

    Determinism: not_guaranteed. As far as the model's own operations are deterministic.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        >>> x, y = torch.randn(32, 8), torch.randint(4, (32,))
        >>> report = audit(model, (x, y), loss_fn=nn.functional.cross_entropy)
        >>> report.ok
        True
    """
    _require_arguments(model, batch, loss_fn, steps, seeds, seed)

    def audit_one(candidate: nn.Module, draw: int = 0) -> AuditReport:
        told = None if on_step is None else lambda step: on_step(draw * steps + step)
        return _audit(candidate, batch, loss_fn, optimizer, steps, recipe, rules, told)

    if isinstance(model, nn.Module) and seeds == 1:
        return audit_one(model)
    drawn = range(seed, seed + seeds)
    return audit_seeds(audit_one, model, drawn, recipe=recipe, optimizer=optimizer, rules=rules)


def _audit(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFunction | None,
    optimizer: Optimizer | OptimizerFactory | None,
    steps: int,
    recipe: Recipe | str | None,
    rules: Sequence[AuditRule],
    on_step: Callable[[int], None] | None,
) -> AuditReport:
    """Audit a model with the weights it has. As `audit`."""
    model = unwrapped(model)
    refuse_sharded("audit", model)
    _require_trainable(model)
    require_values(model)
    require_device(model, batch)
    planned = None if recipe is None else plan(model, recipe)
    trained = [p for p in model.parameters() if p.requires_grad]
    given = optimizer if isinstance(optimizer, Optimizer) else None
    stepper = _optimizer(optimizer, trained)
    run = FirstSteps(model, batch, loss_fn, stepper)
    others = [loss_fn] if isinstance(loss_fn, nn.Module) else []
    snapshot = Snapshot(model, given, others, list(nested_tensors(batch)))
    with unwatched(), Training(), snapshot as before, Explained(run):
        model.train()
        run.first_step(before.weights)
        if on_step is not None:
            on_step(1)
        for step in range(2, steps + 1):
            torch.clear_autocast_cache()  # it holds casts of the weights before the last step
            before.restore_inputs()
            run.step()
            if on_step is not None:
                on_step(step)
        run.finish()
        before.restore_inputs()
        run.compare_halves()
        before.restore_inputs()
        run.probe()
    evidence = gather(model, run, planned)
    findings = by_severity([finding for rule in rules for finding in rule.check(evidence)])
    settings = {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in trained),
        "steps": steps,
        "optimizer": type(stepper).__name__,
        "learning_rate": float(stepper.param_groups[0].get("lr", float("nan"))),
        "recipe": None if planned is None else planned.recipe.name,
        "torch": torch.__version__,
    }
    return AuditReport(evidence, findings, settings)


def _optimizer(
    given: Optimizer | OptimizerFactory | None, trained: list[nn.Parameter]
) -> Optimizer:
    """Return the optimizer to step with.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If it steps no parameter of the model.
    """
    if given is None:
        return torch.optim.AdamW(trained, lr=DEFAULT_LEARNING_RATE)
    made = given if isinstance(given, Optimizer) or not callable(given) else given(trained)
    if not isinstance(made, Optimizer):
        raise TypeError(
            "initstats.audit: expected optimizer to be a torch optimizer or a function that makes "
            f"one, got optimizer={made!r}"
        )
    own = {id(parameter) for parameter in trained}
    if not any(id(p) in own for group in made.param_groups for p in group["params"]):
        raise ValueError(
            "initstats.audit: expected an optimizer over parameters of the model, "
            f"got optimizer={type(made).__name__} over others"
        )
    return made


def _require_arguments(
    model: Any, batch: Any, loss_fn: Any, steps: int, seeds: int, seed: int
) -> None:
    """Refuse bad arguments before anything runs.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a number is out of range, or the batch cannot be used.
    """
    if not isinstance(model, nn.Module) and not callable(model):
        raise TypeError(
            "initstats.audit: expected model to be a torch.nn.Module or a function that builds "
            f"one, got model={type(model).__name__}"
        )
    require_batch(batch)
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(
            f"initstats.audit: expected loss_fn to be callable, got loss_fn={loss_fn!r}"
        )
    for name, value, least in (("steps", steps, 1), ("seeds", seeds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"initstats.audit: expected {name} to be an int, got {name}={value!r}")
        if value < least:
            raise ValueError(f"initstats.audit: expected {name} >= {least}, got {name}={value}")


def _require_trainable(model: nn.Module) -> None:
    """Refuse a model of which nothing is trained.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "initstats.audit: expected a model with trainable parameters, "
            f"got model={type(model).__name__} with none"
        )
