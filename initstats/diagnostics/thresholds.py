"""Parse thresholds of rules from text, `initial-loss.severe=3.0`, and leave rules out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from initstats.diagnostics.findings import AuditRule
from initstats.text import nearest


def changed_rules(
    rules: Sequence[AuditRule], *, settings: Iterable[str], ignored: Iterable[str]
) -> tuple[AuditRule, ...]:
    """Change thresholds of rules, and leave rules out.

    Args:
        rules: The rules.
        settings: Thresholds as `rule.threshold=value`.
        ignored: Ids of rules to leave out.

    Returns:
        The rules, in the same order.

    Raises:
        ValueError: If there is no such rule or threshold, with the near names, or the value is of
            another kind.
    """
    changed = list(rules)
    for setting in settings:
        name, equals, value = setting.partition("=")
        rule_id, dot, field = name.strip().partition(".")
        if not (equals and dot and field):
            raise ValueError(
                f"initstats.audit: expected --set rule.threshold=value, got --set {setting!r}"
            )
        for i in _places(changed, rule_id, "--set"):
            changed[i] = replace(changed[i], **{field: _parsed(changed[i], field, value.strip())})
    left_out = {i for rule_id in ignored for i in _places(changed, rule_id, "--ignore")}
    return tuple(rule for i, rule in enumerate(changed) if i not in left_out)


def _places(rules: Sequence[AuditRule], rule_id: str, option: str) -> list[int]:
    """Return the places of the rules of an id.

    Raises:
        ValueError: If there is none.
    """
    found = [i for i, rule in enumerate(rules) if rule.id == rule_id]
    if not found:
        raise ValueError(
            f"initstats.audit: expected {option} with one of the rules "
            f"{', '.join(rule.id for rule in rules)}, got {rule_id!r}"
            + nearest(rule_id, [rule.id for rule in rules])
        )
    return found


def _parsed(rule: AuditRule, field: str, value: str) -> Any:
    """Return a value of the kind that a threshold has.

    Raises:
        ValueError: If there is no such threshold, or the text is no such value.
    """
    known = {f.name: getattr(rule, f.name) for f in fields(rule)}
    if field not in known:
        listed = ", ".join(f"{name}={default}" for name, default in known.items()) or "none"
        raise ValueError(
            f"initstats.audit: expected a threshold of {rule.id} ({listed}), got {field!r}"
            + nearest(field, list(known))
        )
    kind = type(known[field])
    try:
        if kind in {int, float, str}:
            return kind(value)
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
    except (KeyError, ValueError):
        pass
    raise ValueError(
        f"initstats.audit: expected {rule.id}.{field} to be of kind {kind.__name__}, got {value!r}"
    )
