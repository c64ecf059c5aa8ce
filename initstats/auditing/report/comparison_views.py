"""A comparison of two audits for the terminal, and as a part of the page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from initstats.auditing.report.page_tables import table
from initstats.drawing.charts import short
from initstats.text import number

if TYPE_CHECKING:
    from initstats.auditing.report.compare import ReportComparison

_LISTED_NAMES = 8
_CHANGED = 1.25  # A scale that changed by less is not coloured.
_NAME_COLUMNS = 26


def printed_comparison(comparison: ReportComparison) -> Group:
    """Lay out a comparison for a terminal of 80 columns.

    Args:
        comparison: The comparison.

    Returns:
        A renderable for rich.
    """
    one, two = comparison.labels
    layers = _plain_table(f"{one} → {two}: rms of outputs and their gradients")
    for column in ("output\nfirst", "output\nsecond", "\nratio"):
        layers.add_column(column, justify="right", no_wrap=True, min_width=6)
    for column in ("grad.\nfirst", "grad.\nsecond", "\nratio"):
        layers.add_column(column, justify="right", no_wrap=True, min_width=6)
    for layer in comparison.layers:
        layers.add_row(
            Text(layer.name),
            *(number(value) for value in layer.activations),
            _coloured(layer.activation_ratio),
            *(number(value) for value in layer.gradients),
            _coloured(layer.gradient_ratio),
            style="bold" if layer.is_block else None,
        )
    parts: list[RenderableType] = [layers]
    for label, names in ((one, comparison.only_first), (two, comparison.only_second)):
        if names:
            listed = ", ".join(names[:_LISTED_NAMES])
            rest = len(names) - _LISTED_NAMES
            listed += f" and {rest} more" if rest > 0 else ""
            parts.append(Text(f"only in {label}: {listed}"))
    losses = _plain_table("losses")
    for column in ("first step", "last step", "steps"):
        losses.add_column(column, justify="right")
    for label, values in zip(comparison.labels, comparison.losses, strict=True):
        ends = (number(values[0]), number(values[-1])) if values else ("-", "-")
        losses.add_row(Text(label), *ends, str(len(values)))
    parts += [Text(), losses, Text()]
    if not comparison.findings:
        parts.append(Text("no findings in either", style="green"))
    styles = {"new": "red", "stayed": "yellow", "gone": "green"}
    for f in comparison.findings:
        severity = f.severities[1] or f.severities[0]
        line = Text(f"{f.change:<6} ", style=f"bold {styles[f.change]}")
        known = [number(value) for value in f.values if value is not None]
        line.append(f"{severity} {f.rule} at {f.where}: {' → '.join(known)}", style="default")
        parts.append(line)
    return Group(*parts)


def _plain_table(title: str) -> Table:
    """Return an empty table with a column for names."""
    made = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold italic",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    made.add_column("", no_wrap=True, overflow="ellipsis", max_width=_NAME_COLUMNS)
    return made


def _coloured(ratio: float | None) -> Text:
    """Return a ratio, bold where the scale changed."""
    changed = ratio is not None and not 1 / _CHANGED < ratio < _CHANGED
    return Text(number(ratio), style="bold magenta" if changed else "")


def comparison_part(comparison: ReportComparison) -> str:
    """Draw what the page shows above the two reports.

    Args:
        comparison: The comparison.

    Returns:
        HTML.
    """
    words = {"new": "error", "stayed": "warning", "gone": "ok"}
    counts = {w: sum(f.change == w for f in comparison.findings) for w in words}
    kind = "ok" if comparison.ok else "error"
    rows = []
    for f in comparison.findings:
        first, second = (
            "–" if severity is None else f"{severity}, {short(value)}"
            for severity, value in zip(f.severities, f.values, strict=True)
        )
        rows.append(
            f'<tr class="{words[f.change]}" data-name="{escape(f.rule)}"><td>{escape(f.rule)}</td>'
            f'<td class="text">{f.change}</td><td class="text"><code>{escape(f.where)}</code></td>'
            f'<td class="text">{escape(first)}</td><td class="text">{escape(second)}</td></tr>'
        )
    layers = []
    for layer in comparison.layers:
        numbers = (
            *layer.activations,
            layer.activation_ratio,
            *layer.gradients,
            layer.gradient_ratio,
        )
        cells = "".join(f'<td data-v="{_sortable(n)}">{short(n)}</td>' for n in numbers)
        name = escape(layer.name)
        layers.append(
            f'<tr class="{"block" if layer.is_block else ""}" data-name="{name}">'
            f"<td><code>{name}</code></td>{cells}</tr>"
        )
    one, two = (escape(label) for label in comparison.labels)
    found = table("Findings of both", ("rule", "change", "where", one, two), rows, (1, 2, 3, 4))
    heads = ["layer"]
    for what in ("output rms", "gradient rms"):
        heads += [f"{what}<br>{one}", f"{what}<br>{two}", "ratio"]
    only = "".join(
        f"<p>Only in {label}: {', '.join(f'<code>{escape(n)}</code>' for n in names)}</p>"
        for label, names in ((one, comparison.only_first), (two, comparison.only_second))
        if names
    )
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    return (
        f'<div class="verdict {kind}" role="status"><strong>{summary}</strong><span>findings of '
        f"{two} against {one}</span></div><section><h2>Findings that came, stayed and went</h2>"
        f"{found if rows else '<p>No findings in either.</p>'}</section><section>"
        f"<h2>Layers side by side</h2>{table('Layers of both', heads, layers, ())}"
        f"{only}</section>"
    )


def _sortable(value: float | None) -> str:
    """Return what a column sorts by."""
    return "" if value is None else f"{value:.6g}"
