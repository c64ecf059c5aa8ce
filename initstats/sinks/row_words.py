"""Alerts and missing values of a row in words, the same for every sink."""

from __future__ import annotations

import math
from collections.abc import Iterable

from initstats.diagnostics.findings import Finding
from initstats.monitoring.row import Row, Table

_NAMED = 3


def alert_text(finding: Finding) -> str:
    """Return a finding in a line."""
    return f"{finding.severity} {finding.rule} at {finding.where}: {finding.cause}"


class NamedNumbers:
    """The numbers of rows that are one per name, by kind: "momentum_cosine", "near_zero", "calls".

    The calls of a module are drawn from the first row on in which they are not 1.
    """

    def __init__(self) -> None:
        self._drawn: dict[str, None] = {}

    def of(self, row: Row) -> dict[str, dict[str, float]]:
        """Return the finite numbers of the next row, by kind and name."""
        self._drawn |= dict.fromkeys(name for name, n in row.calls.items() if n != 1)
        return {
            "momentum_cosine": _finite(row.momentum_cosines()),
            "near_zero": row.near_zero_shares(),
            "calls": {name: row.calls[name] for name in self._drawn if name in row.calls},
        }

    def flat(self, row: Row, fields: Iterable[str]) -> dict[str, float]:
        """Return every finite number of the next row that is of one name, by tag.

        Args:
            row: The row.
            fields: Fields of `Stats` of each tensor, with tags such as `gradients_std/h.0.weight`.
        """
        found = {
            f"{kind}/{n}": value for kind, of in self.of(row).items() for n, value in of.items()
        }
        for kind, table in ordinary_tables(row).items():
            for field in fields:
                values = zip(table.names, drawn(table, field), strict=True)
                found |= _finite({f"{kind}_{field}/{name}": value for name, value in values})
        return found


def ordinary_tables(row: Row) -> dict[str, Table]:
    """Return the tables of tensors, without those that hold one number per name and step."""
    return {kind: table for kind, table in row.tables.items() if kind != "momentum_cosine"}


def drawn(table: Table, field: str) -> list[float]:
    """Return the values of a field that stand for a window: the largest size, else the mean."""
    columns = table.high if field == "abs_max" else table.average
    values: list[float] = (columns[field] if field in columns else table.column(field)).tolist()
    return values


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    return {name: n for name, n in numbers.items() if math.isfinite(n)}


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
