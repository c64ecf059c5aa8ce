"""Findings and tables of the audit's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from initstats.auditing.report.schema import as_number
from initstats.drawing.charts import short
from initstats.drawing.histograms import block_of

_LISTED_FINDINGS = 12
_LISTED_PLACES = 4
Cell = tuple[str, float | None] | str
"""A text, or a number that columns sort by with the text that shows it."""


def findings_list(values: Mapping[str, Any], identity: str) -> str:
    """Show findings in their order: where, how much, why, and what to do.

    Args:
        values: A report, as in audit.json.
        identity: Prefix of the ids of the report's parts.

    Returns:
        One article per finding; those past the twelfth are folded.
    """
    findings = values["findings"]
    if not findings:
        return '<p class="muted">No rule found anything wrong.</p>'
    places = _anchors(values, identity)
    drawn = [_finding(finding, places) for finding in findings]
    first, rest = drawn[:_LISTED_FINDINGS], drawn[_LISTED_FINDINGS:]
    more = ""
    if rest:
        more = f'<details class="more"><summary>{len(rest)} more</summary>{"".join(rest)}</details>'
    return "".join(first) + more


def severities(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the worst severity found at each place, by name of the layer or parameter."""
    worst: dict[str, str] = {}
    for finding in reversed(values["findings"]):
        for place in (finding["where"], *finding["also"]):
            worst[place] = finding["severity"]
    return worst


def marked_layers(values: Mapping[str, Any]) -> set[str]:
    """Return the layers that a finding names, also through one of their parameters."""
    places = severities(values)
    owners = [layer for layer in values["layers"] if not layer["is_block"]]
    return set(places) | {o["name"] for o in owners if any(p in places for p in o["parameters"])}


def layer_rows(values: Mapping[str, Any], identity: str) -> str:
    """Make the table of layers in the order of the forward pass.

    Args:
        values: A report, as in audit.json.
        identity: Prefix of the ids of the rows.

    Returns:
        A `<table>`; the script folds the layers of a block where there are many.
    """
    layers = values["layers"]
    owners = block_of(layers)
    numbers = {layer["name"]: i for i, layer in enumerate(layers)}
    found, marked = severities(values), marked_layers(values)
    rows = []
    ordered = sorted(layers, key=lambda layer: _place(layer, owners, numbers))
    for layer in ordered:
        name, owner = layer["name"], owners[layer["name"]]
        is_owner = owner == name
        cells: list[Cell] = [
            layer["kind"],
            (str(layer["calls"]), layer["calls"]),
            _cell(layer["input"], "rms"),
            _cell(layer["activation"], "mean"),
            _cell(layer["activation"], "std"),
            _cell(layer["activation"], "rms"),
            _cell(layer["activation"], "abs_max"),
            (f"{as_number(layer['zero_share']) or 0.0:.0%}", as_number(layer["zero_share"])),
            _cell(layer["output_gradient"], "rms"),
            _cell(layer["weight_gradient"], "rms"),
        ]
        attributes = f'id="{identity}-l{numbers[name]}" data-name="{escape(name)}"'
        severity = found.get(name, "warning" if name in marked else "")
        if severity:
            attributes += ' data-marked="1"'
        if owner and not is_owner:
            attributes += f' data-parent="{numbers[owner]}"'
        classes = ("block " if is_owner else "") + severity
        button = ""
        if is_owner:
            button = (
                f'<button class="fold" data-block="{numbers[name]}" hidden '
                f'aria-label="layers of {escape(name)}" aria-expanded="true"></button>'
            )
        indent = ' class="indent"' if owner and not is_owner else ""
        first = f'<td title="{escape(name)}">{button}<code{indent}>{escape(name)}</code></td>'
        rows.append(f'<tr class="{classes.strip()}" {attributes}>{first}{_cells(cells)}</tr>')
    heads = (
        "layer",
        "kind",
        "calls",
        "input<br>rms",
        "output<br>mean",
        "output<br>std",
        "output<br>rms",
        "output<br>max",
        "zero<br>share",
        "gradient of<br>output, rms",
        "gradient of<br>weights, rms",
    )
    return table("Layers in the order of the forward pass", heads, rows, texts=(1,))


def parameter_rows(values: Mapping[str, Any], identity: str) -> str:
    """Make the table of parameters in the order of the model.

    Args:
        values: A report, as in audit.json.
        identity: Prefix of the ids of the rows.

    Returns:
        A `<table>`.
    """
    found = severities(values)
    rows = []
    for i, parameter in enumerate(values["parameters"]):
        name = parameter["name"]
        shape = " × ".join(map(str, parameter["shape"])) or "scalar"
        expected, ratio = (as_number(parameter[key]) for key in ("expected_std", "update_ratio"))
        cells: list[Cell] = [
            (shape, float(math.prod(parameter["shape"]))),
            parameter["role"],
            parameter["dtype"],
            _cell(parameter["weight"], "mean"),
            _cell(parameter["weight"], "std"),
            (short(expected), expected),
            _cell(parameter["weight"], "abs_max"),
            _cell(parameter["gradient"], "rms"),
            (short(ratio), ratio) if parameter["trained"] else ("frozen", None),
        ]
        rows.append(
            f'<tr class="{found.get(name, "")}" id="{identity}-p{i}" data-name="{escape(name)}">'
            f'<td title="{escape(name)}"><code>{escape(name)}</code></td>{_cells(cells)}</tr>'
        )
    heads = (
        "parameter",
        "shape",
        "role",
        "type",
        "mean",
        "std",
        "recipe<br>std",
        "largest<br>size",
        "gradient<br>rms",
        "update<br>ratio",
    )
    return table("Parameters in the order of the model", heads, rows, texts=(2, 3))


def table(caption: str, heads: Sequence[str], rows: Sequence[str], texts: Sequence[int]) -> str:
    """Make a table whose columns sort, in a box that scrolls.

    Args:
        caption: Name for screen readers.
        heads: Column headings, as HTML.
        rows: `<tr>` elements.
        texts: Numbers of the columns that hold text, beside the first.

    Returns:
        A `<div>` with the table.
    """
    cells = "".join(
        f'<th scope="col"{" class=text" if i in texts else ""}><button type="button">{head}'
        "</button></th>"
        for i, head in enumerate(heads)
    )
    return (
        f'<div class="card scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="data"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _finding(finding: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """Show one finding."""
    severity = escape(finding["severity"])
    others = finding["also"]
    also = ""
    if others:
        listed = ", ".join(_place_link(place, places) for place in others[:_LISTED_PLACES])
        hidden = ", ".join(_place_link(place, places) for place in others[_LISTED_PLACES:])
        if hidden:
            rest = len(others) - _LISTED_PLACES
            listed += f"<details><summary>and {rest} more</summary>{hidden}</details>"
        also = f"<dt>also at</dt><dd>{listed}</dd>"
    value, limit = as_number(finding["value"]), as_number(finding["threshold"])
    return (
        f'<article class="finding {severity}"><header><span class="chip {severity}">{severity}'
        f"</span><h3>{escape(finding['rule'])} at {_place_link(finding['where'], places)}</h3>"
        f'<span class="numbers"><b>{short(value)}</b>, limit {short(limit)}</span></header>'
        f"<dl><dt>cause</dt><dd>{escape(finding['cause'])}</dd>"
        f"<dt>fix</dt><dd>{escape(finding['fix'])}</dd>{also}</dl>"
        f'<dl class="source"><dt>source</dt><dd>{escape(finding["source"])}</dd></dl></article>'
    )


def _anchors(values: Mapping[str, Any], identity: str) -> dict[str, str]:
    """Return the id of the row of each layer and parameter, by name."""
    anchors = {p["name"]: f"{identity}-p{i}" for i, p in enumerate(values["parameters"])}
    return anchors | {x["name"]: f"{identity}-l{i}" for i, x in enumerate(values["layers"])}


def _place_link(place: str, places: Mapping[str, str]) -> str:
    """Name a place, with a link to its row where it has one."""
    name = f"<code>{escape(place)}</code>"
    return f'<a href="#{places[place]}">{name}</a>' if place in places else name


def _place(
    layer: Mapping[str, Any], owners: Mapping[str, str], numbers: Mapping[str, int]
) -> tuple[int, int]:
    """Return a key that sorts layers by forward pass, with each block above what is inside.

    A block finishes after its layers, so the first of them decides where the block stands.
    """
    name = layer["name"]
    owner = owners[name]
    if not owner:
        return (numbers[name], 0)
    first = min(number for inner, number in numbers.items() if owners[inner] == owner)
    return (first, -1 if name == owner else numbers[name])


def _cell(record: Mapping[str, Any] | None, field: str) -> Cell:
    """Return a number of a record as a cell."""
    value = None if record is None else as_number(record[field])
    return (short(value), value)


def _cells(cells: Sequence[Cell]) -> str:
    """Return table cells; numbers carry their value for sorting."""
    parts = []
    for cell in cells:
        if isinstance(cell, str):
            parts.append(f'<td class="text">{escape(cell)}</td>')
        else:
            words, value = cell
            known = "" if value is None or not math.isfinite(value) else f"{value:.6g}"
            parts.append(f'<td data-v="{known}">{escape(words)}</td>')
    return "".join(parts)
