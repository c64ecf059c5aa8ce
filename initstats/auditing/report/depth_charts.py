"""The charts of one audit: scales by depth, losses and updates, from the values of audit.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from initstats.auditing.report.schema import as_number, finite_count
from initstats.drawing.charts import Chart, Line, Mark, short
from initstats.text import block_pattern

_GOOD_UPDATES = (1e-4, 1e-1, "1e-4 to 1e-1")
_COLOURS = 6
_WIDE_LOSSES = 10.0
_Values = Mapping[str, Any]


def depth_charts(values: _Values) -> list[Chart]:
    """Make the charts of one report.

    Args:
        values: A report, as in audit.json.

    Returns:
        Activation scale, gradient scale, losses, update ratios.
    """
    layers = shown_layers(values)
    ticks, x_label = _depth_ticks(layers, values)
    place = {layer["name"]: float(i) for i, layer in enumerate(layers, 1)}
    forward = _stack_lines(values, place, "activation", "output")
    matrices = [layer for layer in layers if not layer["is_block"]]
    forward += _peer_lines("layers with a matrix: output", matrices, place, "activation", 2)
    if any(layer["input"] for layer in matrices):
        forward.append(_line("their input", matrices, place, "input", 6, joined=False, hollow=True))
    backward = _stack_lines(values, place, "output_gradient", "gradient of output")
    what = "layers with a matrix: gradient of output"
    backward += _peer_lines(what, matrices, place, "output_gradient", 2)
    what = "gradient of their parameters"
    backward += _peer_lines(what, matrices, place, "weight_gradient", 3)
    return [
        Chart(
            "Activation scale by depth",
            "Root mean square of each layer's output in the first forward pass, logarithmic. "
            "A thin line joins layers of the same name in other blocks.",
            forward,
            logarithmic=True,
            x_label=x_label,
            x_ticks=ticks,
        ),
        Chart(
            "Gradient scale by depth",
            "Root mean square of gradients in the first backward pass, logarithmic. "
            "A cross at the bottom is a gradient of 0, one at the top is not finite.",
            backward,
            logarithmic=True,
            x_label=x_label,
            x_ticks=ticks,
        ),
        loss_chart({"loss": values}),
        _update_chart(values),
    ]


def shared_charts(reports: Mapping[str, _Values]) -> list[Chart]:
    """Make charts with one line per report.

    Args:
        reports: Reports by label, as in audit.json.

    Returns:
        Activation and gradient scale by depth, and losses.
    """
    depth = {}
    for label, values in reports.items():
        by_name = {layer["name"]: layer for layer in values["layers"]}
        depth[label] = [by_name[name] for name in depth_names(values)]
    only_blocks = all(layer["is_block"] for layers in depth.values() for layer in layers)
    what = "block" if only_blocks else "layer"
    charts = []
    output = f"each {what}'s output"
    for title, field, about, when in (
        ("Activation scale by depth", "activation", output, "forward"),
        ("Gradient scale by depth", "output_gradient", f"the gradient of {output}", "backward"),
    ):
        lines = []
        for i, (label, layers) in enumerate(depth.items()):
            place = {layer["name"]: float(n) for n, layer in enumerate(layers, 1)}
            lines.append(_line(label, layers, place, field, i % _COLOURS + 1))
        charts.append(
            Chart(
                title,
                f"Root mean square of {about} in the first {when} pass, logarithmic.",
                lines,
                logarithmic=True,
                x_label=f"{what}s, first to last",
                y_label=f"rms of {about}",
            )
        )
    return [*charts, loss_chart(reports)]


def depth_names(values: _Values) -> list[str]:
    """Return the layers that stand for depth: the longest series, else those with a matrix."""
    if values["series"]:
        longest: list[str] = max((series["layers"] for series in values["series"]), key=len)
        return longest
    return [layer["name"] for layer in shown_layers(values)]


def shown_layers(values: _Values) -> list[_Values]:
    """Return blocks and layers with a matrix, or all layers where there are none."""
    matrices = {p["name"] for p in values["parameters"] if p["is_matrix"]}
    shown = [
        layer
        for layer in values["layers"]
        if layer["is_block"] or any(name in matrices for name in layer["parameters"])
    ]
    return shown or list(values["layers"])


def block_of(layers: Sequence[_Values]) -> dict[str, str]:
    """Return the outermost block that each layer belongs to, "" for none, by name."""
    blocks = {layer["name"] for layer in layers if layer["is_block"]}
    owners = {}
    for layer in layers:
        parts = layer["name"].split(".")
        paths = (".".join(parts[: i + 1]) for i in range(len(parts)))
        owners[layer["name"]] = next((path for path in paths if path in blocks), "")
    return owners


def loss_chart(reports: Mapping[str, _Values]) -> Chart:
    """Make the chart of the first losses.

    Args:
        reports: Reports by label.

    Returns:
        The chart; its axis is logarithmic where positive losses span more than a decade.
    """
    lines = []
    for i, (label, values) in enumerate(reports.items()):
        marks = [
            Mark(float(step), as_number(loss), f"{label}, step {step}: {short(loss)}")
            for step, loss in enumerate(values["loss"]["values"], 1)
        ]
        lines.append(Line(label, marks, i % _COLOURS + 1))
    known = [m.y for line in lines for m in line.marks if m.y is not None and math.isfinite(m.y)]
    first = next(iter(reports.values()))["loss"]
    expected = as_number(first["expected"])
    guide = None
    about = "Loss before each step on the same batch."
    if expected is not None:
        classes = first["cross_entropies"][0]["classes"]
        guide = (expected, f"uniform guess: ln({classes}) = {expected:.3f}")
        about += f" A uniform guess over {classes} classes costs the dashed line."
    return Chart(
        "Losses of the first steps",
        about,
        lines,
        logarithmic=bool(known) and min(known) > 0 and max(known) > _WIDE_LOSSES * min(known),
        x_label="step",
        y_label="loss" if expected is None else "cross-entropy (nats)",
        guide=guide,
    )


def _update_chart(values: _Values) -> Chart:
    """Make the chart of update ratios by parameter."""
    matrices = [p for p in values["parameters"] if p["is_matrix"] and p["trained"]]
    if not matrices:
        matrices = [p for p in values["parameters"] if p["trained"]]
    marks = [
        Mark(float(i), as_number(p["update_ratio"]), _tip(p["name"], p["update_ratio"], "ratio"))
        for i, p in enumerate(matrices, 1)
    ]
    return Chart(
        "Update ratio by parameter",
        "Root mean square of the first optimizer step / that of the weights, for each matrix. "
        "The band is what healthy training shows.",
        [Line("update / weight", marks, 4, joined=False)],
        logarithmic=True,
        x_label="matrices, in the order of the model",
        band=_GOOD_UPDATES,
    )


def _stack_lines(values: _Values, place: Mapping[str, float], field: str, what: str) -> list[Line]:
    """Return one line per stack of blocks."""
    by_name = {layer["name"]: layer for layer in values["layers"]}
    stacks = [
        (series["name"], [by_name[name] for name in series["layers"]])
        for series in values["series"]
        if all(by_name[name]["is_block"] for name in series["layers"])
    ]
    colours = (1, 4, 5, 3)
    return [
        _line(f"blocks of {name}: {what}", layers, place, field, colours[i % len(colours)])
        for i, (name, layers) in enumerate(stacks)
    ]


def _peer_lines(
    label: str, layers: Sequence[_Values], place: Mapping[str, float], field: str, colour: int
) -> list[Line]:
    """Return one faint line per kind of layer: those whose names differ by a number only."""
    peers: dict[str, list[_Values]] = {}
    for layer in layers:
        peers.setdefault(block_pattern(layer["name"]), []).append(layer)
    has_blocks = len(place) > len(layers)
    return [_line(label, same, place, field, colour, faint=has_blocks) for same in peers.values()]


def _line(
    label: str,
    layers: Sequence[_Values],
    place: Mapping[str, float],
    field: str,
    colour: int,
    *,
    joined: bool = True,
    hollow: bool = False,
    faint: bool = False,
) -> Line:
    """Make a line of one record of each layer."""
    marks = []
    for layer in layers:
        record = layer[field]
        broken = record is not None and finite_count(record) < record["count"]
        rms = None if record is None else math.nan if broken else as_number(record["rms"])
        words = f"{label}" if rms is None or math.isfinite(rms) else f"{label}, not finite"
        marks.append(Mark(place[layer["name"]], rms, _tip(layer["name"], rms, words)))
    return Line(label, marks, colour, joined, hollow, faint)


def _tip(name: str, value: Any, what: str) -> str:
    """Return what hovering over a mark shows."""
    return f"{name}\n{what}: {short(value)}"


def _depth_ticks(layers: Sequence[_Values], values: _Values) -> tuple[list[tuple[float, str]], str]:
    """Return ticks at the blocks, named as they are inside their stack, and the axis' label."""
    blocks = [(float(i), layer["name"]) for i, layer in enumerate(layers, 1) if layer["is_block"]]
    if not blocks:
        return [], "layers with a matrix, in the order of the forward pass"
    owners = block_of(values["layers"])
    outer = [(x, name) for x, name in blocks if owners[name] == name]
    parents = {name.rpartition(".")[0] for _, name in outer}
    if len(parents) == 1:
        parent = parents.pop() or "the model"
        ticks = [(x, name.rpartition(".")[2]) for x, name in outer]
        return ticks, f"order of the forward pass; ticks are blocks of {_cut(parent)}"
    return [(x, _cut(name)) for x, name in outer], "order of the forward pass; ticks are blocks"


def _cut(name: str) -> str:
    """Return the end of a long name."""
    longest = 14
    return name if len(name) <= longest else "…" + name[1 - longest :]
