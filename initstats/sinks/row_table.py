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
    parts += [grid for grid in (_parameters(row, most), _modules(row, most)) if grid is not None]
    parts.extend(Text(alert_text(alert), style=_STYLES[alert.severity]) for alert in row.alerts)
    if missing := missing_text(row):
        parts.append(Text(missing, style="dim"))
    return Group(*parts)


def _parameters(row: Row, most: int) -> Grid | None:
    """Draw a line per parameter; None when nothing of parameters was measured."""
    kinds, cosines = [kind for kind in _PARAMETERS if kind in row.tables], row.momentum_cosines()
    names = _natural({*cosines, *(name for kind in kinds for name in row.tables[kind])})
    if not names:
        return None
    cosine = ["momentum cosine"] if cosines else []
    ratios = row.update_ratios()
    grid = _grid(
        "parameter", *[f"{kind} rms" for kind in kinds], "update ratio", *cosine, "NaN, inf"
    )
    for name in _middle_out(names, most):
        records = [row.tables[kind].get(name) for kind in kinds]
        bad = sum(r.nan + r.pos_inf + r.neg_inf for r in records if r is not None)
        cells = [number(r.rms) if r is not None else "-" for r in records]
        cells.append(number(ratios.get(name)))
        cells += [number(cosines.get(name))] if cosines else []
        grid.add_row(*literal(name), *cells, str(bad), style="red" if bad else "")
    return grid


def _modules(row: Row, most: int) -> Grid | None:
    """Draw a line per module; None when activations were not measured."""
    table = row.tables.get("activations")
    if table is None:
        return None
    shares = row.near_zero_shares()
    calls = row.calls if any(n != 1 for n in row.calls.values()) else {}
    more = [name for name, has in (("near 0", shares), ("calls", calls)) if has]
    grid = _grid("activation", "rms", "largest in the window", "zeros", *more)
    for name in _middle_out(list(dict.fromkeys((*table.names, *calls))), most):
        cells = ["-", "-", "-"]
        if name in table.index:
            record = table[name]
            share = record.zero / record.count if record.count else 0.0
            largest = float(table.high["abs_max"][table.index[name]])
            cells = [number(record.rms), number(largest), f"{share:.1%}"]
        if shares:
            cells.append(f"{shares[name]:.1%}" if name in shares else "-")
        if calls:
            cells.append(number(calls.get(name)))
        grid.add_row(*literal(name), *cells)
    return grid


def _grid(first: str, *others: str) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    grid.add_column(first, overflow="fold")
    for column in others:
        grid.add_column(column, justify="right")
    return grid


def _natural(names: set[str]) -> list[str]:
    """Sort names as people count: h.2 before h.10."""
    return sorted(names, key=lambda name: [_part(part) for part in re.split(r"(\d+)", name)])


def _part(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def _middle_out(names: list[str], most: int) -> list[str]:
    """Leave out the middle of a long list."""
    half = most // 2
    return names if len(names) <= most else names[:half] + names[-half:]
