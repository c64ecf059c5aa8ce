"""Rules on parameters that nothing trains: frozen at random values, or unknown to the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence, ParameterReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.text import number

# Excess kurtosis of the distributions that initialisers draw from: normal; uniform; truncated
# normal at 2 stds; trigonometric tables and orthogonal matrices are left out.
_DRAWN = (0.0, -1.2, -0.6344)
_STANDARD_ERRORS = 5.0
_FEWEST_VALUES = 256


@dataclass(frozen=True)
class UnheldParameters(AuditRule):
    """Parameters that require a gradient and that the optimizer does not hold.

    Attributes:
        share: Share of the trained parameters, in elements, that may be missing.
    """

    share: float = 0.0

    id: ClassVar[str] = "optimizer-parameters"
    source: ClassVar[str] = "torch.optim: an optimizer steps the parameters it was made with"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the parameters of the model with those of the optimizer."""
        if evidence.unregistered:
            names = evidence.unregistered
            yield self.finding(
                "warning",
                names[0],
                float(len(names)),
                0.0,
                cause=f"the loss depends on {names[0]}, which is no parameter of the model, and "
                f"{len(names) - 1} more: the optimizer does not hold them, and no state_dict does",
                fix="hold modules in nn.ModuleList or nn.ModuleDict and tensors as nn.Parameter, "
                "and make them in __init__",
                also=names[1:],
            )
        trained = [p for p in evidence.parameters.values() if p.trained]
        missing = [p for p in trained if not p.held]
        total = sum(p.weight.count for p in trained)
        share = sum(p.weight.count for p in missing) / total if total else 0.0
        if not missing or share <= self.share:
            return
        strangers = (
            f"; it holds {evidence.strangers} tensors that are no parameters of the model: it was "
            "made before they were replaced"
            if evidence.strangers
            else ""
        )
        yield self.finding(
            "warning",
            missing[0].name,
            share,
            self.share,
            cause=f"the optimizer does not hold {len(missing)} of {len(trained)} parameters that "
            f"require a gradient, {share:.0%} of their elements: it never changes them{strangers}",
            fix="give the optimizer model.parameters(), after the model is complete, or freeze "
            "these with requires_grad_(False)",
            also=tuple(p.name for p in missing[1:]),
        )


@dataclass(frozen=True)
class FrozenRandom(AuditRule):
    """Frozen weights whose values look as an initialiser draws them.

    Trained weights have heavier tails than a normal or a uniform distribution of their size; a
    model is judged by all its frozen matrices together. Copies of trained weights are targets of
    self-distillation, and are left out.

    Attributes:
        share: Share of the elements of all matrices that is a finding.
        alike: Share of the frozen matrices that must look drawn.
    """

    share: float = 0.1
    alike: float = 0.8

    id: ClassVar[str] = "frozen-random"
    source: ClassVar[str] = "sampling error of the kurtosis of n values: sqrt(24 / n)"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the kurtosis of frozen matrices with those of initialisers."""
        every = [p for p in evidence.parameters.values() if p.is_matrix]
        frozen = [
            p
            for p in every
            if not p.trained and not p.copy_of and p.weight.count >= _FEWEST_VALUES
            if p.weight.std > 0 and math.isfinite(p.weight.std)
        ]
        drawn = [p for p in frozen if _looks_drawn(p)]
        total = sum(p.weight.count for p in every)
        share = sum(p.weight.count for p in drawn) / total if total else 0.0
        if share <= self.share or len(drawn) < self.alike * len(frozen):
            return
        yield self.finding(
            "warning",
            drawn[0].name,
            share,
            self.share,
            cause=f"{len(drawn)} of {len(frozen)} frozen matrices look as an initialiser draws "
            f"them, {share:.0%} of the elements of all matrices; {drawn[0].name} has std "
            f"{number(drawn[0].weight.std)} and excess kurtosis {number(drawn[0].weight.kurtosis)}",
            fix="load the trained weights before freezing, or requires_grad_(True); random "
            "features are meant to be so",
            also=tuple(p.name for p in drawn[1:]),
        )


def _looks_drawn(p: ParameterReport) -> bool:
    """Tell whether a weight has the kurtosis of a distribution that initialisers draw from."""
    error = _STANDARD_ERRORS * math.sqrt(24 / p.weight.count)
    off_centre = abs(p.weight.mean) > _STANDARD_ERRORS * p.weight.std / math.sqrt(p.weight.count)
    return not off_centre and any(abs(p.weight.kurtosis - k) < error for k in _DRAWN)
