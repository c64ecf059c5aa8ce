"""A coordinate check as one HTML file: values for page.html.j2, from `CoordReport.to_dict`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from initstats.drawing.charts import Chart, Line, Mark, short
from initstats.drawing.template import render_page

_Values: TypeAlias = Mapping[str, Any]

# Colours of layers by what their names say, in this order; the last takes the rest.
_FAMILIES = (
    ("model output", ("(model)",)),
    ("attention", ("attn", "attention")),
    ("norm", ("norm", "ln_")),
    ("MLP", ("mlp", "ffn", "feed_forward", "fc")),
    ("embedding", ("emb", "wte", "wpe")),
    ("other layers", ("",)),
)
_TITLES = {
    "output": ("Outputs", "Root mean square of the output of each layer"),
    "change": ("Changes", "Root mean square of the change of each output since step 1"),
    "own update": ("Own updates", "The part of the change that a layer's own update makes"),
}


def coord_page(values: _Values, title: str) -> str:
    """Draw a coordinate check.

    Args:
        values: As `CoordReport.to_dict` returns them.
        title: Heading.

    Returns:
        The page.
    """
    blamed = {finding["where"]: finding["severity"] for finding in reversed(values["findings"])}
    return render_page(
        "initstats.coordinates",
        "page.html.j2",
        kind="coordinate check",
        title=title,
        values=values,
        verdict=_verdict(values),
        marked=blamed,
        following=[f for f in values["findings"] if f["severity"] != "error"],
        parts=[(name, heading, _charts(values, name)) for name, (heading, _) in _TITLES.items()],
        quantities=list(_TITLES),
        number=_number,
    )


def _verdict(values: _Values) -> tuple[str, str, str]:
    """Return kind, headline, and the rest of the line."""
    span = f"widths {', '.join(map(str, values['widths']))}"
    if values["ok"]:
        return "ok", "✓ No size depends on the width", span
    blamed = values["blamed"]
    names = ", ".join(blamed[:3]) + (f" and {len(blamed) - 3} more" if len(blamed) > 3 else "")  # noqa: PLR2004
    return "error", "✕ Sizes depend on the width", f"to blame: {names}; {span}"


def _number(value: Any) -> float:
    """Return a number of strict JSON, where NaN is text."""
    return float(value)


def _charts(values: _Values, quantity: str) -> list[Chart]:
    """Make the charts of one quantity, one per step."""
    steps = range(values["settings"]["steps"])
    about = f"{_TITLES[quantity][1]}, mean over the seeds, against the width; both logarithmic."
    return [
        Chart(
            f"Step {step + 1}",
            about,
            [_line(values, layer, quantity, step) for layer in values["layers"]],
            logarithmic=True,
            x_label="width",
            y_label=f"rms of {quantity}",
            x_ticks=[(math.log2(width), str(width)) for width in values["widths"]],
        )
        for step in steps
        if quantity == "output" or step > 0
    ]


def _line(values: _Values, layer: _Values, quantity: str, step: int) -> Line:
    """Make the line of one layer."""
    name = layer["name"]
    colour, label = next(
        (i, family)
        for i, (family, words) in enumerate(_FAMILIES, 1)
        if any(word in name for word in words)
    )
    marks = []
    for width, seeds in zip(values["widths"], layer["sizes"][quantity][step], strict=True):
        size = _mean(seeds)
        if size is not None:
            tip = f"{name}\nwidth {width}\nrms {short(size)}"
            marks.append(Mark(math.log2(width), size, tip))
    return Line(label, marks, colour, faint=not any(f["where"] == name for f in values["findings"]))


def _mean(seeds: Sequence[Any]) -> float | None:
    """Return the mean over seeds; None where there is no size, or it is 0 at this step."""
    known = [value for value in map(float, seeds) if not math.isnan(value)]
    mean = sum(known) / len(known) if known else 0.0
    return mean or None
