"""Table of a row for terminals, of the live view and `initstats watch`."""

from __future__ import annotations

import re

from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from initstats.monitoring.row import Row
from initstats.sinks.row_words import alert_text, missing_text
from initstats.text import literal, number

_PARAMETERS = ("weights", "gradients", "updates")
_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def row_table(row: Row, most: int = 30) -> Group:
    """Draw a row: scalars, one line per module or parameter, alerts, what is missing.

    Args:
        row: The row.
        most: Lines at most; the middle of a longer model is left out.

    Returns:
        What rich can print.
    """
    head = "  ".join(f"{name} {number(value)}" for name, value in row.scalars().items())
    parts: list[Text | Grid] = [Text(head, style="bold")]
    names = _natural(
        {name for kind in _PARAMETERS if kind in row.tables for name in row.tables[kind]}
    )
    if names:
        grid = Grid(box=None, pad_edge=False)
        grid.add_column("parameter", overflow="fold")
        kinds = [kind for kind in _PARAMETERS if kind in row.tables]
        for kind in kinds:
            grid.add_column(f"{kind} rms", justify="right")
        grid.add_column("update ratio", justify="right")
        grid.add_column("NaN, inf", justify="right")
        ratios = row.update_ratios()
        for name in _middle_out(names, most):
            records = [row.tables[kind].get(name) for kind in kinds]
            bad = sum(r.nan + r.pos_inf + r.neg_inf for r in records if r is not None)
            cells = [number(r.rms) if r is not None else "-" for r in records]
            style = "red" if bad else ""
            grid.add_row(*literal(name), *cells, number(ratios.get(name)), str(bad), style=style)
        parts.append(grid)
    if "activations" in row.tables:
        table = row.tables["activations"]
        grid = Grid(box=None, pad_edge=False)
        for column in ("activation", "rms", "largest in the window", "zeros"):
            grid.add_column(column, justify="left" if column == "activation" else "right")
        for name in _middle_out(list(table.names), most):
            record = table[name]
            share = record.zero / record.count if record.count else 0.0
            largest = float(table.high["abs_max"][table.index[name]])
            grid.add_row(*literal(name), number(record.rms), number(largest), f"{share:.1%}")
        parts.append(grid)
    parts.extend(Text(alert_text(alert), style=_STYLES[alert.severity]) for alert in row.alerts)
    if missing := missing_text(row):
        parts.append(Text(missing, style="dim"))
    return Group(*parts)


def _natural(names: set[str]) -> list[str]:
    """Sort names as people count: h.2 before h.10."""
    return sorted(names, key=lambda name: [_part(part) for part in re.split(r"(\d+)", name)])


def _part(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def _middle_out(names: list[str], most: int) -> list[str]:
    """Leave out the middle of a long list."""
    half = most // 2
    return names if len(names) <= most else names[:half] + names[-half:]
