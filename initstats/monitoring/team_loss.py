"""The loss of a row of several ranks: the mean over those that gave one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from initstats import _ops
from initstats.monitoring.reader import Measured, table_of
from initstats.monitoring.row import Row
from initstats.monitoring.window import LOSS
from initstats.statistics.record_array import (
    MEAN,
    NAN,
    NEG_INF,
    POS_INF,
    Floats,
    Groups,
    Records,
)


def given_losses(row: Row) -> dict[str, Measured]:
    """Return the losses of one rank as a kind of one number per step; empty without any.

    Steps that `step` was not called for, or was called for without a loss, add none.
    """
    steps = _with_loss(row)
    if not steps:
        return {}
    given = row.loss[[row.steps.index(step) for step in steps]]
    values = list(torch.from_numpy(given.astype(np.float64).reshape(-1, 1)))
    moments, counts, _ = (x.numpy().copy() for x in _ops.stats(values, Groups.MOMENTS, 0))
    by_step = Records(moments.reshape(-1, 1, 8), counts.reshape(-1, 1, 8))
    with np.errstate(all="ignore"):
        table = table_of((LOSS,), by_step, None, 0)
    return {LOSS: Measured(table, steps, by_step)}


def _with_loss(row: Row) -> tuple[int, ...]:
    """Return the steps of a row of one rank that a loss was given for."""
    if not row.loss.size:
        return ()
    without = () if row.part is None else row.part.without_loss
    return tuple(step for step in row.steps if step not in without)


def mean_losses(found: Measured | None, steps: Sequence[int]) -> Floats:
    """Return the mean loss of each step, `[steps]`, NaN without one; empty without any.

    Args:
        found: The merged losses.
        steps: The steps of the row.
    """
    if found is None:
        return np.empty(0)
    moments, counts = found.by_step.moments[:, 0], found.by_step.counts[:, 0]
    means: Floats = moments[:, MEAN].copy()
    up, down = counts[:, POS_INF] > 0, counts[:, NEG_INF] > 0
    means[up], means[down] = math.inf, -math.inf
    means[(counts[:, NAN] > 0) | (up & down)] = math.nan
    by_step = dict(zip(found.steps, means.tolist(), strict=True))
    return np.array([by_step.get(step, math.nan) for step in steps])


def joined_losses(rows: Sequence[Row], steps: Sequence[int]) -> Floats:
    """Return the same of rows of one rank each."""
    given = [
        (row, dict(zip(row.steps, row.loss.tolist(), strict=True))) for row in rows if row.loss.size
    ]
    if not given:
        return np.empty(0)
    by_step = [[loss[step] for row, loss in given if step in _with_loss(row)] for step in steps]
    with np.errstate(all="ignore"):
        return np.array([np.mean(each) if each else math.nan for each in by_step])
