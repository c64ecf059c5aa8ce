"""Check the weights of a model against what a recipe promises, with a sampling band."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from initstats.bands import Band, mean_band, std_band
from initstats.measuring import stats
from initstats.planning import Plan, PlanEntry, plan, require_complete
from initstats.recipes import Constant, Distribution, Recipe
from initstats.record import Stats
from initstats.tables import number, render

VERIFY_SCHEMA = "initstats.verify/1"
FALSE_ALARM_RATE = 1e-4
_CHECKS_PER_PARAMETER = 2  # mean and std


@dataclass(frozen=True)
class VerifyEntry:
    """One parameter, measured against its promise.

    Attributes:
        name: Name of the parameter.
        rule: Label of the rule that takes it.
        distribution: What the rule promises, as text.
        count: Number of elements.
        mean: Measured mean.
        std: Measured standard deviation.
        expected_mean: Promised mean.
        expected_std: Promised standard deviation.
        mean_band: Where the measured mean may lie.
        std_band: Where the measured standard deviation may lie.
        problem: What is wrong in words, empty when nothing is.
    """

    name: str
    rule: str
    distribution: str
    count: int
    mean: float
    std: float
    expected_mean: float
    expected_std: float
    mean_band: Band
    std_band: Band
    problem: str

    @property
    def ok(self) -> bool:
        """True when the parameter keeps its promise."""
        return not self.problem

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON-able values."""
        values = dict(self.__dict__)
        values["mean_band"] = [self.mean_band.low, self.mean_band.high]
        values["std_band"] = [self.std_band.low, self.std_band.high]
        return values


@dataclass(frozen=True, eq=False)
class VerifyReport:
    """Measured against promised, for every parameter that a rule takes.

    Attributes:
        recipe: Name of the recipe.
        entries: One per parameter, in the order of the model.
        unmatched: Names of parameters that no rule takes.
        false_alarm_rate: Chance that a correctly initialised model fails anywhere.
    """

    recipe: str
    entries: tuple[VerifyEntry, ...]
    unmatched: tuple[str, ...]
    false_alarm_rate: float

    @property
    def failures(self) -> tuple[VerifyEntry, ...]:
        """The entries that break their promise."""
        return tuple(entry for entry in self.entries if not entry.ok)

    @property
    def ok(self) -> bool:
        """True when every entry keeps its promise."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values, with the schema's name and version."""
        return {
            "schema": VERIFY_SCHEMA,
            "recipe": self.recipe,
            "ok": self.ok,
            "false_alarm_rate": self.false_alarm_rate,
            "parameters": [entry.to_dict() for entry in self.entries],
            "unmatched": list(self.unmatched),
        }

    def __rich__(self) -> Table:
        table = Table(
            title=f"recipe {self.recipe}: {len(self.failures)} of {len(self.entries)} parameters "
            "break their promise",
            title_justify="left",
            caption=f"chance of a false alarm in a correct model: {self.false_alarm_rate:g}",
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        table.add_column("parameter", overflow="fold", min_width=24)
        table.add_column("promised", no_wrap=True, min_width=10)
        for column in ("std", "mean"):
            table.add_column(column, justify="right", no_wrap=True, min_width=8)
        table.add_column("verdict")
        for e in self.entries:
            verdict = f"[red]{e.problem}[/]" if e.problem else "[green]ok[/]"
            table.add_row(e.name, e.distribution, number(e.std), number(e.mean), verdict)
        return table

    def __str__(self) -> str:
        return render(self)


def verify(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    allow_unmatched: bool = False,
) -> VerifyReport:
    """Measure the weights of a model against a recipe, whoever initialised them. Writes nothing.

    Mean and standard deviation of every parameter are read in one statistics call; parameters that
    transformers marked as loaded are left out. Each must lie
    in a band that sampling alone leaves with probability `false_alarm_rate` for the whole model
    (Bonferroni over two checks per parameter, see `initstats.bands`). Constants must be exact.

    Args:
        model: Any module with values, so not on the meta device.
        recipe: A recipe, or the name of one in `initstats.recipes.available()`.
        false_alarm_rate: Chance, in (0, 1), that a correctly initialised model fails.
        allow_unmatched: List parameters that no rule takes, instead of refusing.

    Returns:
        The report.

    Raises:
        TypeError: If `model` or `recipe` is of another kind.
        ValueError: If `plan` refuses the model, a parameter is taken by no rule, the model is on
            the meta device, or `false_alarm_rate` is outside (0, 1).

    Determinism: as the records of `initstats.stats`.
    """
    planned = plan(model, recipe)
    if not allow_unmatched:
        require_complete("verify", planned)
    if not 0 < false_alarm_rate < 1:
        raise ValueError(
            "initstats.verify: expected false_alarm_rate in (0, 1), "
            f"got false_alarm_rate={false_alarm_rate}"
        )
    on_meta = next((entry.name for entry in planned if entry.parameter.is_meta), None)
    if on_meta is not None:
        raise ValueError(
            f"initstats.verify: expected parameters with values, got {on_meta} on the meta device; "
            "call to_empty and init_ first"
        )
    records = stats({e.name: e.parameter for e in planned if not e.keep}, histogram=False)
    return compare(planned, dict(records.items()), false_alarm_rate)


def compare(
    planned: Plan, records: dict[str, Stats], false_alarm_rate: float = FALSE_ALARM_RATE
) -> VerifyReport:
    """Compare records that were already taken with a plan.

    Args:
        planned: What each parameter should be.
        records: One record per entry of the plan, by name.
        false_alarm_rate: Chance, in (0, 1), that a correctly initialised model fails.

    Returns:
        The report.
    """
    promised = [entry for entry in planned if not entry.keep]
    checks = max(1, _CHECKS_PER_PARAMETER * len(promised))
    z = NormalDist().inv_cdf(1 - false_alarm_rate / checks / 2)
    entries = tuple(_compare_one(entry, records[entry.name], z) for entry in promised)
    return VerifyReport(planned.recipe.name, entries, planned.unmatched, false_alarm_rate)


def _compare_one(entry: PlanEntry, record: Stats, z: float) -> VerifyEntry:
    """Compare one record with its promise."""
    distribution = entry.distribution
    if isinstance(distribution, Constant):
        # The stored value is the promised one, rounded to the parameter's dtype.
        value = float(torch.tensor(distribution.value, dtype=entry.parameter.dtype))
        means, stds = Band(value, value), Band(0.0, 0.0)
        problem = "" if record.min == record.max == value else f"expected {value:g} everywhere"
    else:
        means = mean_band(distribution, entry.count, z)
        stds = std_band(distribution, entry.count, z)
        # A bound may be missed by the rounding of the bound itself to the parameter's dtype.
        slack = torch.finfo(entry.parameter.dtype).eps
        problem = _problem(distribution, record, means, stds, slack)
    if record.nan or record.pos_inf or record.neg_inf:
        problem = f"{record.nan} NaN and {record.pos_inf + record.neg_inf} infinite values"
    return VerifyEntry(
        name=entry.name,
        rule=entry.rule,
        distribution=str(distribution),
        count=entry.count,
        mean=record.mean,
        std=record.std if entry.count > 1 else 0.0,
        expected_mean=distribution.mean,
        expected_std=distribution.std,
        mean_band=means,
        std_band=stds,
        problem=problem,
    )


def _problem(
    distribution: Distribution, record: Stats, means: Band, stds: Band, slack: float
) -> str:
    """Say in words how a record breaks the promise of a random distribution."""
    low, high = distribution.bounds
    if record.min < low - slack * abs(low) or record.max > high + slack * abs(high):
        return f"values outside [{low:g}, {high:g}]: {record.min:.4g} to {record.max:.4g}"
    if record.count > 1 and not stds.holds(record.std):
        ratio = record.std / distribution.std
        return f"std {record.std:.4g}, expected {distribution.std:.4g} (x {ratio:.3g})"
    if not means.holds(record.mean):
        return f"mean {record.mean:.3g}, expected {distribution.mean:.3g}"
    return ""
