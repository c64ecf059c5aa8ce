"""The audit does not cry wolf over models that start well."""

from __future__ import annotations

from collections import Counter

import pytest

from zoo.healthy import HEALTHY
from zoo.recorded import healthy_findings

LEAST = 28


@pytest.mark.long
def test_healthy_models_have_no_error_and_at_most_one_warning_each_on_average() -> None:
    severities: Counter[str] = Counter()
    errors = []
    for name in HEALTHY:
        findings = healthy_findings(name)
        severities.update(finding.severity for finding in findings)
        errors += [(name, f.rule, f.where) for f in findings if f.severity == "error"]
    assert len(HEALTHY) >= LEAST
    assert errors == []
    assert severities["warning"] <= len(HEALTHY)
