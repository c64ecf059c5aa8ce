"""The audit does not cry wolf over models that start well."""

from __future__ import annotations

from collections import Counter

import pytest

from zoo.families import TIMM, timm_family
from zoo.healthy import HEALTHY
from zoo.recorded import healthy_findings

LEAST = 85


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


@pytest.mark.long
@pytest.mark.parametrize("name", TIMM)
def test_families_of_timm_have_no_error(name: str) -> None:
    pytest.importorskip("timm", reason="timm needs another torch than .venv has")
    report = timm_family(name).audited(steps=3)
    assert [(f.rule, f.where) for f in report.findings if f.severity == "error"] == []
