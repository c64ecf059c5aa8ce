"""Heat map of a run: scale by depth and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from initstats.drawing.png import require_matplotlib
from initstats.monitoring.row import Row
from initstats.statistics.record_array import Floats
from initstats.text import nearest

_DOTS_PER_INCH = 130
_INCHES_PER_NAME = 0.22
_MOST_LABELS = 60


def scale_by_depth(rows: Sequence[Row], kind: str, field: str) -> tuple[list[str], Floats]:
    """Collect one field of one kind over a run.

    Args:
        rows: Rows, oldest first.
        kind: Such as "activations".
        field: A field of `Stats`; the largest of the window for "abs_max", else the mean.

    Returns:
        Names in the order of the model, n of them, and float64 `[n, rows]`, NaN where there is
        none.

    Raises:
        ValueError: If no row has this kind.
    """
    names = list(
        dict.fromkeys(n for row in rows if kind in row.tables for n in row.tables[kind].names)
    )
    if not names:
        known = sorted({k for row in rows for k in row.tables})
        hint = nearest(kind, known)
        raise ValueError(f"initstats.plot: expected a kind among {known}, got kind={kind!r}{hint}")
    index = {name: i for i, name in enumerate(names)}
    values = np.full((len(names), len(rows)), math.nan)
    for k, row in enumerate(rows):
        table = row.tables.get(kind)
        if table is not None:
            columns = table.high if field == "abs_max" else table.average
            column = columns[field] if field in columns else table.column(field)
            values[[index[name] for name in table.names], k] = column
    return names, values


def draw_heat_map(
    rows: Sequence[Row], path: Path, *, kind: str = "activations", field: str = "rms"
) -> None:
    """Draw scale by depth and time: one line per tensor, first to last from top to bottom.

    Args:
        rows: Rows, oldest first, at least one.
        path: The PNG file to write.
        kind: Such as "activations", "gradients", "weights" or "updates".
        field: A field of `Stats`; its size is drawn, logarithmically.

    Raises:
        ImportError: If matplotlib is missing (extra `plot`).
        ValueError: If there is nothing to draw.
    """
    require_matplotlib("plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    names, values = scale_by_depth(rows, kind, field)
    size = np.abs(values)
    size[~(np.isfinite(size) & (size > 0))] = math.nan
    if not np.isfinite(size).any():
        msg = f"initstats.plot: expected values other than 0, got none of {kind} {field}"
        raise ValueError(msg)
    shown = min(len(names), _MOST_LABELS)
    figure = Figure(
        figsize=(11.0, 2.0 + _INCHES_PER_NAME * shown), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high = float(np.nanmin(size)), float(np.nanmax(size))
    steps = [row.step for row in rows]
    edges = np.array([rows[0].first_step - 0.5, *(step + 0.5 for step in steps)])
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1),
        np.ma.masked_invalid(size),
        norm=LogNorm(low, high if high > low else low * 1.01),
        cmap="viridis",
    )
    axes.set_facecolor("0.8")  # what is not finite, 0 or not there
    every = math.ceil(len(names) / _MOST_LABELS)
    axes.set_yticks(np.arange(0, len(names), every) + 0.5, names[::every], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("step")
    axes.set_ylabel("depth, first to last")
    axes.set_title(f"{kind}: {field} by depth and time")
    figure.colorbar(mesh, ax=axes, label=f"{field} (logarithmic; grey: 0, not finite or absent)")
    figure.savefig(path)
