"""Find the recipe that explains the weights of a model best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import nn

from initstats.planning.entry import PlanEntry
from initstats.planning.planner import Plan, plan
from initstats.recipes import available, by_name
from initstats.recipes.distributions.composite import Kept
from initstats.recipes.library.building import VARIANTS
from initstats.statistics.record import Stats
from initstats.verification.entry import VerifyEntry

AUTO = "auto"
# Where it explains a model, nothing else needs to.
_PLAINEST = "torch_default"
# Recipes of no architecture, whose numbers fit many models: named only where no other fits as well.
_GENERAL = frozenset({"mup", "completep", "u_mup", "spectral", "modula", "decoder_transformers"})
# Standard errors that mean and std may be off by in the first look, and what rounding to half
# precision may add to it. Whoever passes it is verified properly.
_ERRORS, _ROUNDING = 5.0, 0.01
# Recipes that are verified properly after the first look, and the most where more explain as much.
_CLOSE, _CLOSE_EQUALS = 4, 12


class Report(Protocol):
    """What is read of a report of `verify`."""

    @property
    def failures(self) -> tuple[VerifyEntry, ...]:
        """The entries that break their promise."""

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Names of parameters that no rule takes."""


R = TypeVar("R", bound=Report)


@dataclass(frozen=True)
class Candidate:
    """A recipe, and how much of a model it explains.

    Attributes:
        recipe: Its name, with its variant in brackets where that is not the default.
        explained: Share of the elements of all floating-point parameters that are as promised.
        parameters: Number of parameters that are not as promised, or of which nothing is promised.
    """

    recipe: str
    explained: float
    parameters: int

    def rank(self, classes: str) -> tuple[float, int, bool, int, bool, bool, str]:
        """Return what candidates are sorted by: the best first.

        Of equal ones torch's default, then the one that the model's classes are named after, then
        those made for an architecture, then those without a variant.

        Args:
            classes: Names of the classes of the model, in lower case.
        """
        own = self.recipe.partition("(")[0].removesuffix("_transformers").replace("_", "")
        return (
            -self.explained,
            self.parameters,
            self.recipe != _PLAINEST,
            -len(own) if own in classes and self.recipe not in _GENERAL else 0,
            self.recipe in _GENERAL,
            "(" in self.recipe,
            self.recipe,
        )


def best_candidates(
    model: nn.Module,
    records: Mapping[str, Stats],
    judge: Callable[[str], R],
    **how: Any,
) -> tuple[R, tuple[Candidate, ...]]:
    """Return the report of the recipe that explains most, and how much others explain.

    All recipes with their default numbers, and their variants, are compared, but for those of some
    layers only (adapters, new heads): first by mean and std of whole parameters, then the closest
    by `verify`.

    Args:
        model: The model; its values are not read.
        records: The records of its parameters.
        judge: Verifies the model against a recipe of that name; parameters that no rule takes are
            allowed.
        **how: Roles, names and depth, as in `plan`.

    Returns:
        The report, and the candidates, the best first.

    Raises:
        ValueError: If no recipe can be planned for the model.
    """
    total = sum(record.count for record in records.values())
    found = [
        _first_look(name, planned, records, total)
        for name in _compared()
        if (planned := _planned(model, name, how)) is not None
    ]
    if not found:
        raise ValueError(
            "initstats.verify: expected a model that some recipe can be planned for, got none of "
            f"{len(available())} recipes; give the recipe, and roles= where names are unusual"
        )
    classes = " ".join({type(module).__name__.lower() for module in model.modules()})
    found.sort(key=lambda candidate: candidate.rank(classes))
    equals = sum(candidate.explained == found[0].explained for candidate in found)
    looked_at = found[: max(_CLOSE, min(equals, _CLOSE_EQUALS))]
    reports = {candidate.recipe: judge(candidate.recipe) for candidate in looked_at}
    close = [_judged(name, report, records, total) for name, report in reports.items()]
    close.sort(key=lambda candidate: candidate.rank(classes))
    return reports[close[0].recipe], (*close, *found[len(close) :])


def _compared() -> list[str]:
    """Return the recipes and their variants, as `by_name` knows them."""
    forms = [f"{name}(variant={form!r})" for name, each in VARIANTS.items() for form in each[1:]]
    return available() + forms


def _planned(model: nn.Module, name: str, how: Mapping[str, Any]) -> Plan | None:
    """Return the plan of a recipe; None where it is not for such a model, or for some layers."""
    recipe = by_name(name)
    if recipe.partial:
        return None
    try:
        return plan(model, recipe, **how)
    except ValueError:  # needs options or a stack of blocks, or ties that contradict it
        return None


def _first_look(name: str, planned: Plan, records: Mapping[str, Stats], total: int) -> Candidate:
    fitting = [entry.name for entry in planned if _fits(entry, records.get(entry.name))]
    explained = sum(records[name].count for name in fitting)
    return Candidate(name, explained / max(1, total), len(records) - len(fitting))


def _fits(entry: PlanEntry, record: Stats | None) -> bool:
    """Tell whether mean and standard deviation are about what is promised."""
    if record is None or isinstance(entry.distribution, Kept) or record.count == 0:
        return False
    std, mean = entry.distribution.std, entry.distribution.mean
    if math.isnan(std) or math.isnan(mean):  # of other values: looked at properly or not at all
        return True
    scale = max(std, abs(mean))
    of_std = std * (_ERRORS / math.sqrt(2 * record.count) + _ROUNDING)
    of_mean = std * _ERRORS / math.sqrt(record.count) + _ROUNDING * scale
    return abs(record.std - std) <= of_std and abs(record.mean - mean) <= of_mean


def _judged(name: str, report: Report, records: Mapping[str, Stats], total: int) -> Candidate:
    bad = {entry.name.partition("[")[0].partition("@")[0] for entry in report.failures}
    bad |= set(report.unmatched)
    lost = sum(records[name].count for name in bad if name in records)
    return Candidate(name, 1 - lost / max(1, total), len(bad & records.keys()))
