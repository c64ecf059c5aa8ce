"""Rules on the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence, ParameterReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.statistics.record import Stats
from initstats.text import number
from initstats.verification.verifier import VerifyEntry


@dataclass(frozen=True)
class WeightsAgainstRecipe(AuditRule):
    """Weights that deviate from the recipe by more than sampling explains.

    Attributes:
        factor: Factor between measured and promised std above which this is an error.
    """

    factor: float = 1.5

    id: ClassVar[str] = "weights-against-recipe"
    source: ClassVar[str] = "initstats.verify: sampling band, Bonferroni over the model"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Report all parameters outside their band as one finding."""
        report = evidence.verification
        if report is None or report.ok:
            return
        # A stated NaN is the business of not-finite; here it only sorts first.
        failures = sorted(report.failures, key=_distance, reverse=True)
        worst = failures[0]
        random = worst.expected_std > 0
        yield self.finding(
            "error" if _distance(worst) > math.log(self.factor) else "warning",
            worst.name,
            worst.std if random else worst.mean,
            worst.expected_std if random else worst.expected_mean,
            cause=f"{len(failures)} of {len(report.entries)} parameters are not as recipe "
            f"{report.recipe} promises; {worst.name}: {worst.problem}",
            fix="call initstats.init_ with this recipe last, after building the model, or audit "
            "with the recipe that was meant",
            also=tuple(entry.name for entry in failures[1:]),
        )


def _distance(entry: VerifyEntry) -> float:
    """Return how far a parameter is from its promise, as |ln(std / promised std)|."""
    if entry.expected_std == 0:
        # A constant that varies: its size against 1, the scale of biases and gains.
        off = max(abs(entry.mean - entry.expected_mean), entry.std)
        return math.log1p(off) if math.isfinite(off) else math.inf
    if not (entry.std > 0 and math.isfinite(entry.std)):
        return math.inf
    return abs(math.log(entry.std / entry.expected_std))


@dataclass(frozen=True)
class Symmetry(AuditRule):
    """Weights whose rows are equal: their units compute the same and learn the same for ever.

    A weight that is 0 everywhere is left to zero-gradient: heads, gates and adapters start so.

    Attributes:
        share: Share of rows with an equal row that is a finding.
        severe: Share that is an error.
    """

    share: float = 0.1
    severe: float = 0.5

    id: ClassVar[str] = "symmetry"
    source: ClassVar[str] = "Goodfellow et al. 2016, Deep Learning, section 8.4: break symmetry"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find constant weights, equal rows, and equal matrices."""
        bad: dict[str, float] = {}
        for p in evidence.parameters.values():
            if p.rows is None or not p.trained or not p.is_matrix or p.weight.abs_max == 0:
                continue
            if _is_gain(evidence, p):
                continue
            if p.role == "other" and p.weight.std > 0:
                continue  # a table of its own, such as the decay rates of a state space
            share = 1 - (p.rows.distinct - 1) / (p.rows.rows - 1)
            if share > self.share:
                bad[p.name] = share
        if bad:
            where = max(bad, key=lambda name: bad[name])
            p = evidence.parameters[where]
            assert p.rows is not None
            what = (
                f"every value of {where} is {number(p.weight.mean)}"
                if p.weight.std == 0
                else f"{where} has {p.rows.distinct} different rows of {p.rows.rows}"
            )
            yield self.finding(
                "error" if bad[where] > self.severe else "warning",
                where,
                bad[where],
                self.share,
                cause=f"{what}: units with equal weights get equal gradients",
                fix="fill it with random values",
                also=tuple(name for name in bad if name != where),
            )
        copies = [
            p
            for p in evidence.parameters.values()
            if p.copy_of and p.trained and p.role != "other" and not _is_pattern(p.weight)
        ]
        if copies:
            first = copies[0]
            yield self.finding(
                "warning",
                first.name,
                float(len(copies)),
                0.0,
                cause=f"{first.name} holds the values of {first.copy_of}, and {len(copies) - 1} "
                "more weights equal to another one (copy.deepcopy of a layer copies its weights)",
                fix="initialise each of them on its own",
                also=(*(p.name for p in copies[1:]), first.copy_of),
            )


def _is_gain(evidence: Evidence, p: ParameterReport) -> bool:
    """Tell gains that a norm has for each head: one value, multiplied element by element."""
    layer = evidence.layers.get(p.layer)
    of_norm = layer is not None and "Norm" in layer.kind
    by_name = p.role == "other" and p.name.rpartition(".")[2] in {"scale", "gain", "gamma"}
    return p.weight.std == 0 and (of_norm or by_name)


def _is_pattern(record: Stats) -> bool:
    """Tell zeros with one other value, as identity matrices and dirac kernels: no draw is equal."""
    others = record.count - record.zero
    extreme = record.max if record.min == 0 else record.min
    same = record.min * record.max == 0 and math.isclose(record.l1, others * abs(extreme))
    return record.zero > others and same
