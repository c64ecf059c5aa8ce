"""The picture of an audit: activation and gradient scale by depth, and the first losses."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initstats.auditing.report.report import AuditReport
    from initstats.statistics.record import Stats

# Okabe and Ito's colours, told apart with every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_INCHES = (13.0, 4.4)
_DOTS_PER_INCH = 130
_DECADE = 10.0


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


def plot_depth(reports: Mapping[str, AuditReport], path: Path) -> None:
    """Draw scales by depth and losses, one line per report.

    Args:
        reports: Reports by label.
        path: The PNG file to write.

    Raises:
        ImportError: If matplotlib is missing.
    """
    require_matplotlib("AuditReport.save")
    # Here, because matplotlib is an extra.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global figure, no backend of the user touched.
    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    forward, backward, losses = figure.subplots(1, 3)
    for i, (label, report) in enumerate(reports.items()):
        style: dict[str, Any] = {
            "label": label,
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1.6,
        }
        names = depth_axis(report)
        layers = [report.evidence.layers[name] for name in names]
        depth = range(1, len(layers) + 1)
        forward.plot(depth, [_rms(layer.activation) for layer in layers], **style)
        backward.plot(depth, [_rms(layer.output_gradient) for layer in layers], **style)
        values = report.loss.values
        losses.plot(range(1, len(values) + 1), [_positive(v) for v in values], **style)
    first = next(iter(reports.values()))
    loss_unit = "loss"
    expected = first.loss.expected
    if expected is not None:
        loss_unit = "cross-entropy (nats)"
        classes = first.loss.cross_entropies[0].classes
        line = f"uniform guess, ln({classes}) = {expected:.2f}"
        losses.axhline(expected, color="0.35", linestyle="--", linewidth=1.2, label=line)
    stacked = first.evidence.series and first.evidence.series[0].name != "layers"
    what = "block" if stacked else "layer"
    title = f"Activation scale by depth\nrms of the output of each {what}"
    _finish(forward, title, what, "rms", logarithmic=True)
    title = f"Gradient scale by depth\nrms of d loss / d output of each {what}"
    _finish(backward, title, what, "rms", logarithmic=True)
    wide = losses.dataLim.y1 > _DECADE * losses.dataLim.minposy
    _finish(losses, "Loss of the first steps\non one batch", "step", loss_unit, logarithmic=wide)
    figure.suptitle(_heading(first), fontsize=12, fontweight="bold")
    figure.savefig(path)


def depth_axis(report: AuditReport) -> tuple[str, ...]:
    """Choose the layers to draw: the longest series, else every layer with a weight matrix.

    Args:
        report: The report.

    Returns:
        Names of layers, first to last.
    """
    if report.evidence.series:
        return max((s.layers for s in report.evidence.series), key=len)
    return tuple(layer.name for layer in report.layers if layer.matrix is not None)


def _finish(axes: Any, title: str, x: str, y: str, *, logarithmic: bool) -> None:
    """Give a panel with its lines a title, labels, scale, grid and legend."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullLocator,
    )

    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if logarithmic:
        low, high = axes.dataLim.minposy, axes.dataLim.y1
        if 0 < low <= high < math.inf:
            # At least a decade, so that a small change does not look like a large one.
            margin = 1.3 * max(1.0, math.sqrt(_DECADE * low / high))
            low, high = low / margin, high * margin
            axes.set_ylim(low, high)
        axes.set_yscale("log")
        steps = (1.0, 2.0, 5.0) if high < _DECADE**3 * low else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, which="major", color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _heading(report: AuditReport) -> str:
    """Return the title of the picture."""
    settings = report.settings
    return (
        f"{settings['model']}, {settings['parameters'] / 1e6:.1f} M parameters: how it starts "
        f"({settings['optimizer']}, learning rate {settings['learning_rate']:g})"
    )


def _rms(record: Stats | None) -> float:
    """Return what a logarithmic axis can show of a record."""
    return math.nan if record is None else _positive(record.rms)


def _positive(value: float) -> float:
    """Return a value that a logarithmic axis can show, else NaN, which leaves a gap."""
    return value if 0 < value < math.inf else math.nan
