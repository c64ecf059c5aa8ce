"""Charts side by side as a PNG, by matplotlib; scales and ticks are those of the page."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from initstats.drawing.charts import Chart

# Okabe and Ito's colours, told apart with every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CROSS = "#B3221A"
_INCHES = (13.0 / 3, 4.4)  # of one chart
_DOTS_PER_INCH = 130


def require_matplotlib(function: str) -> None:
    """Refuse to draw without matplotlib.

    Args:
        function: Public function on whose behalf this is checked, for the message.

    Raises:
        ImportError: Naming the extra to install.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            f"initstats.{function}: expected matplotlib for the PNG, got matplotlib=missing; "
            "install initstats[plot]"
        )


def draw_charts(charts: Sequence[Chart], heading: str, path: Path) -> None:
    """Draw charts from left to right; `require_matplotlib` comes first.

    Args:
        charts: The charts, at least one.
        heading: Text above them.
        path: The PNG file to write.
    """
    # Here, because matplotlib is an extra.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global figure, no backend of the user touched.
    size = (len(charts) * _INCHES[0], _INCHES[1])
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(charts), squeeze=False)[0]
    for panel, chart in zip(panels, charts, strict=True):
        _draw(panel, chart)
    figure.suptitle(_verbatim(heading), fontsize=12, fontweight="bold")
    figure.savefig(path)


def _draw(panel: Any, chart: Chart) -> None:
    """Draw a chart; what its axis cannot show is a cross at the edge."""
    axes = chart.axes
    handles: dict[str, Any] = {}
    for line in reversed(chart.lines):  # the first on top
        known = [(mark.x, mark.y) for mark in line.marks if mark.y is not None]
        colour, i = _COLOURS[(line.colour - 1) % len(_COLOURS)], line.colour - 1
        (handle,) = panel.plot(
            [x for x, _ in known],
            [y if axes.has(y) else math.nan for _, y in known],
            color=colour,
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=5,
            markerfacecolor="white" if line.hollow else colour,
            linestyle="-" if line.joined else "none",
            linewidth=0.8 if line.faint else 1.6,
        )
        handles[line.label] = handle
        for x, y in known:
            if not axes.has(y):
                edge = 0.02 if y == 0 else 0.98  # as a share of the height
                place = panel.get_xaxis_transform()
                panel.plot([x], [edge], "x", color=_CROSS, transform=place, clip_on=False)
    shown = [line.label for line in chart.legend]
    if chart.band is not None and not axes.is_empty:
        panel.axhspan(*chart.band[:2], color="#E6F3EA", zorder=0)
    if chart.guide is not None and axes.has(chart.guide[0]):
        height, name = chart.guide
        shown.append(name)
        handles[name] = panel.axhline(height, color="0.35", linestyle="--", linewidth=1.2)
    if axes.is_empty:
        panel.text(0.5, 0.6, axes.EMPTY, ha="center", color="0.35", transform=panel.transAxes)
    panel.set_yscale("log" if axes.logarithmic else "linear")
    panel.set_ylim(axes.low, axes.high)
    panel.set_yticks([y for y, _ in axes.y_ticks], [text for _, text in axes.y_ticks])
    panel.minorticks_off()
    panel.set_xticks([x for x, _ in axes.x_ticks], [_verbatim(text) for _, text in axes.x_ticks])
    margin = 0.05 * (axes.x_high - axes.x_low)
    panel.set_xlim(axes.x_low - margin, axes.x_high + margin)
    panel.set_title(_verbatim(chart.title), fontsize=11)
    panel.set_xlabel(_verbatim(chart.x_label))
    panel.set_ylabel(_verbatim(chart.y_label))
    panel.grid(visible=True, which="major", color="0.88")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend([handles[label] for label in shown], map(_verbatim, shown), frameon=False)


def _verbatim(text: str) -> str:
    """Keep matplotlib from reading formulas between dollars, and from hiding labels with `_`."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
