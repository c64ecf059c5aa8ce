"""Sink for metrics and ready-made histograms of Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from initstats.monitoring.row import Row
from initstats.sinks.extras import require
from initstats.sinks.tensorboard import DEFAULT_FIELDS, drawn

# wandb refuses more.
_MOST_BUCKETS = 512


class WandB:
    """Log scalars and histograms to a run.

    The step is logged as the metric `initstats/step` and is the x axis of everything here. Each row
    takes one of the run's own steps: log other values without `step=`, or wandb drops those whose
    step has passed.

    Args:
        run: A run; None for the current one, or a new one in the mode that WANDB_MODE tells.
        fields: Fields of `Stats` drawn per tensor.
        histograms: Log histograms.
        prefix: Begins every key, such as "actor" for `actor/initstats/...`: for several models that
            share one run.

    Raises:
        ImportError: If wandb is not installed (extra `wandb`).
    """

    def __init__(
        self,
        run: Any = None,
        *,
        fields: Iterable[str] = DEFAULT_FIELDS,
        histograms: bool = True,
        prefix: str = "",
    ) -> None:
        self._wandb = require("wandb", "sinks.WandB", "wandb")
        self._owns = run is None and self._wandb.run is None
        self._run = run or self._wandb.run or self._wandb.init(project="initstats")
        self._fields = tuple(fields)
        self._histograms = histograms
        self._begin = f"{prefix}/initstats" if prefix else "initstats"
        self._run.define_metric(f"{self._begin}/step", hidden=True)
        self._run.define_metric(f"{self._begin}/*", step_metric=f"{self._begin}/step")

    def write(self, row: Row) -> None:
        """Log a row in one call."""
        begin = self._begin
        values: dict[str, Any] = {f"{begin}/{k}": v for k, v in row.scalars().items()}
        for kind, table in row.tables.items():
            for field in self._fields:
                for name, value in zip(table.names, drawn(table, field), strict=True):
                    if math.isfinite(value):
                        values[f"{begin}/{kind}_{field}/{name}"] = value
            if not self._histograms or table.places is None:
                continue
            zeros = table.records.counts[:, 4].tolist()
            for i, name in enumerate(table.names):
                edges, counts = table.places.dense(i)
                counts[edges.index(0.0)] += zeros[i]
                if len(counts) <= _MOST_BUCKETS and any(counts):
                    histogram = self._wandb.Histogram(np_histogram=(counts[1:], edges))
                    values[f"{begin}/{kind}/{name}"] = histogram
        self._run.log(values)

    def close(self) -> None:
        """Finish the run if this sink started it."""
        if self._owns:
            self._run.finish()
