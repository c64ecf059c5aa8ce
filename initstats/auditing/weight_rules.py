"""Rules on the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.auditing.evidence import Evidence
from initstats.auditing.findings import AuditRule, Finding
from initstats.verifying import VerifyEntry


@dataclass(frozen=True)
class WeightsAgainstRecipe(AuditRule):
    """Weights that are not what the recipe promises, beyond what sampling explains.

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
