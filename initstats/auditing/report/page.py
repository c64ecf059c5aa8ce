"""The audit as one HTML file that opens from disk: drawn from the values of audit.json."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from initstats.auditing.report.page_sections import depth_charts, shared_charts
from initstats.auditing.report.page_tables import (
    findings_list,
    layer_rows,
    marked_layers,
    parameter_rows,
    table,
)
from initstats.auditing.report.schema import as_number
from initstats.drawing.charts import Chart, figure, short
from initstats.drawing.histograms import histogram_groups

_MILLION = 1_000_000


def audit_page(
    reports: Mapping[str, Mapping[str, Any]], *, title: str = "", before: str = ""
) -> str:
    """Draw reports as an HTML page that needs no other file and no network.

    A content security policy in the page forbids every request; style and script are inline.

    Args:
        reports: Values of `AuditReport.to_dict`, or of a saved audit.json, by label; at least one.
        title: Heading; the name of the model when empty.
        before: HTML to show above the reports.

    Returns:
        The page.
    """
    first = next(iter(reports.values()))
    title = title or f"{first['settings']['model']}"
    sections = [
        _report(values, f"r{i}", label) for i, (label, values) in enumerate(reports.items())
    ]
    if len(reports) == 1:
        content = sections[0]
    else:
        tabs = "".join(
            f'<button type="button" role="tab" id="r{i}-tab" aria-controls="r{i}">{escape(label)}'
            "</button>"
            for i, label in enumerate(reports)
        )
        panels = "".join(
            f'<div class="report" role="tabpanel" id="r{i}" aria-labelledby="r{i}-tab">'
            f"<h2>{escape(label)}</h2>{section}</div>"
            for i, (label, section) in enumerate(zip(reports, sections, strict=True))
        )
        content = (
            f"<section><h2>Side by side</h2>{_charts(shared_charts(reports), 'all')}</section>"
            f'<div class="tabs" role="tablist" aria-label="reports" hidden>{tabs}</div>{panels}'
        )
    facts = _facts(first["settings"])
    return _document(title, facts, before + content)


def write_page(path: Path, page: str) -> None:
    """Write a page.

    Args:
        path: The file.
        page: What `audit_page` returned. Names that are no valid Unicode are written escaped.
    """
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _report(values: Mapping[str, Any], identity: str, label: str) -> str:
    """Draw one report."""
    lottery = "" if values["lottery"] is None else _lottery(values["lottery"])
    navigation = "".join(
        f'<a href="#{identity}-{anchor}">{words}</a>'
        for anchor, words in (
            ("findings", "Findings"),
            ("depth", "Scales and losses"),
            ("histograms", "Histograms"),
            ("layers", "Layers"),
            ("parameters", "Parameters"),
        )
    )
    layers, parameters = len(values["layers"]), len(values["parameters"])
    found = len(values["findings"])
    return (
        f"{_verdict(values)}"
        f'<nav aria-label="parts of {escape(label)}">{navigation}</nav>'
        f'<section id="{identity}-findings"><h2>Findings <span class="muted">{found}</span></h2>'
        f"{findings_list(values, identity)}</section>"
        f'<section id="{identity}-depth"><h2>Scales and losses</h2>'
        f"{_charts(depth_charts(values), identity)}</section>"
        f"{lottery}"
        f'<section id="{identity}-histograms"><h2>Histograms by layer</h2><p class="muted">Density '
        "of all but the outermost 0.4 % of the values; a dark bar is the share of exact zeros, "
        "full height for all.</p>"
        f"{histogram_groups(values, marked_layers(values))}</section>"
        f'<section id="{identity}-layers"><h2>Layers <span class="muted">{layers}</span></h2>'
        f"{_filter('layer')}{layer_rows(values, identity)}</section>"
        f'<section id="{identity}-parameters"><h2>Parameters <span class="muted">{parameters}'
        f"</span></h2>{_filter('parameter')}{parameter_rows(values, identity)}</section>"
    )


def _verdict(values: Mapping[str, Any]) -> str:
    """Show in one line how the model starts."""
    found = [finding["severity"] for finding in values["findings"]]
    errors, warnings = found.count("error"), found.count("warning")
    kind = "error" if errors else "warning" if warnings else "ok"
    counts = [
        f"{number} {word if number == 1 else word + 's'}"
        for number, word in ((errors, "error"), (warnings, "warning"))
        if number
    ]
    if errors:
        headline = " and ".join(counts)
        worst = values["findings"][0]
        rest = f"worst: {worst['rule']} at {worst['where']}"
    elif warnings:
        headline, rest = "Starts well, with " + counts[0], "no error"
    else:
        headline, rest = "Starts well", "no error, no warning"
    losses = [as_number(value) for value in values["loss"]["values"]]
    if losses:
        rest += f"; loss {short(losses[0])}"
        if len(losses) > 1:
            rest += f" → {short(losses[-1])} in {len(losses)} steps"
    symbol = {"ok": "✓", "warning": "!", "error": "✕"}[kind]
    return (
        f'<div class="verdict {kind}" role="status"><strong>{symbol} {escape(headline)}</strong>'
        f"<span>{escape(rest)}</span></div>"
    )


def _charts(charts: list[Chart], identity: str) -> str:
    """Lay out charts side by side."""
    drawn = "".join(figure(chart, f"{identity}-c{i}") for i, chart in enumerate(charts))
    return f'<div class="charts">{drawn}</div>'


def _lottery(lottery: Mapping[str, Any]) -> str:
    """Show the spread over seeds."""
    rows = []
    for name, spread in lottery["spread"].items():
        numbers = [as_number(spread[key]) for key in ("min", "median", "max", "log_std")]
        cells = "".join(f"<td data-v={_sortable(n)}>{short(n)}</td>" for n in numbers)
        rows.append(f'<tr data-name="{escape(name)}"><td>{escape(name)}</td>{cells}</tr>')
    heads = ("number", "min", "median", "max", "std of ln")
    seeds = len(lottery["seeds"])
    return (
        f'<section><h2>The lottery <span class="muted">{seeds} seeds</span></h2>'
        f"{table('Spread over the seeds', heads, rows, texts=())}</section>"
    )


def _sortable(value: float | None) -> str:
    """Return a quoted attribute that columns sort by."""
    return '""' if value is None else f'"{value:.6g}"'


def _filter(what: str) -> str:
    """Return the box that filters a table; the script shows it."""
    return (
        f'<div class="tools" hidden><input type="search" placeholder="filter by name" '
        f'aria-label="filter {what}s by name"></div>'
    )


def _facts(settings: Mapping[str, Any]) -> str:
    """List what was audited and how."""
    parameters = settings["parameters"]
    size = f"{parameters / _MILLION:.1f} M" if parameters >= _MILLION else f"{parameters:,}"
    facts = {
        "parameters": size,
        "trained": f"{settings['trained_parameters'] / max(parameters, 1):.0%}",
        "steps": settings["steps"],
        "optimizer": settings["optimizer"],
        "learning rate": short(as_number(settings["learning_rate"])),
        "recipe": settings["recipe"] or "none",
        "torch": settings["torch"],
    }
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def _document(title: str, facts: str, content: str) -> str:
    """Put a page together."""
    style, script = _packaged("page.css"), _packaged("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}: audit</title><style>{style}</style></head><body>"
        '<header class="top"><div><p class="eyebrow">initstats audit</p>'
        f"<h1>{escape(title)}</h1>{facts}</div>"
        '<button id="theme" type="button" hidden>Light / dark</button></header>'
        f"<main>{content}</main><footer>Numbers are of the first step unless said otherwise; "
        "all of them are in <code>audit.json</code>, beside this file.</footer>"
        f'<div id="tip" hidden></div><script>{script}</script></body></html>\n'
    )


def _packaged(name: str) -> str:
    """Return a text file of this package."""
    return (resources.files("initstats.drawing") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression that allows exactly this inline text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
