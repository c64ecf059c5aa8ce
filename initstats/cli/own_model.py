"""Audit a model that the command line names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from initstats.auditing.report.report import AuditReport
from initstats.auditing.runner import audit
from initstats.cli.import_strings import call_with_seed, load_object
from initstats.diagnostics.findings import AuditRule
from initstats.diagnostics.nested import map_nested
from initstats.planning.initialize import init_


@dataclass(frozen=True)
class OwnModel:
    """Arguments of an audit, as named on the command line.

    Attributes:
        model: `package.module:name` of a function or class that builds a module, or of a module.
        batch: The same of a function that makes a batch, with or without `seed`, or of a batch.
        loss: The same of a loss function, or of a class of one; None when the model computes it.
        optimizer: The same of a function from parameters to an optimizer, or None.
        recipe: Name of a recipe, or None.
        initialise: Initialise by the recipe before, instead of only comparing with it.
        steps: Steps on the batch, >= 1.
        seed: Seed of the weights, of the batch, and the first of several.
        seeds: Number of seeds, >= 1.
        device: Where to put model and batch; None leaves them where they are.
        rules: The checks.
    """

    model: str
    batch: str
    loss: str | None
    optimizer: str | None
    recipe: str | None
    initialise: bool
    steps: int
    seed: int
    seeds: int
    device: torch.device | None
    rules: Sequence[AuditRule]

    def run(self, on_step: Callable[[int], None]) -> AuditReport:
        """Import everything, and audit.

        Args:
            on_step: Called with the number of finished steps after each step.

        Returns:
            The report.

        Raises:
            ImportError: If a module cannot be imported.
            TypeError: If an object is of another kind than its option says.
            ValueError: If there is no object of a name, or `audit` refuses a value.
            Exception: What the objects raise.
        """
        loss, optimizer = load_loss("audit", self.loss, self.device), self._optimizer()
        found = load_object("audit", "model", self.model)
        torch.manual_seed(self.seed)
        model = self._model(found)
        torch.manual_seed(self.seed)
        batch = load_batch("audit", self.batch, self.seed, self.device)
        return audit(
            model,
            batch,
            loss_fn=loss,
            optimizer=optimizer,
            steps=self.steps,
            recipe=self.recipe,
            seeds=self.seeds,
            seed=self.seed,
            rules=self.rules,
            on_step=on_step,
        )

    def _model(self, found: Any) -> nn.Module | Callable[[], nn.Module]:
        """Return the model, or what builds it for each seed."""
        if isinstance(found, nn.Module):
            if self.seeds > 1 and self.recipe is not None and not self.initialise:
                raise ValueError(
                    "initstats.audit: expected --init, or a function that builds the model, for "
                    f"seeds above 1 with a recipe, got the module {self.model!r} and --no-init"
                )
            return self._ready(found)
        if not callable(found):
            raise TypeError(
                "initstats.audit: expected model to be a module, or a function or class that "
                f"builds one, got {type(found).__name__} from {self.model!r}"
            )

        def build() -> nn.Module:
            made = call_with_seed("audit", "model", found, torch.initial_seed())
            if not isinstance(made, nn.Module):
                raise TypeError(
                    "initstats.audit: expected model to build a torch.nn.Module, "
                    f"got {type(made).__name__} from {self.model!r}"
                )
            return self._ready(made)

        return build if self.seeds > 1 else build()

    def _ready(self, model: nn.Module) -> nn.Module:
        """Initialise a model if that is asked for, and move it."""
        if self.initialise and self.recipe is not None:
            init_(model, self.recipe, seed=torch.initial_seed(), fingerprints=False)
        return model if self.device is None else model.to(self.device)

    def _optimizer(self) -> Any:
        """Return the function that makes the optimizer."""
        if self.optimizer is None:
            return None
        make = load_object("audit", "optimizer", self.optimizer)
        if isinstance(make, Optimizer) or not callable(make):
            raise TypeError(
                "initstats.audit: expected optimizer to be a function from a list of parameters "
                f"to an optimizer, got {type(make).__name__} from {self.optimizer!r}"
            )
        return make


def load_batch(function: str, where: str, seed: int, device: torch.device | None) -> Any:
    """Return the batch that a name leads to, on a device.

    Args:
        function: Public function on whose behalf this is done, for messages.
        where: `package.module:name` of a batch, or of a function that makes one.
        seed: For a function that takes `seed`.
        device: Where to; None leaves it where it is.

    Raises:
        TypeError: If it is None.
    """
    batch = load_object(function, "batch", where)
    if callable(batch) and not isinstance(batch, Tensor):
        batch = call_with_seed(function, "batch", batch, seed)
    if batch is None:
        raise TypeError(
            f"initstats.{function}: expected batch to be or return a batch, got None from "
            f"{where!r}; does the function end without return?"
        )
    return batch if device is None else moved(batch, device)


def load_loss(function: str, where: str | None, device: torch.device | None) -> Any:
    """Return the loss function that a name leads to; None without a name.

    Args:
        function: Public function on whose behalf this is done, for messages.
        where: `package.module:name` of a function, a module or a class of one.
        device: Where to put a module.
    """
    if where is None:
        return None
    loss = load_object(function, "loss", where)
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        loss = loss()
    if isinstance(loss, nn.Module) and device is not None:
        loss = loss.to(device)
    return loss


def moved(value: Any, device: torch.device) -> Any:
    """Move everything with a method `to` in a nested batch: tensors, a BatchEncoding.

    Args:
        value: As for `map_nested`.
        device: Where to.

    Returns:
        The same structure with moved tensors.
    """

    def can_move(x: Any) -> bool:
        return callable(getattr(x, "to", None))

    return map_nested(lambda x: x.to(device) if can_move(x) else x, value, can_move)
