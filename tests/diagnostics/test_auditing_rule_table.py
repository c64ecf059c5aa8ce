"""docs/audit.md states every rule with the thresholds and the source that the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from initstats.auditing import DEFAULT_RULES

TEXT = (Path(__file__).resolve().parents[2] / "docs/audit.md").read_text()


def table() -> list[list[str]]:
    section = TEXT.partition("## Rules\n")[2].partition("\n\nA rule is")[0]
    rows = re.findall(r"^\| (`.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows]


def test_the_table_lists_the_rules_with_their_thresholds_and_sources() -> None:
    expected = [
        [
            f"`{rule.id}`",
            f"`{type(rule).__name__}`",
            ", ".join(f"`{f.name}={getattr(rule, f.name):g}`" for f in fields(rule)) or "–",
            rule.source,
        ]
        for rule in DEFAULT_RULES
    ]
    assert [[row[0], row[1], row[3], row[5]] for row in table()] == expected


def test_the_table_says_what_each_rule_means_and_how_severe_it_is() -> None:
    for _, _, meaning, _, severity, _ in table():
        assert meaning
        assert set(severity.split(", ")) <= {"error", "warning", "info"}


def test_the_examples_of_rules_run() -> None:
    section = TEXT.partition("## Rules\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, "docs/audit.md", "exec", dont_inherit=True), {"__name__": "__main__"})
