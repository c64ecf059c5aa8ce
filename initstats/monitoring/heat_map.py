"""Heat map of a run: scale by depth and time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from initstats.drawing.png import require_matplotlib
from initstats.monitoring.row import Row
from initstats.monitoring.rules import holds_not_finite
from initstats.statistics.record_array import Floats
from initstats.text import nearest

UPDATE_RATIO = "update_ratio"
# Kinds that are one number per name: of a row, and the kinds of tables that it comes from.
ONE_NUMBER: dict[str, tuple[Callable[[Row], Mapping[str, float]], tuple[str, ...]]] = {
    UPDATE_RATIO: (Row.update_ratios, ("updates", "weights")),
    "momentum_cosine": (Row.momentum_cosines, ("momentum_cosine",)),
    "near_zero": (Row.near_zero_shares, ("activations",)),
    "calls": (lambda row: row.calls, ()),
}
# Those of which 0 and numbers below it mean something.
LINEAR = ("momentum_cosine", "near_zero", "calls")
_DOTS_PER_INCH = 130
_INCHES_PER_NAME = 0.22
_MOST_LABELS = 60


def scale_by_depth(
    rows: Sequence[Row], kind: str, field: str, match: str = ""
) -> tuple[list[str], Floats]:
    """Collect one field of one kind over a run.

    Args:
        rows: Rows, oldest first.
        kind: Such as "activations"; "update_ratio", "near_zero" and "calls" for what a row has of
            these. With them and "momentum_cosine" the field does not count.
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
        known = sorted({*ONE_NUMBER, *(k for row in rows for k in row.tables)})
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
    if kind in ONE_NUMBER:
        return dict(ONE_NUMBER[kind][0](row))
    table = row.tables.get(kind)
    if table is None:
        return {}
    columns = table.high if field == "abs_max" else table.average
    column = columns[field] if field in columns else table.column(field)
    return dict(zip(table.names, column.tolist(), strict=True))


def not_finite_by_depth(
    rows: Sequence[Row], kind: str, names: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Tell where a tensor holds NaN or infinity, a mask of -inf left out.

    Args:
        rows: Rows, oldest first.
        kind: As for `scale_by_depth`.
        names: Names that it returned.

    Returns:
        bool `[n, rows]`.
    """
    marked = np.zeros((len(names), len(rows)), dtype=bool)
    place = {name: i for i, name in enumerate(names)}
    for j, row in enumerate(rows):
        for source in ONE_NUMBER[kind][1] if kind in ONE_NUMBER else (kind,):
            if (table := row.tables.get(source)) is None:
                continue
            for i in np.flatnonzero(holds_not_finite(source, table.records)).tolist():
                if table.names[i] in place:
                    marked[place[table.names[i]], j] = True
    return marked


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
        kind: Such as "activations", "gradients", "weights", "updates", "update_ratio",
            "momentum_cosine", "near_zero" or "calls"; the last three on a linear scale.
        field: A field of `Stats`; its size is drawn, logarithmically.
        match: A regular expression that a name must hold; empty for all.

    Raises:
        ImportError: If matplotlib is missing (extra `plot`).
        ValueError: If there is nothing to draw.
    """
    require_matplotlib("plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap, LogNorm, Normalize
    from matplotlib.figure import Figure

    names, values = scale_by_depth(rows, kind, field, match)
    is_linear, is_broken = kind in LINEAR, not_finite_by_depth(rows, kind, names) | np.isinf(values)
    size = values if is_linear else np.abs(values)
    size[~(np.isfinite(size) & (is_linear | (size > 0)))] = math.nan
    if not np.isfinite(size).any() and not is_broken.any():
        msg = f"initstats.plot: expected values other than 0, got none of {kind} {field}"
        raise ValueError(msg)
    shown = min(len(names), _MOST_LABELS)
    figure = Figure(
        figsize=(11.0, 2.0 + _INCHES_PER_NAME * shown), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    known = size[np.isfinite(size)] if np.isfinite(size).any() else np.ones(1)
    low, high = float(known.min()), float(known.max())
    steps = [row.step for row in rows]
    edges = np.array([rows[0].first_step - 0.5, *(step + 0.5 for step in steps)])
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1),
        np.ma.masked_invalid(size),
        norm=Normalize(low, high) if is_linear else LogNorm(low, max(high, low * 1.01)),
        cmap="viridis",
    )
    red = np.ma.masked_where(~is_broken, is_broken)
    axes.pcolormesh(edges, np.arange(len(names) + 1), red, cmap=ListedColormap(["#b3221a"]))
    axes.set_facecolor("0.8")  # what is 0 or not there
    every = math.ceil(len(names) / _MOST_LABELS)
    axes.set_yticks(np.arange(0, len(names), every) + 0.5, names[::every], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("step")
    axes.set_ylabel("depth, first to last")
    what = kind if kind in ONE_NUMBER else f"{kind}: {field}"
    axes.set_title(f"{what} by depth and time")
    scale = "grey: absent" if is_linear else "logarithmic; grey: 0 or absent"
    label = f"{what} ({scale}; red: NaN or infinity)"
    figure.colorbar(mesh, ax=axes, label=label)
    # Without a format matplotlib adds an ending to a path that has none.
    figure.savefig(path, format=path.suffix.removeprefix(".") or "png")
