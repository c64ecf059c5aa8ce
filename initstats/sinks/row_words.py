"""Alerts and missing values of a row in words, the same for every sink."""

from __future__ import annotations

from initstats.diagnostics.findings import Finding
from initstats.monitoring.row import Row

_NAMED = 3


def alert_text(finding: Finding) -> str:
    """Return a finding in a line."""
    return f"{finding.severity} {finding.rule} at {finding.where}: {finding.cause}"


def missing_groups(row: Row) -> dict[tuple[str, str], list[str]]:
    """Return the names that are missing in a row, by kind and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, names in row.missing.items():
        for name, reason in names.items():
            groups.setdefault((kind, reason), []).append(name)
    return groups


def missing_text(row: Row) -> str:
    """Return what is missing in a row, a line per kind and reason; empty when nothing is."""
    lines = []
    for (kind, reason), names in missing_groups(row).items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"no {kind} of {', '.join(names[:_NAMED])}{more}: {reason}")
    return "\n".join(lines)
