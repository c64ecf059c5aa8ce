"""Run a coordinate check: models of several widths and seeds, a few steps each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from initstats.auditing.batch import (
    LossFunction,
    require_batch,
    require_device,
    require_values,
)
from initstats.auditing.snapshot import RandomStates
from initstats.auditing.unwrap import Training, unwrapped
from initstats.coordinates.measure import QUANTITIES, Watch, default_loss, measure
from initstats.coordinates.report import CoordReport, LayerCoordinates
from initstats.coordinates.slopes import Limits, fit, judge
from initstats.diagnostics.nested import map_nested
from initstats.diagnostics.unwatched import unwatched
from initstats.planning.initialize import init_
from initstats.planning.planner import Plan, plan
from initstats.planning.validate import refuse_sharded
from initstats.recipes import Base, Recipe, Slot, by_name
from initstats.recipes.library.building import EMBEDDINGS
from initstats.text import nearest

OptimizerLike: TypeAlias = "str | Callable[[nn.Module], Optimizer | Sequence[Optimizer]]"

# Small, so that slopes are those of the linear response; a difference of outputs is measured well.
_LEARNING_RATES = {"adamw": 1e-3, "adam": 1e-3, "sgd": 1e-2, "muon": 2e-3}
_MUON_REST = 1e-3
# Of Adam, below the gradients of a layer behind queries or a readout that began with 0.
_EPS = 1e-12
_FEWEST_WIDTHS = 2
# Slopes of the updates of embeddings, by recipe: in u-μP their learning rate falls with the root of
# the width (Blake et al. 2024; the optimizers of the package unit-scaling).
_TABLES = {"u_mup": -0.5}


def coord_check(
    build: Callable[[int], nn.Module],
    widths: Sequence[int],
    batch: Any,
    *,
    recipe: Recipe | str | None = None,
    loss_fn: LossFunction | None = None,
    optimizer: OptimizerLike = "adamw",
    lr: float | None = None,
    steps: int = 4,
    seeds: int = 3,
    seed: int = 0,
    tolerance: float = 0.25,
    errors: float = 2.0,
    on_model: Callable[[int], None] | None = None,
) -> CoordReport:
    """Check that outputs and updates of every layer have one size at all widths.

    Models of each width and seed take a few steps on one batch. Of every layer are recorded: its
    output, the change of its output since step 1, and the part of its output that its own update
    makes on the input of the step. The slope of log size against log width, by least squares over
    widths and seeds, must be 0 within `tolerance` and some standard errors; first outputs may
    shrink with the root of the width, and updates of embeddings under `u_mup` do. A wrong weight
    decay is not seen: in a few steps it does nothing.

    Args:
        build: Makes the model of a width, with the multipliers of its forward pass.
        widths: Two widths or more, ascending, >= 1. Ratios of 2 and up to 512 tell enough.
        batch: As for `audit`, the same for every width.
        recipe: Initialises each model, and makes the groups of its optimizer. A recipe without a
            base takes the model of the first width for it. None: models stay as `build` makes
            them, with one learning rate.
        loss_fn: As for `audit`. The cross-entropy when None and the batch is a tuple or list whose
            last item holds integers.
        optimizer: "adamw", "adam", "sgd" or "muon", without weight decay and with an epsilon of
            1e-12; or a function from a model to its optimizer, or several of them.
        lr: Learning rate at the base, > 0. When None 1e-3 of Adam, 2e-3 of Muon (1e-3 for the
            rest), 0.01 of SGD: small ones show the exponents best, because updates are measured
            by themselves; with large ones layers move each other.
        steps: Forward passes, >= 2, with an update between two of them. With a readout or
            queries of 0 most layers move at step 3 first.
        seeds: Number of seeds per width, >= 1.
        seed: The first seed, >= 0.
        tolerance: Largest distance of a slope from its promise, > 0. Wrong parametrisations are
            off by 1/2 or 1; the default is half way to that.
        errors: Standard errors that are allowed beside, >= 0.
        on_model: Called with the number of finished models.

    Returns:
        The report.

    Raises:
        TypeError: If an argument is of another kind, or no loss is found.
        ValueError: If a number is out of range, models have other layers at other widths, or a
            model or batch cannot be used, as in `audit`.

    Determinism: run_to_run. As far as the models' own operations are deterministic.

    Source: Yang et al. 2022, "Tensor Programs V", appendix F; microsoft/mup `coord_check.py`.

    Example:
        >>> import torch
        >>> from initstats import recipes
        >>> from torch import nn
        >>> def build(width):
        ...     return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))
        >>> batch = torch.randn(32, 8), torch.randint(4, (32,))
        >>> recipe = recipes.mup(absorb=True, zero_readout=False)
        >>> coord_check(build, (32, 64, 128, 256), batch, recipe=recipe).ok
        True
        >>> coord_check(build, (32, 64, 128, 256), batch).ok
        False
    """
    _require_arguments(build, widths, batch, loss_fn, optimizer)
    for name, value, least in (("steps", steps, 2), ("seeds", seeds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"initstats.coord_check: expected {name} to be an int, got {name}={value!r}"
            )
        if value < least:
            raise ValueError(
                f"initstats.coord_check: expected {name} >= {least}, got {name}={value}"
            )
    for name, number in (("lr", lr), ("tolerance", tolerance)):
        if number is not None and not (math.isfinite(number) and number > 0):
            raise ValueError(
                f"initstats.coord_check: expected {name} finite and > 0, got {name}={number}"
            )
    if not errors >= 0:
        raise ValueError(f"initstats.coord_check: expected errors >= 0, got errors={errors}")
    check = _Check(build, batch, default_loss(batch, loss_fn), optimizer, lr, steps)
    with RandomStates():
        recipe = check.resolved(recipe, widths[0])
        runs: dict[int, list[Watch]] = {}
        losses: dict[int, list[list[float]]] = {}
        for width in widths:
            for number in range(seeds):
                watch, values = check.run(width, recipe, seed + number)
                runs.setdefault(width, []).append(watch)
                losses.setdefault(width, []).append([float(value) for value in values])
                if on_model is not None:
                    on_model(sum(map(len, runs.values())))
    layers = _layers(runs, steps)
    limits = Limits(
        tolerance, errors, readout=_after_the_head(check.plan), table=_of_tables(check.plan)
    )
    slopes = {layer.name: layer.slopes for layer in layers}
    return CoordReport(
        widths=tuple(widths),
        layers=layers,
        findings=tuple(
            judge(
                slopes,
                _layers_with(_is_readout, check.plan),
                _layers_with(_is_embedding, check.plan),
                limits,
            )
        ),
        losses={width: np.array(values) for width, values in losses.items()},
        forward=() if check.plan is None else check.plan.forward,
        settings={
            "model": check.model_name,
            "recipe": None if recipe is None else recipe.name,
            "optimizer": optimizer if isinstance(optimizer, str) else "own",
            "lr": check.lr,
            "steps": steps,
            "seeds": seeds,
            "seed": seed,
            "tolerance": tolerance,
            "errors": errors,
            "torch": torch.__version__,
        },
    )


@dataclass
class _Check:
    """What all models of a check share."""

    build: Callable[[int], nn.Module]
    batch: Any
    loss_fn: LossFunction | None
    optimizer: OptimizerLike
    given_lr: float | None
    steps: int
    plan: Plan | None = None
    model_name: str = ""

    @property
    def lr(self) -> float | None:
        """The learning rate; None where the user's function decides."""
        if not isinstance(self.optimizer, str):
            return None
        return _LEARNING_RATES[self.optimizer] if self.given_lr is None else self.given_lr

    def resolved(self, recipe: Recipe | str | None, narrowest: int) -> Recipe | None:
        """Return the recipe, with the narrowest model for its base if it has none."""
        if isinstance(recipe, str):
            recipe = by_name(recipe)
        if recipe is None or recipe.base is not None:
            return recipe
        with torch.random.fork_rng([]):
            return recipe.with_base(Base.of_model(self._built(narrowest)))

    def run(self, width: int, recipe: Recipe | None, seed: int) -> tuple[Watch, list[Tensor]]:
        """Train one model."""
        torch.manual_seed(seed)
        model = self._built(width)
        if recipe is not None:
            init_(model, recipe, seed=seed, fingerprints=False)
            self.plan = plan(model, recipe)
        batch = map_nested(
            lambda x: x.clone() if isinstance(x, Tensor) else copy.copy(x), self.batch
        )
        with unwatched(), Training():
            model.train()
            optimizers = self._optimizers(model, recipe)
            return measure(model, batch, self.loss_fn, optimizers, steps=self.steps, seed=seed)

    def _built(self, width: int) -> nn.Module:
        """Build the model of a width.

        Raises:
            TypeError: If it is no module.
            ValueError: If it cannot be trained.
        """
        made = self.build(width)
        if not isinstance(made, nn.Module):
            raise TypeError(
                "initstats.coord_check: expected build to return a torch.nn.Module for a width, "
                f"got {type(made).__name__}"
            )
        model = unwrapped(made)
        self.model_name = type(model).__name__
        refuse_sharded("coord_check", model)
        require_values(model, function="coord_check")
        require_device(model, self.batch, function="coord_check")
        return model

    def _optimizers(self, model: nn.Module, recipe: Recipe | None) -> Sequence[Optimizer]:
        """Make the optimizers of a model.

        Raises:
            TypeError: If the user's function returns something else.
        """
        kind = self.optimizer
        if not isinstance(kind, str):
            made = kind(model)
            given = made if isinstance(made, (list, tuple)) else [made]
            found = [one for one in given if isinstance(one, Optimizer)]
            if not found or len(found) < len(given):
                raise TypeError(
                    "initstats.coord_check: expected optimizer to return optimizers, "
                    f"got {made!r:.60}"
                )
            return found
        lr = self.lr
        assert lr is not None
        if kind == "muon":
            if recipe is None:
                raise ValueError(
                    "initstats.coord_check: expected a recipe with optimizer='muon', which tells "
                    "what it takes, got none; pass recipe=, or a function for optimizer"
                )
            groups = recipe.param_groups(model, lr=lr, optimizer=kind, other_lr=_MUON_REST)
            by_muon = [group for group in groups if group["use_muon"]]
            rest = [group for group in groups if not group["use_muon"]]
            made_muon = [torch.optim.Muon(by_muon, lr=lr, weight_decay=0.0)] if by_muon else []
            return [*made_muon, *([torch.optim.AdamW(rest, weight_decay=0.0)] if rest else [])]
        eps = None if kind == "sgd" else _EPS
        if recipe is None:
            groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
        else:
            groups = recipe.param_groups(model, lr=lr, optimizer=kind, eps=eps)
        makers: dict[str, Any] = {
            "adamw": torch.optim.AdamW,
            "adam": torch.optim.Adam,
            "sgd": torch.optim.SGD,
        }
        own = {} if eps is None else {"eps": eps}
        return [makers[kind](groups, lr=lr, weight_decay=0.0, **own)]


def _layers(runs: dict[int, list[Watch]], steps: int) -> tuple[LayerCoordinates, ...]:
    """Put the records of all models together.

    Raises:
        ValueError: If a model has other layers than the first.
    """
    widths = list(runs)
    kinds = runs[widths[0]][0].kinds
    for width, watches in runs.items():
        for watch in watches:
            if differing := sorted(watch.kinds.keys() ^ kinds.keys()):
                raise ValueError(
                    "initstats.coord_check: expected the same layers at every width, got "
                    f"{differing[0]!r} only at some of {widths[0]} and {width}"
                )
    found = []
    for name, kind in kinds.items():
        sizes = {
            quantity: _sizes(
                [
                    [watch.records[name].get(quantity, {}) for watch in watches]
                    for watches in runs.values()
                ],
                steps,
            )
            for quantity in QUANTITIES
        }
        slopes = {
            quantity: tuple(fit(widths, sizes[quantity][step]) for step in range(steps))
            for quantity in QUANTITIES
        }
        found.append(LayerCoordinates(name, kind, sizes, slopes))
    return tuple(found)


def _sizes(records: list[list[dict[int, Any]]], steps: int) -> NDArray[np.float64]:
    """Return the root mean squares `[steps, widths, seeds]`; NaN where there is no record."""
    return np.array(
        [
            [[float(r[step].rms) if step in r else math.nan for r in seeds] for seeds in records]
            for step in range(1, steps + 1)
        ]
    )


def _layers_with(wanted: Callable[[Slot], bool], planned: Plan | None) -> set[str]:
    """Return the layers that have a parameter of some kind."""
    groups = () if planned is None else (entry.group for entry in planned)
    return {slot.name.rpartition(".")[0] for group in groups for slot in group if wanted(slot)}


def _is_readout(slot: Slot) -> bool:
    return slot.role.name == "head" or (slot.kind == "weight" and slot.growth.kind == "output")


def _is_embedding(slot: Slot) -> bool:
    return slot.role.name in EMBEDDINGS


def _of_tables(planned: Plan | None) -> float:
    """Return the slope that updates of embeddings have: -1/2 in u-μP, else 0."""
    name = "" if planned is None else planned.recipe.name
    return _TABLES.get(name.partition(",")[0], 0.0)  # "u_mup, scaled"


def _after_the_head(planned: Plan | None) -> float:
    """Return the slope that a head's own output may have: 1 where logits are multiplied by 1/m."""
    listed = () if planned is None else planned.forward
    return 1.0 if any(multiplier.where == "logits" for multiplier in listed) else 0.0


def _require_arguments(build: Any, widths: Any, batch: Any, loss_fn: Any, optimizer: Any) -> None:
    """Refuse bad arguments before anything runs.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If widths are not ascending, or the optimizer is unknown.
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise TypeError(
            "initstats.coord_check: expected build to be a function from a width to a model, "
            f"got build={type(build).__name__}"
        )
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise TypeError(
            "initstats.coord_check: expected widths to be a list of integers, "
            f"got widths={widths!r}"
        )
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int):
            raise TypeError(
                f"initstats.coord_check: expected widths to be integers, got {width!r} in widths"
            )
    if len(widths) < _FEWEST_WIDTHS or widths[0] < 1 or any(a >= b for a, b in pairwise(widths)):
        raise ValueError(
            "initstats.coord_check: expected two widths or more, ascending and >= 1, "
            f"got widths={list(widths)}"
        )
    require_batch(batch, function="coord_check")
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(
            f"initstats.coord_check: expected loss_fn to be callable, got loss_fn={loss_fn!r}"
        )
    if isinstance(optimizer, str):
        if optimizer not in _LEARNING_RATES:
            raise ValueError(
                f"initstats.coord_check: expected optimizer among {', '.join(_LEARNING_RATES)}, "
                f"got optimizer={optimizer!r}{nearest(optimizer, _LEARNING_RATES)}"
            )
    elif isinstance(optimizer, Optimizer) or not callable(optimizer):
        raise TypeError(
            "initstats.coord_check: expected optimizer to be a name, or a function from a model to "
            f"an optimizer, got optimizer={type(optimizer).__name__}"
        )
