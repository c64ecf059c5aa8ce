"""The audit does not cry wolf over models that start well."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from zoo import families, more_families
from zoo.families import TIMM, TORCHVISION, timm_family, torchvision_family
from zoo.healthy import HEALTHY
from zoo.recorded import healthy_findings

LEAST = 115
PAGE = Path(__file__).resolve().parents[2] / "docs/guides/audit.md"


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


@pytest.mark.long
@pytest.mark.parametrize("name", TORCHVISION)
def test_families_of_torchvision_have_no_error(name: str) -> None:
    pytest.importorskip("torchvision", reason="torchvision needs another torch than .venv has")
    report = torchvision_family(name).audited(steps=3)
    assert [(f.rule, f.where) for f in report.findings if f.severity == "error"] == []


def test_the_guide_lists_the_published_families_that_are_tried() -> None:
    text = PAGE.read_text()
    section = text[
        text.index("### Families without an error") : text.index("### Faults of released")
    ]
    lists = re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL)
    listed = {name for names in lists for name in names.split()}
    assert listed == {*families.MODELS, *more_families.MODELS, *TIMM, *TORCHVISION}
