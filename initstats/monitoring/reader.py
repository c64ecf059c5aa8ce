"""Turn closed windows into rows, all tensors at once, outside the training thread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from initstats.monitoring.row import WINDOWED, Places, Row, Table
from initstats.monitoring.window import BEFORE_CLIPPING, HIDDEN, Factor, Layout, Segment, Window
from initstats.statistics.histogram import shifted_places
from initstats.statistics.record_array import (
    COUNT,
    NAN,
    NEG_INF,
    POS_INF,
    Floats,
    Integers,
    Records,
)

_HALF = 0.5


@dataclass(frozen=True, eq=False)
class Measured:
    """One kind in one window: merged, and step by step."""

    table: Table
    steps: tuple[int, ...]
    by_step: Records  # [steps, names]


def read_window(window: Window) -> tuple[Row, dict[str, Measured]]:
    """Turn a window into a row.

    Args:
        window: A closed window.

    Returns:
        The row, and what was measured by kind and step.
    """
    window.wait()
    segments: dict[str, list[Segment]] = {}
    for kind, segment in window.parts():
        segments.setdefault(kind, []).append(segment)
    measured = {kind: _read_kind(found, window.scale) for kind, found in segments.items()}
    shown = {kind: found for kind, found in measured.items() if kind not in HIDDEN}
    steps = sorted({step for found in shown.values() for step in found.steps})
    norms = before = np.empty(0)
    if "gradients" in measured:
        norms = gradient_norms(measured["gradients"].by_step)
        if window.clipped:
            before = _norms_before_clipping(window, measured["gradients"], norms)
        elif BEFORE_CLIPPING in measured:
            before = gradient_norms(unclipped(measured))
    row = Row(
        step=window.last_step,
        first_step=window.first_step,
        measured=len(steps),
        time=window.wall_time,
        tables={kind: found.table for kind, found in shown.items()},
        gradient_norm=norms,
        gradient_norm_before_clipping=before,
        steps=tuple(steps),
        missing=_missing(window, measured),
        loss=_losses(window, steps),
        learning_rates={name: _number(rate) for name, rate in window.rates.items()},
        calls=_calls(window, len(steps)),
        smooth=window.smooth,
    )
    return row, measured


def gradient_norms(by_step: Records) -> Floats:
    """Return the global norm of each step from the records of the gradients, `[steps]`."""
    with np.errstate(all="ignore"):
        norms: Floats = np.sqrt(gradient_squares(by_step).sum(axis=1))
    return norms


def gradient_squares(by_step: Records) -> Floats:
    """Return the sum of squares of each gradient, NaN or infinite where it is, `[steps, n]`."""
    with np.errstate(all="ignore"):
        squares: Floats = by_step.column("l2") ** 2
    squares[by_step.counts[..., POS_INF] + by_step.counts[..., NEG_INF] > 0] = math.inf
    squares[by_step.counts[..., NAN] > 0] = math.nan
    return squares


def unclipped(measured: Mapping[str, Measured]) -> Records:
    """Return the records of gradients `[steps, n]`, before clipping where they were clipped."""
    gradients, before = measured["gradients"], measured.get(BEFORE_CLIPPING)
    records = gradients.by_step
    if before is None:
        return records
    found = Records(records.moments.copy(), records.counts.copy())
    index = gradients.table.index
    columns = [(j, index[n]) for j, n in enumerate(before.table.names) if n in index]
    for k, step in enumerate(before.steps):
        if step in gradients.steps:
            to = gradients.steps.index(step)
            for j, i in columns:
                if before.by_step.counts[k, j, COUNT] > 0:
                    found.moments[to, i] = before.by_step.moments[k, j]
                    found.counts[to, i] = before.by_step.counts[k, j]
    return found


def _norms_before_clipping(window: Window, gradients: Measured, norms: Floats) -> Floats:
    """Return the global norm of each step before clipping; parameters that were not clipped count.

    Returns:
        float64 `[steps]`; the norm itself in steps without clipping.
    """
    before: Floats = norms.copy()
    squares = gradients.by_step.column("l2") ** 2
    index = gradients.table.index
    for k in range(len(before)):
        calls = [call for call in window.clipped if call[0] == gradients.steps[k]]
        if calls:
            clipped = {index[n] for *_, names in calls for n in names if n in index}
            rest = [i for i in range(len(index)) if i not in clipped]
            total = sum((float(norm) * _number(factor)) ** 2 for _, norm, factor, _ in calls)
            before[k] = math.sqrt(total + float(squares[k, rest].sum()))
    return before


def _read_kind(segments: list[Segment], scale: int) -> Measured:
    """Merge the segments of one kind."""
    names = tuple(dict.fromkeys(name for segment in segments for name in segment.layout))
    steps = tuple(sorted({step for segment in segments for step in segment.steps}))
    index = {name: i for i, name in enumerate(names)}
    one = segments[0]
    if len(segments) == 1 and one.layout == names and one.steps == list(steps):
        records, places = _host(one, scale)
        by_step = records
    else:
        by_step = Records.empty(len(steps), len(names))
        places = None
        for segment in segments:
            records, its_places = _host(segment, scale)
            rows = np.array([index[name] for name in segment.layout])
            for k, step in enumerate(segment.steps):
                _merge_into(by_step, steps.index(step), rows, records[k])
            if its_places is not None:
                if places is None:
                    places = np.zeros((len(names), its_places.shape[1]), dtype=np.int64)
                np.add.at(places, rows, its_places)
    with np.errstate(all="ignore"):
        table = table_of(names, by_step, places, scale)
    return Measured(table, steps, by_step)


def table_of(names: Layout, by_step: Records, places: Integers | None, scale: int) -> Table:
    """Merge the records of the measured steps `[steps, n]` to the table of a row."""
    followed = {name: by_step.column(name) for name in WINDOWED}
    if len(by_step.moments) == 1:
        only = {name: column[0] for name, column in followed.items()}
        low, high, average = only, only, only
    else:
        low = {name: np.fmin.reduce(column) for name, column in followed.items()}
        high = {name: np.fmax.reduce(column) for name, column in followed.items()}
        average = {name: _nan_mean(column) for name, column in followed.items()}
    return Table(
        names,
        by_step.merge_first_axis(),
        None if places is None else Places.cut(places, scale),
        low,
        high,
        average,
    )


def _nan_mean(column: Floats) -> Floats:
    """Return the mean over the first axis of what is not NaN."""
    known = ~np.isnan(column)
    mean: Floats = np.where(known, column, 0.0).sum(axis=0) / known.sum(axis=0)
    return mean


def _merge_into(by_step: Records, k: int, rows: Integers, records: Records) -> None:
    """Merge records into those of one step; a name that comes several times, one after another."""
    left = np.arange(len(rows))
    while left.size:
        _, first = np.unique(rows[left], return_index=True)
        now = left[first]
        target = rows[now]
        merged = by_step[k, target].merge(records[now])
        by_step.moments[k, target], by_step.counts[k, target] = merged.moments, merged.counts
        left = np.delete(left, first)


def _host(segment: Segment, scale: int) -> tuple[Records, Integers | None]:
    """Return the measurements of a segment as arrays `[k, n, 8]`, and its histograms."""
    records = Records(_stacked(segment.moments), _stacked(segment.counts))
    places = None
    if segment.places is not None and segment.places.numel():
        places = segment.places.numpy()
    factors = np.array([_number(factor) for factor in segment.factors])
    if (factors != 1.0).any():
        records = records.scaled(factors)
        if places is not None:
            mantissas, exponents = np.frexp(factors)
            exact = (mantissas == _HALF).all() and (exponents == exponents[0]).all()
            places = shifted_places(places, int(exponents[0]) - 1, scale) if exact else None
    return records, places


def _stacked(tensors: list[torch.Tensor]) -> Any:
    parts = [t.numpy() if t.ndim > 2 else t.numpy()[None] for t in tensors]  # noqa: PLR2004
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _number(factor: Factor) -> float:
    return float(factor)


def _calls(window: Window, steps: int) -> dict[str, float]:
    """Return the recorded calls per step of each watched module: every call left a record."""
    kind = next((kind for kind in ("activations", "inputs") if kind in window.expected), None)
    if kind is None or not steps:
        return {}
    calls = dict.fromkeys(window.expected[kind], 0)
    for its_kind, segment in window.parts():
        if its_kind == kind:
            for name in segment.layout:
                calls[name] = calls.get(name, 0) + len(segment.steps)
    return {name: n / steps for name, n in calls.items()}


def _losses(window: Window, steps: list[int]) -> Floats:
    """Return the loss of each step, NaN where none was given; empty without any."""
    if not window.losses:
        return np.empty(0)
    given = {step: _number(loss) for step, loss in window.losses.items()}
    return np.array([given.get(step, math.nan) for step in steps])


def _missing(window: Window, measured: dict[str, Measured]) -> dict[str, dict[str, str]]:
    """Say of every name that is expected and was never measured why."""
    missing: dict[str, dict[str, str]] = {}
    for kind, names in window.expected.items():
        found = measured[kind].table.index if kind in measured else {}
        lost = [name for name in names if name not in found]
        known = window.reasons.get(kind, {})
        if lost:
            why = REASON.get(kind, "not measured")
            missing[kind] = {name: known.get(name, why) for name in lost}
    return missing


# Why a tensor of a kind was not measured where nothing else is known.
REASON = {
    "gradients": "no gradient",
    "local_gradients": "no gradient",
    "activations": "not called in a measured step",
    "inputs": "not called in a measured step",
    "updates": "the optimizer did not step",
    "momentum_cosine": "the optimizer did not step",
}
