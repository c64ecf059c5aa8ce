"""docs/guides/audit.md states every rule with the thresholds and the source that the code has."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path

from initstats.auditing import DEFAULT_RULES, AuditRule
from initstats.diagnostics.rules import table as rule_table

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/guides/audit.md").read_text()


def table() -> list[list[str]]:
    section = TEXT.partition("## Rules\n")[2].partition("\n\nA rule is")[0]
    rows = re.findall(r"^\| (`.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows]


def cells(rule: AuditRule) -> list[str]:
    """Return what the code says of a rule: id, class, thresholds, source."""
    thresholds = ", ".join(f"`{f.name}={getattr(rule, f.name):g}`" for f in fields(rule))
    return [f"`{rule.id}`", f"`{type(rule).__name__}`", thresholds or "–", rule.source]


def missing(rule: AuditRule) -> list[str]:
    """Return what a rule still needs, each step by name."""
    name = type(rule).__name__
    id_, class_, thresholds, source = cells(rule)
    row = f"| {id_} | {class_} | MEANING | {thresholds} | SEVERITIES | {source} |"
    rows = [[row[0], row[1], row[3], row[5]] for row in table()]
    specimens = "".join(
        path.read_text()
        for folder in ("diagnostics", "zoo", "auditing")
        for path in (ROOT / "tests" / folder).glob("*.py")
        if path != Path(__file__)
    )
    steps = {
        "not in __all__ of initstats/diagnostics/rules/table.py": name.strip("`")
        in rule_table.__all__,
        f"its row in docs/guides/audit.md should be: {row}": cells(rule) in rows,
        "no test with a model that it finds, in tests/diagnostics or tests/zoo": (
            f'"{rule.id}"' in specimens or f"{name}(" in specimens
        ),
    }
    return [f"{rule.id}: {step}" for step, done in steps.items() if not done]


def test_no_rule_lacks_a_step() -> None:
    lacking = [step for rule in DEFAULT_RULES for step in missing(rule)]
    assert lacking == [], "\n".join(lacking)


def test_the_table_lists_the_rules_in_their_order() -> None:
    assert [row[0] for row in table()] == [f"`{rule.id}`" for rule in DEFAULT_RULES]


def test_every_rule_that_is_defined_is_checked_by_an_audit() -> None:
    defined = {
        f"{name}: not in DEFAULT_RULES of initstats/diagnostics/rules/table.py"
        for path in (ROOT / "initstats/diagnostics/rules").glob("*.py")
        for name, value in vars(
            importlib.import_module(f"initstats.diagnostics.rules.{path.stem}")
        ).items()
        if inspect.isclass(value) and issubclass(value, AuditRule) and hasattr(value, "id")
        if value not in {type(rule) for rule in DEFAULT_RULES}
    }
    assert defined == set(), "\n".join(sorted(defined))


def test_the_table_says_what_each_rule_means_and_how_severe_it_is() -> None:
    for _, _, meaning, _, severity, _ in table():
        assert meaning
        assert set(severity.split(", ")) <= {"error", "warning", "info"}


def test_the_examples_of_rules_run() -> None:
    section = TEXT.partition("## Rules\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        exec(
            compile(code, "docs/guides/audit.md", "exec", dont_inherit=True),
            {"__name__": "__main__"},
        )
