"""Findings of an audit, and the interface of the rules that report them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from initstats.diagnostics.checked_values import fields, listed, number, one_of, text
from initstats.diagnostics.evidence import Evidence

Severity: TypeAlias = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One problem of a model at the start of training.

    Attributes:
        rule: Id of the rule.
        severity: "error" (the model will not train well), "warning" or "info".
        where: Name of the layer, parameter or step where it is worst.
        value: The measured value.
        threshold: The limit that it broke.
        cause: The likely cause, with the numbers.
        fix: The suggested fix.
        source: Where the rule comes from.
        also: Further places, when the rule found the same there.
    """

    rule: str
    severity: Severity
    where: str
    value: float
    threshold: float
    cause: str
    fix: str
    source: str
    also: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON-able values."""
        return {**self.__dict__, "also": list(self.also)}


def finding_of(values: Any) -> Finding:
    """Return a finding from values of JSON.

    Args:
        values: As `Finding.to_dict` returns, with null or strings for what JSON does not have.

    Raises:
        TypeError: If they are no object.
        ValueError: If a field is missing or of another kind.
    """
    return Finding(**fields(values, _KINDS))


_KINDS: dict[str, Callable[[Any], Any]] = {
    "severity": lambda severity: one_of(severity, SEVERITIES),
    **dict.fromkeys(("rule", "where", "cause", "fix", "source"), text),
    **dict.fromkeys(("value", "threshold"), number),
    "also": listed(text),
}


class Rule:
    """Base of the rules of audits and alerts: reports findings.

    Attributes:
        id: Short name, as shown in findings.
        source: Where the threshold comes from.
    """

    id: ClassVar[str]
    source: ClassVar[str]

    def finding(
        self,
        severity: Severity,
        where: str,
        value: float,
        threshold: float,
        *,
        cause: str,
        fix: str,
        also: tuple[str, ...] = (),
    ) -> Finding:
        """Make a finding of this rule."""
        return Finding(self.id, severity, where, value, threshold, cause, fix, self.source, also)


@dataclass(frozen=True)
class AuditRule(Rule, ABC):
    """A check of an audit. Its fields are thresholds that can be changed."""

    @abstractmethod
    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge the measurements.

        Args:
            evidence: The measurements.

        Yields:
            Findings, none for a healthy model.
        """


def by_severity(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sort findings, worst first, and otherwise in the order of the rules."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
