"""The report of an audit as rich tables for a terminal of 80 columns or more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from initstats.diagnostics.evidence import LayerReport
from initstats.diagnostics.findings import Finding
from initstats.text import number

if TYPE_CHECKING:
    from initstats.auditing.report.report import AuditReport

_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}
# Modules that pass their input on, or rescale it to a known spread: in the JSON, not in the table.
_QUIET_KINDS = ("Dropout", "Identity", "Flatten", "Norm")
_LISTED_PLACES = 3
_LISTED_STEPS = 10
_MOST_ROWS = 40  # Above, blocks like their neighbours share a line.
_FEWEST_FOLDED = 2
_COLUMNS = (
    "weight\nstd",
    "recipe\nstd",
    "output\nmean",
    "output\nstd",
    "output\nrms",
    "output\nmax",
    "zero\nshare",
    "w.grad\nrms",
    "update\nratio",
)
# The cell that shows what a rule found.
_COLUMN_OF_RULE = {
    "weights-against-recipe": "weight\nstd",
    "activation-std": "output\nstd",
    "activation-scale": "output\nmax",
    "activation-growth": "output\nrms",
    "not-finite": "output\nmax",
    "gradient-ratio": "w.grad\nrms",
    "missing-gradient": "w.grad\nrms",
    "update-ratio": "update\nratio",
}


def report_group(report: AuditReport, title: str | None = None) -> Group:
    """Lay out a report: layers, losses, findings.

    Args:
        report: The report.
        title: Heading; the model and the recipe when None.

    Returns:
        A renderable for rich.
    """
    settings = report.settings
    if title is None:
        recipe = f", recipe {settings['recipe']}" if settings["recipe"] else ""
        title = f"audit of {settings['model']}{recipe}"
    lottery: list[RenderableType] = []
    if report.lottery is not None:
        lottery = [report.lottery.table(), Text()]
    return Group(
        layer_table(report, title),
        loss_table({"loss": report}),
        Text(),
        *lottery,
        findings_group(report.findings),
    )


def layer_table(report: AuditReport, title: str) -> Table:
    """Make the table of layers by depth: blocks, layers with a matrix, and non-linearities.

    Args:
        report: The report.
        title: Heading.

    Returns:
        The table; rows that a finding names are coloured.
    """
    table = Table(
        title=f"{title}: first step, layer by layer",
        title_justify="left",
        title_style="bold italic",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
        caption="output max: of absolute values; update ratio: rms of the first step's change / "
        "rms of the weights; bold rows are blocks, with the matrices inside",
        caption_justify="left",
    )
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for column in _COLUMNS:
        wide = column == "output\nmean"  # the one column with signs
        table.add_column(column, justify="right", no_wrap=True, min_width=7 if wide else 6)
    colours = _cell_colours(report)
    for layer in folded_layers(report):
        if isinstance(layer, str):
            table.add_row(Text(layer, style="dim"))
            continue
        cells = [
            Text(cell, style=colours.get((layer.name, column), ""))
            for column, cell in zip(_COLUMNS, _cells(layer), strict=True)
        ]
        table.add_row(Text(layer.name), *cells, style="bold" if layer.is_block else None)
    return table


def folded_layers(report: AuditReport) -> list[LayerReport | str]:
    """Return the rows of the layer table, without the bulk of a deep model.

    Args:
        report: The report.

    Returns:
        Layers in their order. Above forty rows, blocks in the middle of a stack that no finding
        names are left out, and a line says how many, where at least two follow each other.
    """
    shown = [layer for layer in report.layers if _is_shown(layer)]
    if len(shown) <= _MOST_ROWS:
        return list(shown)
    blocks = [block for series in report.evidence.series for block in series.layers]
    ends = {block for s in report.evidence.series for block in (s.layers[0], s.layers[-1])}
    places = [place for f in report.findings for place in (f.where, *f.also)]
    owners = [_owner(layer.name, blocks) for layer in shown]
    named = {_owner(place, blocks) for place in places}
    rows: list[LayerReport | str] = []
    for is_folded, run in groupby(
        zip(shown, owners, strict=True), lambda pair: bool(pair[1]) and pair[1] not in ends | named
    ):
        members = list(run)
        count = len({owner for _, owner in members})
        if is_folded and count >= _FEWEST_FOLDED:
            rows.append(f"… {count} more blocks")
        else:
            rows += [layer for layer, _ in members]
    return rows


def _owner(name: str, blocks: list[str]) -> str:
    """Return the block of a series that a layer or parameter is in, or an empty text."""
    return next((block for block in blocks if f"{name}.".startswith(f"{block}.")), "")


def loss_table(reports: Mapping[str, AuditReport]) -> Group:
    """Lay out the first losses against ln(classes).

    Args:
        reports: Reports by label; one row each.

    Returns:
        A renderable for rich, with ten steps at most.
    """
    first = next(iter(reports.values()))
    steps = min(_LISTED_STEPS, max(len(report.loss.values) for report in reports.values()))
    expected = first.loss.expected
    title = "losses of the first steps"
    if expected is not None:
        classes = first.loss.cross_entropies[0].classes
        title += f", in nats; a uniform guess costs ln({classes}) = {expected:.3f}"
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("step", no_wrap=True)
    for step in range(1, steps + 1):
        table.add_column(str(step), justify="right", no_wrap=True)
    for label, report in reports.items():
        table.add_row(label, *(number(value) for value in report.loss.values[:steps]))
    return Group(Text(title, style="bold italic"), table)


def findings_group(findings: tuple[Finding, ...]) -> Group:
    """List findings, each with cause and fix.

    Args:
        findings: The findings, in the order to show.

    Returns:
        A renderable for rich.
    """
    if not findings:
        return Group(Text("no findings", style="green"))
    lines: list[RenderableType] = []
    for finding in findings:
        colour = _COLOURS[finding.severity]
        lines.append(
            Text.from_markup(
                f"[bold {colour}]{finding.severity}[/] [bold]{finding.rule}[/] at "
                f"[bold]{escape(_places(finding))}[/]: {number(finding.value)}, "
                f"limit {number(finding.threshold)}"
            )
        )
        for what, text in (("cause", finding.cause), ("fix", finding.fix)):
            line = Text.from_markup(f"[dim]{what}[/] {escape(text)}")
            lines.append(Padding(line, (0, 0, 0, 2), expand=False))
    return Group(*lines)


def _cells(layer: LayerReport) -> list[str]:
    """Return the cells of a row."""
    matrix = layer.matrix
    activation = layer.activation
    gradient = layer.weight_gradient
    if layer.is_block:
        ratio = _block_update_ratio(layer)
    else:
        ratio = matrix.update_ratio if matrix is not None else None
    return [
        number(matrix.weight.std) if matrix is not None else "",
        number(matrix.expected_std) if matrix is not None else "",
        number(activation.mean),
        number(activation.std),
        number(activation.rms),
        number(activation.abs_max),
        f"{layer.zero_share:.0%}",
        number(gradient.rms) if gradient is not None else "",
        number(ratio) if ratio is not None else "",
    ]


def _block_update_ratio(layer: LayerReport) -> float | None:
    """Return the update ratio over all matrices of a block together."""
    pairs = [(p.update, p.weight) for p in layer.parameters if p.is_matrix]
    known = [(update, weight) for update, weight in pairs if update is not None]
    weights = sum(weight.l2**2 for _, weight in known)
    return math.sqrt(sum(u.l2**2 for u, _ in known) / weights) if weights > 0 else None


def _is_shown(layer: LayerReport) -> bool:
    """Tell whether a layer gets a row."""
    if layer.is_function:
        return False
    if layer.is_block or layer.matrix is not None:
        return True
    return not layer.parameters and not any(kind in layer.kind for kind in _QUIET_KINDS)


def _cell_colours(report: AuditReport) -> dict[tuple[str, str], str]:
    """Return the colour of the worst finding for every (layer, column) that one is about."""
    colours: dict[tuple[str, str], str] = {}
    for finding in reversed(report.findings):
        column = _COLUMN_OF_RULE.get(finding.rule, "")
        for place in (finding.where, *finding.also):
            # A place is a layer, or a parameter of one; biases have no cell.
            layer, _, own_name = place.rpartition(".")
            name = place if place in report.evidence.layers else layer
            if own_name != "bias":
                colours[name, column] = _COLOURS[finding.severity]
    return colours


def _places(finding: Finding) -> str:
    """Return where a finding is, with the number of further places."""
    others = len(finding.also)
    if others == 0:
        return finding.where
    named = ", ".join((finding.where, *finding.also[: _LISTED_PLACES - 1]))
    rest = others + 1 - _LISTED_PLACES
    return f"{named} and {rest} more" if rest > 0 else named
