"""Repeat an audit with the weights of several seeds, and restore the given weights."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from initstats.auditing.batch import require_values
from initstats.auditing.report.report import AuditReport
from initstats.auditing.snapshot import RandomStates, Snapshot
from initstats.auditing.unwrap import unwrapped
from initstats.diagnostics.findings import AuditRule, by_severity
from initstats.diagnostics.rules.seeds import SeedSpread
from initstats.diagnostics.seed_spread import Lottery, SeedResult
from initstats.planning.initialize import init_
from initstats.recipes import Recipe

_NUMPY_SEEDS = 2**32  # numpy takes seeds below this


class AuditOne(Protocol):
    """Audits a model with the weights it has, as the given draw of several."""

    def __call__(self, candidate: nn.Module, draw: int) -> AuditReport:
        """Audit a model.

        Args:
            candidate: The model.
            draw: Number of the seed, from 0.

        Returns:
            The report.
        """
        ...


def audit_seeds(
    audit_one: AuditOne,
    model: nn.Module | Callable[[], nn.Module],
    seeds: Sequence[int],
    *,
    recipe: Recipe | str | None,
    optimizer: Any,
    rules: Sequence[AuditRule],
) -> AuditReport:
    """Audit the same model with the weights of several seeds.

    Args:
        audit_one: Audits one of them.
        model: The model, whose weights are as before afterwards, or a function that builds one.
        seeds: The seeds, at least one.
        recipe: Draws the weights of a given model, if there is one.
        optimizer: As in `audit`; no finished optimizer fits models that are not built yet.
        rules: The checks; `SeedSpread` among them judges the spread.

    Returns:
        The report of the first seed, with the lottery when there are several.

    Raises:
        TypeError: If the function builds no module, or an optimizer is given for one.
        ValueError: If the weights of a module cannot be drawn afresh.
    """
    if not isinstance(model, nn.Module) and isinstance(optimizer, Optimizer):
        raise TypeError(
            "initstats.audit: expected optimizer to be a function from parameters to an optimizer "
            f"where a function builds the model, got optimizer={type(optimizer).__name__}"
        )
    first: AuditReport | None = None
    results = []
    with _candidates(model, recipe) as candidate:
        for draw, seed in enumerate(seeds):
            report = audit_one(candidate(seed), draw)
            results.append(seed_result(seed, report))
            if first is None:
                first = report
    if first is None:
        raise ValueError("initstats.audit: expected seeds >= 1, got seeds=0")
    if len(results) == 1:
        return first
    lottery = Lottery(tuple(results))
    judged = [f for rule in rules if isinstance(rule, SeedSpread) for f in rule.judge(lottery)]
    findings = by_severity([*first.findings, *judged])
    return replace(first, findings=findings, lottery=lottery)


@contextmanager
def _candidates(
    model: nn.Module | Callable[[], nn.Module], recipe: Recipe | str | None
) -> Iterator[Callable[[int], nn.Module]]:
    """Yield a function from a seed to the model with the weights of that seed."""
    if isinstance(model, nn.Module):
        module = unwrapped(model)
        require_values(module)
        with Snapshot(module, None):
            yield lambda seed: _drawn_again(module, recipe, seed)
    else:
        with RandomStates():
            yield lambda seed: _built(model, seed)


def _drawn_again(module: nn.Module, recipe: Recipe | str | None, seed: int) -> nn.Module:
    """Give a module the weights of a seed."""
    _seed_everything(seed)
    if recipe is None:
        reset_parameters(module)
    else:
        init_(module, recipe, seed=seed, fingerprints=False)
    return module


def _built(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model under a seed.

    Raises:
        TypeError: If it is no module.
    """
    _seed_everything(seed)
    made = make()
    if not isinstance(made, nn.Module):
        raise TypeError(
            "initstats.audit: expected model to build a torch.nn.Module, "
            f"got {type(made).__name__} from {getattr(make, '__name__', make)!r}"
        )
    return made


def reset_parameters(module: nn.Module) -> None:
    """Draw trained parameters afresh by each module's own `reset_parameters`.

    Frozen parameters keep their values. Parameters are set to NaN before, so that one that no
    module writes is found out.

    Args:
        module: The module, changed in place.

    Raises:
        ValueError: If a parameter is left over, or is shared by modules that would both write it.
            The parameters hold any values then.

    Determinism: run_to_run. By torch's generators, which the caller seeds.
    """
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    frozen = [(p, p.detach().clone()) for p in module.parameters() if not p.requires_grad]
    resetting = [m for m in module.modules() if callable(getattr(m, "reset_parameters", None))]
    for name, parameter in trained.items():
        owners = [m for m in resetting if any(p is parameter for p in m.parameters(recurse=False))]
        if len(owners) > 1:
            kinds = " and ".join(type(owner).__name__ for owner in owners)
            raise ValueError(
                "initstats.audit: expected a recipe or a function that builds the model for seeds "
                f"above 1, because {kinds} share a parameter and would both draw it, got "
                f"{name!r}; pass recipe=..., or model=lambda: Net()"
            )
    with torch.no_grad():
        for parameter in trained.values():
            parameter.fill_(torch.nan)
        for owner in resetting:
            owner.reset_parameters()  # type: ignore[operator]  # it is callable, see above
        for parameter, values in frozen:
            parameter.copy_(values)
        left = [name for name, parameter in trained.items() if bool(parameter.isnan().any())]
    if left:
        others = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ValueError(
            "initstats.audit: expected a recipe, a function that builds the model, or modules "
            "whose reset_parameters draws every parameter for seeds above 1, "
            f"got none for {left[0]!r}"
            f"{others}; pass recipe=..., or model=lambda: Net()"
        )


def _seed_everything(seed: int) -> None:
    """Seed the generators of torch, Python and numpy."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % _NUMPY_SEEDS)


def seed_result(seed: int, report: AuditReport) -> SeedResult:
    """Return the values of a report that are compared over seeds.

    Args:
        seed: The seed of its weights.
        report: The report.

    Returns:
        The result.
    """
    evidence = report.evidence
    names = [name for series in evidence.series for name in series.layers] or [*evidence.layers]
    layers = {name: evidence.layers[name] for name in names}
    severities = [finding.severity for finding in report.findings]
    return SeedResult(
        seed=seed,
        first_loss=report.loss.values[0],
        last_loss=report.loss.values[-1],
        activations={name: _size(layer.activation) for name, layer in layers.items()},
        gradients={name: _size(layer.output_gradient) for name, layer in layers.items()},
        errors=severities.count("error"),
        warnings=severities.count("warning"),
    )


def _size(record: Any) -> float:
    """Return the rms of a record, NaN when values are not finite, and 0 when there is none."""
    if record is None or record.count == 0:
        return 0.0
    return math.nan if record.nan + record.pos_inf + record.neg_inf else float(record.rms)
