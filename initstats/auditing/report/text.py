"""The report of an audit as rich tables for a terminal of 80 columns or more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from initstats.auditing.report.schema import as_number, finite_count
from initstats.diagnostics.seed_spread import FIRST_LOSS, LAST_LOSS, LISTED_SEEDS
from initstats.text import number, plain_table

_Values: TypeAlias = Mapping[str, Any]
_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}
# Modules that pass their input on, or rescale it to a known spread: in the JSON, not in the table.
_QUIET_KINDS = ("Dropout", "Identity", "Flatten", "Norm")
_LISTED_PLACES = 3
_LISTED_STEPS = 10
_LISTED_LAYERS = 8
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


def report_group(values: _Values, title: str | None = None) -> Group:
    """Lay out a report: layers, losses, findings.

    Args:
        values: The report, as in audit.json.
        title: Heading; the model and the recipe when None.

    Returns:
        A renderable for rich.
    """
    settings = values["settings"]
    if title is None:
        recipe = f", recipe {settings['recipe']}" if settings["recipe"] else ""
        title = f"audit of {settings['model']}{recipe}"
    lottery: list[RenderableType] = []
    if values["lottery"] is not None:
        lottery = [lottery_table(values["lottery"]), Text()]
    return Group(
        layer_table(values, title),
        loss_table({"loss": values}),
        Text(),
        *lottery,
        findings_group(values["findings"]),
    )


def layer_table(values: _Values, title: str) -> Table:
    """Make the table of layers by depth: blocks, layers with a matrix, and non-linearities.

    Args:
        values: The report, as in audit.json.
        title: Heading.

    Returns:
        The table; rows that a finding names are coloured.
    """
    table = plain_table(
        f"{title}: first step, layer by layer",
        edge=False,
        padding=0,
        caption="output max: of absolute values; update ratio: rms of the first step's change / "
        "rms of the weights; bold rows are blocks, with the matrices inside",
    )
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for column in _COLUMNS:
        wide = column == "output\nmean"  # the one column with signs
        table.add_column(column, justify="right", no_wrap=True, min_width=7 if wide else 6)
    parameters = {p["name"]: p for p in values["parameters"]}
    colours = _cell_colours(values)
    for layer in _folded_layers(values, parameters):
        if isinstance(layer, str):
            table.add_row(Text(layer, style="dim"))
            continue
        cells = [
            Text(cell, style=colours.get((layer["name"], column), ""))
            for column, cell in zip(_COLUMNS, _cells(layer, parameters), strict=True)
        ]
        table.add_row(Text(layer["name"]), *cells, style="bold" if layer["is_block"] else None)
    return table


def _folded_layers(values: _Values, parameters: Mapping[str, _Values]) -> list[_Values | str]:
    """Return the rows of the layer table, without the bulk of a deep model.

    Above forty rows, blocks in the middle of a stack that no finding names are left out, and a line
    says how many, where at least two follow each other.
    """
    shown = [layer for layer in values["layers"] if _is_shown(layer, parameters)]
    if len(shown) <= _MOST_ROWS:
        return shown
    stacks = [series["layers"] for series in values["series"]]
    blocks = [block for stack in stacks for block in stack]
    ends = {block for stack in stacks for block in (stack[0], stack[-1])}
    places = [place for f in values["findings"] for place in (f["where"], *f["also"])]
    owners = [_owner(layer["name"], blocks) for layer in shown]
    named = {_owner(place, blocks) for place in places}
    rows: list[_Values | str] = []
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


def _owner(name: str, blocks: Sequence[str]) -> str:
    """Return the block of a series that a layer or parameter is in, or an empty text."""
    return next((block for block in blocks if f"{name}.".startswith(f"{block}.")), "")


def loss_table(reports: Mapping[str, _Values]) -> Group:
    """Lay out the first losses against ln(classes).

    Args:
        reports: Reports by label, as in audit.json; one row each.

    Returns:
        A renderable for rich, with ten steps at most.
    """
    losses = {label: values["loss"]["values"][:_LISTED_STEPS] for label, values in reports.items()}
    first = next(iter(reports.values()))["loss"]
    title = "losses of the first steps"
    if first["expected"] is not None:
        classes = first["cross_entropies"][0]["classes"]
        title += f", in nats; a uniform guess costs ln({classes}) = {first['expected']:.3f}"
    table = plain_table(edge=False, padding=0)
    table.add_column("step", no_wrap=True)
    for step in range(1, max(map(len, losses.values())) + 1):
        table.add_column(str(step), justify="right", no_wrap=True)
    for label, values in losses.items():
        table.add_row(label, *(_number(value) for value in values))
    return Group(Text(title, style="bold italic"), table)


def lottery_table(lottery: _Values) -> Table:
    """Make the table of several seeds: min, median, max, std of ln, and each seed.

    Args:
        lottery: The lottery, as in audit.json.

    Returns:
        The table: losses, scales of eight layers at most, findings.
    """
    seeds, spread = lottery["seeds"], lottery["spread"]
    listed = seeds[:LISTED_SEEDS]
    table = plain_table(
        f"the lottery: {len(seeds)} seeds",
        edge=False,
        padding=0,
        caption="std of ln: 0.1 is a spread of 10 %; 0 and numbers that are not finite have no "
        "ln and are left out",
    )
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for column in ("min", "median", "max", "std\nof ln"):
        table.add_column(column, justify="right", no_wrap=True, min_width=6)
    for seed in listed:
        table.add_column(f"seed\n{seed['seed']}", justify="right", no_wrap=True, min_width=6)
    rows = {FIRST_LOSS: [s["first_loss"] for s in listed]}
    rows[LAST_LOSS] = [s["last_loss"] for s in listed]
    names = [name for name in seeds[0]["activations"] if f"output rms of {name}" in spread]
    for what, field in (("output", "activations"), ("gradient", "gradients")):
        for name in _evenly(names, _LISTED_LAYERS):
            rows[f"{what} rms of {name}"] = [s[field][name] for s in listed]
    for row, values in rows.items():
        cells = [*(spread[row][key] for key in ("min", "median", "max", "log_std")), *values]
        table.add_row(row, *(_number(cell) for cell in cells))
    for what in ("errors", "warnings"):
        counts = [seed[what] for seed in seeds]
        cells = [min(counts), f"{median(counts):g}", max(counts), "", *counts[:LISTED_SEEDS]]
        table.add_row(what, *map(str, cells))
    return table


def _evenly(names: Sequence[str], most: int) -> Sequence[str]:
    """Return names at even distances, the first and the last among them."""
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def findings_group(findings: Sequence[_Values]) -> Group:
    """List findings, each with cause and fix.

    Args:
        findings: The findings, as in audit.json, in the order to show.

    Returns:
        A renderable for rich.
    """
    if not findings:
        return Group(Text("no findings", style="green"))
    lines: list[RenderableType] = []
    for finding in findings:
        severity = finding["severity"]
        value, limit = (_number(finding[key]) for key in ("value", "threshold"))
        lines.append(
            Text.from_markup(
                f"[bold {_COLOURS[severity]}]{severity}[/] [bold]{finding['rule']}[/] at "
                f"[bold]{escape(_places(finding))}[/]: {value}, limit {limit}"
            )
        )
        for what in ("cause", "fix"):
            line = Text.from_markup(f"[dim]{what}[/] {escape(finding[what])}")
            lines.append(Padding(line, (0, 0, 0, 2), expand=False))
    return Group(*lines)


def _number(value: float | str | None) -> str:
    """Write a number of audit.json."""
    return number(as_number(value))


def _matrix(layer: _Values, parameters: Mapping[str, _Values]) -> _Values | None:
    """Return the first weight matrix of a layer, None for a block or without one."""
    own = () if layer["is_block"] else [parameters[name] for name in layer["parameters"]]
    return next((parameter for parameter in own if parameter["is_matrix"]), None)


def _cells(layer: _Values, parameters: Mapping[str, _Values]) -> list[str]:
    """Return the cells of a row."""
    matrix = _matrix(layer, parameters)
    activation, gradient = layer["activation"], layer["weight_gradient"]
    if layer["is_block"]:
        ratio = _block_update_ratio(layer, parameters)
    else:
        ratio = None if matrix is None else matrix["update_ratio"]
    return [
        "" if matrix is None else _number(matrix["weight"]["std"]),
        "" if matrix is None else _number(matrix["expected_std"]),
        *(_number(activation[key]) for key in ("mean", "std", "rms", "abs_max")),
        f"{layer['zero_share']:.0%}",
        "" if gradient is None else _number(gradient["rms"]),
        "" if ratio is None else _number(ratio),
    ]


def _block_update_ratio(layer: _Values, parameters: Mapping[str, _Values]) -> float | None:
    """Return the update ratio over all matrices of a block together."""
    own = [parameters[name] for name in layer["parameters"]]
    known = [p for p in own if p["is_matrix"] and p["update"] is not None]
    weights = sum(_square_sum(p["weight"]) for p in known)
    return (
        math.sqrt(sum(_square_sum(p["update"]) for p in known) / weights) if weights > 0 else None
    )


def _square_sum(record: _Values) -> float:
    """Return the sum of the squares of the finite values of a record."""
    finite = finite_count(record)
    return float(record["rms"]) ** 2 * finite if finite else 0.0


def _is_shown(layer: _Values, parameters: Mapping[str, _Values]) -> bool:
    """Tell whether a layer gets a row."""
    if layer["is_function"]:
        return False
    if layer["is_block"] or _matrix(layer, parameters) is not None:
        return True
    return not layer["parameters"] and not any(kind in layer["kind"] for kind in _QUIET_KINDS)


def _cell_colours(values: _Values) -> dict[tuple[str, str], str]:
    """Return the colour of the worst finding for every (layer, column) that one is about."""
    layers = {layer["name"] for layer in values["layers"]}
    colours: dict[tuple[str, str], str] = {}
    for finding in reversed(values["findings"]):
        column = _COLUMN_OF_RULE.get(finding["rule"], "")
        for place in (finding["where"], *finding["also"]):
            # A place is a layer, or a parameter of one; biases have no cell.
            layer, _, own_name = place.rpartition(".")
            if own_name != "bias":
                name = place if place in layers else layer
                colours[name, column] = _COLOURS[finding["severity"]]
    return colours


def _places(finding: _Values) -> str:
    """Return where a finding is, with the number of further places."""
    named = ", ".join((finding["where"], *finding["also"][: _LISTED_PLACES - 1]))
    rest = len(finding["also"]) + 1 - _LISTED_PLACES
    return f"{named} and {rest} more" if rest > 0 else named
