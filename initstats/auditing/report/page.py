"""The audit as one HTML file that opens from disk: values for page.html.j2, from audit.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from initstats.auditing.report.depth_charts import block_of, depth_charts, shared_charts
from initstats.drawing.charts import short
from initstats.drawing.histograms import SmallHistogram, small_histogram
from initstats.drawing.template import render_page

_ALL_OPEN = 24  # Histograms of more layers are folded by block.
_Values: TypeAlias = Mapping[str, Any]


def audit_page(
    reports: Mapping[str, _Values],
    *,
    title: str = "",
    template: str = "page.html.j2",
    **values: Any,
) -> str:
    """Draw reports as an HTML page that needs no other file and no network.

    Args:
        reports: Values of `AuditReport.to_dict`, or of a saved audit.json, by label; at least one.
        title: Heading; the name of the model when empty.
        template: `page.html.j2`, or a template that extends it.
        values: What that template needs beside the reports.

    Returns:
        The page.
    """
    settings = next(iter(reports.values()))["settings"]
    return render_page(
        "initstats.auditing.report",
        template,
        kind="audit",
        title=title or f"{settings['model']}",
        settings=settings,
        shared=shared_charts(reports) if len(reports) > 1 else [],
        reports=[_report(v, f"r{i}", label) for i, (label, v) in enumerate(reports.items())],
        **values,
    )


def _report(values: _Values, identity: str, label: str) -> dict[str, Any]:
    """Return what the template shows of one report, beside its values."""
    found = _severities(values)
    owners = [layer for layer in values["layers"] if not layer["is_block"]]
    marked = set(found) | {o["name"] for o in owners if any(p in found for p in o["parameters"])}
    names = {kind: [x["name"] for x in values[kind]] for kind in ("parameters", "layers")}
    anchors = {name: f"{identity}-p{i}" for i, name in enumerate(names["parameters"])}
    anchors |= {name: f"{identity}-l{i}" for i, name in enumerate(names["layers"])}
    return {
        "id": identity,
        "label": label,
        "verdict": _verdict(values),
        "found": found,
        "anchors": anchors,
        "charts": depth_charts(values),
        "groups": _histogram_groups(values, marked),
        "layers": _layer_rows(values["layers"], found, marked),
        "values": values,
    }


def _severities(values: _Values) -> dict[str, str]:
    """Return the worst severity found at each place, by name of the layer or parameter."""
    worst: dict[str, str] = {}
    for finding in reversed(values["findings"]):
        for place in (finding["where"], *finding["also"]):
            worst[place] = finding["severity"]
    return worst


def _verdict(values: _Values) -> tuple[str, str, str]:
    """Return in words how the model starts: kind, headline, and the rest of the line."""
    found = [finding["severity"] for finding in values["findings"]]
    counts = [
        f"{number} {word}{'' if number == 1 else 's'}"
        for word in ("error", "warning")
        if (number := found.count(word))
    ]
    if "error" in found:
        worst = values["findings"][0]
        kind, headline = "error", "✕ " + " and ".join(counts)
        rest = f"worst: {worst['rule']} at {worst['where']}"
    elif "warning" in found:
        kind, headline, rest = "warning", "! Starts well, with " + counts[0], "no error"
    else:
        kind, headline, rest = "ok", "✓ Starts well", "no error, no warning"
    losses = values["loss"]["values"]
    if losses:
        rest += f"; loss {short(losses[0])}"
    if len(losses) > 1:
        rest += f" → {short(losses[-1])} in {len(losses)} steps"
    return kind, headline, rest


def _layer_rows(
    layers: list[_Values], found: Mapping[str, str], marked: set[str]
) -> list[dict[str, Any]]:
    """Return the rows of layers by forward pass, with each block above what is inside.

    A block finishes after its layers, so the first of them decides where the block stands.
    """
    owners = block_of(layers)
    number = {layer["name"]: i for i, layer in enumerate(layers)}
    first: dict[str, int] = {}
    for name, i in number.items():
        first.setdefault(owners[name], i)

    def place(layer: _Values) -> tuple[int, int]:
        name = layer["name"]
        owner = owners[name]
        if not owner:
            return number[name], 0
        return first[owner], -1 if name == owner else number[name]

    return [
        {
            "layer": layer,
            "number": number[layer["name"]],
            "is_owner": owners[layer["name"]] == layer["name"],
            "parent": number.get(owners[layer["name"]]),
            "severity": found.get(layer["name"], "warning" if layer["name"] in marked else ""),
        }
        for layer in sorted(layers, key=place)
    ]


def _histogram_groups(values: _Values, marked: set[str]) -> list[dict[str, Any]]:
    """Put histograms together by block, in the order of the layers; the block itself comes first.

    Blocks are open where there are few layers, and where a finding names one of them.
    """
    layers = values["layers"]
    parameters = {parameter["name"]: parameter for parameter in values["parameters"]}
    owners = block_of(layers)
    groups: list[dict[str, Any]] = []
    for layer in layers:
        name, owner = layer["name"], owners[layer["name"]]
        if not groups or groups[-1]["block"] != owner:
            is_open = len(layers) <= _ALL_OPEN or not groups
            groups.append({"block": owner, "is_open": is_open, "members": []})
        group = groups[-1]
        group["is_open"] |= name in marked
        at = 0 if name == owner else len(group["members"])
        group["members"].insert(at, {"layer": layer, "drawn": _histograms(layer, parameters)})
    return groups


def _histograms(layer: _Values, parameters: Mapping[str, _Values]) -> list[SmallHistogram]:
    """Lay out what is known of one layer."""
    records = [("output", layer["activation"]), ("its gradient", layer["output_gradient"])]
    own = [] if layer["is_block"] else [parameters[name] for name in layer["parameters"]]
    if own:
        weight = next((p for p in own if p["is_matrix"]), own[0])
        records += [("weight", weight["weight"]), ("weight gradient", weight["gradient"])]
    return [
        small_histogram(record, what, layer["name"], colour)
        for colour, (what, record) in enumerate(records, 1)
        if record
    ]
