"""The audit does not cry wolf over models that start well."""

from __future__ import annotations

from collections import Counter

from zoo.healthy import HEALTHY
from zoo.specimens import Size

LEAST = 28


def test_healthy_models_have_no_error_and_at_most_one_warning_each_on_average() -> None:
    severities: Counter[str] = Counter()
    errors = []
    for name, build in HEALTHY.items():
        report = build(Size()).audited()
        severities.update(finding.severity for finding in report.findings)
        errors += [(name, f.rule, f.where) for f in report.findings if f.severity == "error"]
    assert len(HEALTHY) >= LEAST
    assert errors == []
    assert severities["warning"] <= len(HEALTHY)
