"""The audit names the rule and the place of faults that were injected into healthy models."""

from __future__ import annotations

import pytest

from zoo.recorded import healthy_findings
from zoo.sick import SICK, TOP, infected
from zoo.specimens import Size

LEAST = 50
SHARE = 0.95


@pytest.mark.long
def test_faults_are_named_with_rule_and_place_in_the_first_findings() -> None:
    missed = []
    for fault in SICK:
        findings = infected(fault, Size()).audited().findings[:TOP]
        if not any(fault.named_by(finding) for finding in findings):
            missed.append((fault.model, fault.name, [(f.rule, f.where) for f in findings]))
    assert len(SICK) >= LEAST
    assert len(missed) <= (1 - SHARE) * len(SICK), missed


def test_no_fault_is_named_in_the_model_that_does_not_have_it() -> None:
    found = [
        (fault.model, fault.name, finding.rule)
        for fault in SICK
        for finding in healthy_findings(fault.model)[:TOP]
        if fault.named_by(finding)
    ]
    assert found == []
