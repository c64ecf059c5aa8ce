"""Heat map of a run: scale by depth and time."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from initstats.drawing.png import require_matplotlib
from initstats.monitoring.row import Row
from initstats.statistics.record_array import Floats
from initstats.text import nearest

UPDATE_RATIO = "update_ratio"
_DOTS_PER_INCH = 130
_INCHES_PER_NAME = 0.22
_MOST_LABELS = 60


def scale_by_depth(
    rows: Sequence[Row], kind: str, field: str, match: str = ""
) -> tuple[list[str], Floats]:
    """Collect one field of one kind over a run.

    Args:
        rows: Rows, oldest first.
        kind: Such as "activations", or "update_ratio" for `Row.update_ratios`.
        field: A field of `Stats`; the largest of the window for "abs_max", else the mean.
        match: A regular expression that a name must hold; empty for all.

    Returns:
        Names in the order of the model, n of them, and float64 `[n, rows]`, NaN where there is
        none.

    Raises:
        ValueError: If no row has this kind, no name matches, or `match` is no expression.
    """
    by_row = [_values(row, kind, field) for row in rows]
    names = list(dict.fromkeys(name for found in by_row for name in found))
    if not names:
        known = sorted({UPDATE_RATIO, *(k for row in rows for k in row.tables)})
        hint = nearest(kind, known)
        msg = f"initstats.plot: expected a kind among {known}, got kind={kind!r}{hint}"
        raise ValueError(msg)
    try:
        names = [name for name in names if re.search(match, name)]
    except re.error as error:
        msg = f"initstats.plot: expected a regular expression, got match={match!r} ({error})"
        raise ValueError(msg) from error
    if not names:
        msg = f"initstats.plot: expected a name that matches, got none with match={match!r}"
        raise ValueError(msg)
    values = np.array([[found.get(name, math.nan) for found in by_row] for name in names])
    return names, values


def _values(row: Row, kind: str, field: str) -> dict[str, float]:
    """Return one number per name of a row."""
    if kind == UPDATE_RATIO:
        return row.update_ratios()
    table = row.tables.get(kind)
    if table is None:
        return {}
    columns = table.high if field == "abs_max" else table.average
    column = columns[field] if field in columns else table.column(field)
    return dict(zip(table.names, column.tolist(), strict=True))


def draw_heat_map(
    rows: Sequence[Row],
    path: Path,
    *,
    kind: str = "activations",
    field: str = "rms",
    match: str = "",
) -> None:
    """Draw scale by depth and time: one line per tensor, first to last from top to bottom.

    Args:
        rows: Rows, oldest first, at least one.
        path: The PNG file to write.
        kind: Such as "activations", "gradients", "weights", "updates" or "update_ratio".
        field: A field of `Stats`; its size is drawn, logarithmically.
        match: A regular expression that a name must hold; empty for all.

    Raises:
        ImportError: If matplotlib is missing (extra `plot`).
        ValueError: If there is nothing to draw.
    """
    require_matplotlib("plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    names, values = scale_by_depth(rows, kind, field, match)
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
