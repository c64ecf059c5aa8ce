"""The audit itself: one recorded step, then more steps, and everything put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from initstats.auditing.batches import LossFunction, require_device
from initstats.auditing.findings import AuditRule, by_severity
from initstats.auditing.gathering import gather
from initstats.auditing.report import AuditReport
from initstats.auditing.rules import DEFAULT_RULES
from initstats.auditing.snapshot import Snapshot
from initstats.auditing.stepping import FirstSteps
from initstats.planning import plan
from initstats.recipes import Recipe

OptimizerFactory: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]

DEFAULT_LEARNING_RATE = 1e-4


def audit(
    model: nn.Module,
    batch: Any,
    *,
    loss_fn: LossFunction | None = None,
    optimizer: Optimizer | OptimizerFactory | None = None,
    steps: int = 10,
    recipe: Recipe | str | None = None,
    seeds: int = 1,
    rules: Sequence[AuditRule] = DEFAULT_RULES,
    on_step: Callable[[int], None] | None = None,
) -> AuditReport:
    """Train a model for a few steps on one batch, and report how it starts. Changes nothing.

    The first step is recorded: outputs of the layers and their gradients by hooks that keep fused
    records and no tensor, weights, their gradients and their first update. Further steps give
    losses only. Afterwards parameters, gradients, buffers, train and eval modes, the optimizer and
    torch's random generators are as before, also when something raises. The model is put in train
    mode meanwhile. Nothing is initialised: call `init_` before.

    Args:
        model: The model, as it would start training. Of a compiled model the original is audited,
            because hooks set after compilation do not run.
        batch: A mapping (passed as keywords), a tuple or list (passed in order), or one argument.
        loss_fn: Called with the output and the target: the last item of a tuple or list, which
            the model then does not get; the whole batch otherwise. None when the output of the
            model is the loss, has a `loss`, or holds a scalar tensor.
        optimizer: An optimizer over parameters of the model, or a function from a list of
            parameters to one; AdamW with learning rate 1e-4 when None.
        steps: Number of steps on the batch, >= 1.
        recipe: What the weights should be, or the name of a recipe; not checked when None.
        seeds: Must be 1 in this version.
        rules: The checks, for example `[InitialLoss(severe=3.0)]`.
        on_step: Called with the number of finished steps after each step.

    Returns:
        The report.

    Raises:
        NotImplementedError: If `seeds` is above 1.
        TypeError: If an argument is of another kind, or no loss is found.
        ValueError: If a number is out of range, nothing is trainable, the batch is on another
            device, the optimizer is that of another model, or the loss is not a scalar.

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
    model = getattr(model, "_orig_mod", model)
    _require_arguments(model, batch, steps, seeds)
    require_device(model, batch)
    planned = None if recipe is None else plan(model, recipe)
    trained = [p for p in model.parameters() if p.requires_grad]
    given = optimizer if isinstance(optimizer, Optimizer) else None
    stepper = _optimizer(optimizer, trained)
    run = FirstSteps(model, batch, loss_fn, stepper)
    with Snapshot(model, given) as before:
        model.train()
        run.first_step(before.weights)
        if on_step is not None:
            on_step(1)
        for step in range(2, steps + 1):
            run.step()
            if on_step is not None:
                on_step(step)
        run.finish()
        run.compare_halves()
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


def _require_arguments(model: nn.Module, batch: Any, steps: int, seeds: int) -> None:
    """Refuse bad arguments before anything runs.

    Raises:
        NotImplementedError: If `seeds` is above 1.
        TypeError: If `model` or `batch` is of another kind.
        ValueError: If a number is out of range or nothing is trainable.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            "initstats.audit: expected model to be a torch.nn.Module, "
            f"got model={type(model).__name__}"
        )
    if batch is None:
        raise TypeError("initstats.audit: expected a batch, got batch=None")
    if steps < 1:
        raise ValueError(f"initstats.audit: expected steps >= 1, got steps={steps}")
    if seeds < 1:
        raise ValueError(f"initstats.audit: expected seeds >= 1, got seeds={seeds}")
    if seeds > 1:
        raise NotImplementedError(
            "initstats.audit: expected seeds=1 (the spread over several seeds is not in this "
            f"version), got seeds={seeds}; call init_ and audit once per seed"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "initstats.audit: expected a model with trainable parameters, "
            f"got model={type(model).__name__} with none"
        )
