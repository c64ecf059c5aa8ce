"""A run as one HTML file that opens from disk: values for page.html.j2, from rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from initstats.drawing.charts import Chart, Line, Mark, short
from initstats.drawing.heat_maps import HeatMap, heat_map
from initstats.drawing.template import render_page
from initstats.monitoring.heat_map import (
    LINEAR,
    ONE_NUMBER,
    UPDATE_RATIO,
    not_finite_by_depth,
    scale_by_depth,
)
from initstats.monitoring.row import Row
from initstats.statistics.record import Stats

_GOOD_UPDATES = (1e-4, 1e-1, "1e-4 to 1e-1")
_COLOURS = "red holds NaN or infinity, blank is not there"
_ABOUT = {
    UPDATE_RATIO: f"Root mean square of the update / that of the weights, logarithmic; {_COLOURS}.",
    "momentum_cosine": f"Cosine of the optimizer's momentum and the gradient; {_COLOURS}.",
    "near_zero": "Share of the outputs of GELU, SiLU and relatives that inputs far below 0 made.",
    "calls": "Recorded calls per measured step: the load of the experts of a mixture.",
}
_NAMED = 12
_TICKS = 8


def run_page(rows: Sequence[Row], title: str) -> str:
    """Draw a run as an HTML page that needs no other file and no network.

    Args:
        rows: Rows, oldest first.
        title: Heading, such as the name of the file.

    Returns:
        The page.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("initstats.report: expected at least one row, got none")
    alerts = [(row.step, alert) for row in rows for alert in row.alerts]
    return render_page(
        "initstats.monitoring.report",
        "page.html.j2",
        kind="run",
        title=title,
        first=rows[0].first_step,
        last=rows[-1].step,
        rows=len(rows),
        measured=sum(row.measured for row in rows),
        charts=[*_given(rows), _norms(rows), _clipping(rows), _updates(rows)],
        maps=_maps(rows),
        alerts=alerts,
        missing=_missing(rows),
        parameters=_parameters(rows[-1]),
        modules=_modules(rows[-1]),
    )


def _given(rows: Sequence[Row]) -> list[Chart]:
    """Make the charts of loss and learning rate, where rows have them."""
    charts = []
    about = "Mean of the losses that the monitor was given, by row."
    if any("loss" in row.scalars() for row in rows):
        charts.append(_scalar_chart(rows, "loss", "Loss", about))
    about = "Of the first group of the optimizer, in the last measured step of a row."
    if any(row.learning_rates for row in rows):
        charts.append(_scalar_chart(rows, "learning_rate", "Learning rate", about))
    return charts


def _norms(rows: Sequence[Row]) -> Chart:
    """Make the chart of gradient norms, of every measured step, with marks of alerts."""
    after, before, told = [], [], []
    for row in rows:
        steps = row.steps if len(row.steps) == len(row.gradient_norm) else ()
        after += _marks(steps, row.gradient_norm, "gradient norm")
        before += _marks(steps, row.gradient_norm_before_clipping, "before clipping")
        if row.alerts and row.gradient_norm.size:
            names = "\n".join(f"{a.severity} {a.rule} at {a.where}" for a in row.alerts)
            tip = f"step {row.step}\n{names}"
            told.append(Mark(float(row.step), float(np.fmax.reduce(row.gradient_norm)), tip))
    lines = [Line("gradient norm", after, 1)]
    if before:
        lines.append(Line("before clipping", before, 2))
    if told:
        lines.insert(0, Line("new alerts", told, 5, joined=False, hollow=True))
    return Chart(
        "Gradient norm",
        "Global norm of each measured step, logarithmic, as the optimizer got it and before it was"
        " clipped; a cross at the top is not finite.",
        lines,
        logarithmic=True,
        x_label="step",
        x_ticks=_ticks(lines),
    )


def _clipping(rows: Sequence[Row]) -> Chart:
    """Make the chart of the share of steps that were clipped."""
    about = "Share of the measured steps of a row that were clipped."
    return _scalar_chart(rows, "clip_share", "Clipped steps", about)


def _updates(rows: Sequence[Row]) -> Chart:
    """Make the chart of update ratios."""
    marks: tuple[list[Mark], ...] = ([], [], [])
    for row in rows:
        ratios = [r for r in row.update_ratios().values() if math.isfinite(r) and r > 0]
        if ratios:
            shown = (max(ratios), float(np.median(ratios)), min(ratios))
            for part, ratio in zip(marks, shown, strict=True):
                part.extend(_marks((row.step,), (ratio,), "update ratio"))
    labels = ("largest", "median", "smallest")
    lines = [
        Line(label, part, colour, faint=label != "median")
        for label, part, colour in zip(labels, marks, (2, 4, 3), strict=True)
    ]
    return Chart(
        "Update ratios",
        "Root mean square of an update / that of the weights: median and extremes over the"
        " parameters. The band is what healthy training shows.",
        lines,
        logarithmic=True,
        x_label="step",
        x_ticks=_ticks(lines),
        band=_GOOD_UPDATES,
    )


def _scalar_chart(rows: Sequence[Row], name: str, title: str, about: str) -> Chart:
    """Make a chart of one number of each row."""
    marks = [
        mark
        for row in rows
        if name in (scalars := row.scalars())
        for mark in _marks((row.step,), np.array([scalars[name]]), title)
    ]
    lines = [Line(title, marks, 1)]
    return Chart(title, about, lines, logarithmic=False, x_label="step", x_ticks=_ticks(lines))


def _marks(steps: Sequence[int], values: Any, what: str) -> list[Mark]:
    return [
        Mark(float(step), float(value), f"step {step}\n{what}: {short(float(value))}")
        for step, value in zip(steps, values, strict=False)
    ]


def _ticks(lines: Sequence[Line]) -> list[tuple[float, str]]:
    """Return steps to write below an axis: of marks, a few."""
    steps = sorted({int(mark.x) for line in lines for mark in line.marks}) or [0]
    return [(float(step), str(step)) for step in steps[:: math.ceil(len(steps) / _TICKS)]]


def _maps(rows: Sequence[Row]) -> list[HeatMap]:
    """Make a heat map for each kind, and one of update ratios."""
    steps = [row.step for row in rows]
    kinds = [k for k in dict.fromkeys(k for row in rows for k in row.tables) if k not in ONE_NUMBER]
    maps = []
    for kind in kinds:
        names, values = scale_by_depth(rows, kind, "rms")
        about = f"Root mean square of {kind}, logarithmic; {_COLOURS}, or 0."
        marked = not_finite_by_depth(rows, kind, names)
        title = f"{kind} by depth and time"
        maps.append(heat_map(title, about, names, steps, values, marked=marked))
    for kind, about in _ABOUT.items():
        if not any(_is_shown(kind, row) for row in rows):
            continue
        names, values = scale_by_depth(rows, kind, "rms")
        marked = not_finite_by_depth(rows, kind, names)
        title = f"{kind.replace('_', ' ')} by depth and time"
        linear = kind in LINEAR
        maps.append(heat_map(title, about, names, steps, values, marked=marked, linear=linear))
    return maps


def _is_shown(kind: str, row: Row) -> bool:
    """Tell whether a row has something to draw; of calls, more than one each."""
    numbers = ONE_NUMBER[kind][0](row)
    return any(n != 1 for n in numbers.values()) if kind == "calls" else bool(numbers)


def _missing(rows: Sequence[Row]) -> list[tuple[str, str, str, int]]:
    """Return kind, reason, some names and in how many rows, of what was missing."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    times: dict[tuple[str, str], int] = {}
    for row in rows:
        for key in {(kind, why) for kind, names in row.missing.items() for why in names.values()}:
            times[key] = times.get(key, 0) + 1
        for kind, names in row.missing.items():
            for name, why in names.items():
                found.setdefault((kind, why), {})[name] = None
    lines = []
    for (kind, why), places in found.items():
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        lines.append((kind, why, ", ".join([*places][:_NAMED]) + more, times[kind, why]))
    return lines


def _parameters(row: Row) -> list[dict[str, Any]]:
    """Return the last numbers of each parameter."""
    ratios, cosines = row.update_ratios(), row.momentum_cosines()
    kinds = ("weights", "gradients", "updates")
    names = dict.fromkeys(n for kind in kinds for n in row.tables.get(kind, ()))
    return [
        {
            "name": name,
            "weight": _get(row, "weights", name, "rms"),
            "gradient": _get(row, "gradients", name, "rms"),
            "update": _get(row, "updates", name, "rms"),
            "ratio": ratios.get(name),
            "cosine": cosines.get(name),
            "broken": sum(_broken(row, kind, name) for kind in kinds),
        }
        for name in names
    ]


def _modules(row: Row) -> list[dict[str, Any]]:
    """Return the last numbers of each module."""
    fields = ("mean", "std", "rms", "abs_max")
    shares = row.near_zero_shares()
    table: Mapping[str, Stats] = row.tables.get("activations", {})
    return [
        {
            "name": name,
            **{field: _get(row, "activations", name, field) for field in fields},
            "zeros": table[name].zero / table[name].count if name in table else None,
            "near_zero": shares.get(name),
            "calls": row.calls.get(name),
            "broken": _broken(row, "activations", name),
        }
        for name in dict.fromkeys((*table, *row.calls))
    ]


def _broken(row: Row, kind: str, name: str) -> int:
    """Return how many values of a tensor are NaN or infinite."""
    record = row.tables[kind].get(name) if kind in row.tables else None
    return 0 if record is None else record.nan + record.pos_inf + record.neg_inf


def _get(row: Row, kind: str, name: str, field: str) -> float | None:
    record = row.tables[kind].get(name) if kind in row.tables else None
    return None if record is None else float(getattr(record, field))
