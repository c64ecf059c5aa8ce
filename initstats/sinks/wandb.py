"""Sink for metrics and ready-made histograms of Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from initstats.monitoring.row import Row
from initstats.monitoring.row_merge import merge_rows
from initstats.sinks.extras import refuse_pickle, require
from initstats.sinks.row_words import NamedNumbers, alert_text, missing_text, ordinary_tables
from initstats.sinks.tensorboard import DEFAULT_FIELDS

# wandb refuses more.
_MOST_BUCKETS = 512
_LEVELS = {"error": "ERROR", "warning": "WARN", "info": "INFO"}


class WandB:
    """Log scalars and histograms to a run.

    The step of a row is the metric `initstats/step`, the x axis of everything here; `step=` is
    never given. wandb drops what is logged with a `step=` that has passed, so a row never ends a
    step of a run that others log to: it joins what the next log of the run ends, and rows that come
    before that are merged into one. Alerts are alerts of the run, too.

    Args:
        run: A run; None for the one that is current when the first row comes, or a new one in the
            mode that WANDB_MODE tells. Only such a new one is finished by `close`.
        fields: Fields of `Stats` drawn per tensor.
        histograms: Log histograms.
        prefix: Begins every key, such as "actor" for `actor/initstats/...`: for several models that
            share one run.
        commit: True if every row is to take a step of the run, where nothing is logged with `step=`
            (by Lightning, transformers, or at all); None for a run that this sink makes.

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
        commit: bool | None = None,
    ) -> None:
        self._wandb = require("wandb", "sinks.WandB", "wandb")
        self._owns = False
        self._run = run
        self._fields = tuple(fields)
        self._histograms = histograms
        self._begin = f"{prefix}/initstats" if prefix else "initstats"
        self._commit = commit
        self._is_defined = False
        self._open: tuple[int, Row] | None = None
        self._missing = ""
        self._numbers = NamedNumbers()

    def write(self, row: Row) -> None:
        """Log a row in one call."""
        run = self._find_run()
        alerts = row.alerts
        if self._commit or (self._commit is None and self._owns):
            run.log(self._values(row))
        else:
            step = run.step
            if self._open is not None and self._open[0] == step:
                row = merge_rows(self._open[1], row)
            self._open = (step, row)
            run.log(self._values(row), commit=False)
        for finding in alerts:
            run.alert(
                f"{finding.rule} at {finding.where}",
                f"step {row.step}: {alert_text(finding)}; {finding.fix}",
                level=self._wandb.AlertLevel[_LEVELS[finding.severity]],
            )

    def close(self) -> None:
        """Finish the run if this sink started it."""
        if self._owns:
            self._owns = False
            self._run.finish()

    def __getstate__(self) -> dict[str, Any]:
        if self._run is not None:
            refuse_pickle("sinks.WandB", "a run", "make it in the process that writes")
        return {**self.__dict__, "_wandb": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._wandb = require("wandb", "sinks.WandB", "wandb")

    def _find_run(self) -> Any:
        """Return the run; it is looked for late, as trainers make theirs when training begins."""
        if self._run is None:
            self._owns = self._wandb.run is None
            self._run = self._wandb.run or self._wandb.init(project="initstats")
        if not self._is_defined:
            self._is_defined = True
            self._run.define_metric(f"{self._begin}/step", hidden=True)
            self._run.define_metric(f"{self._begin}/*", step_metric=f"{self._begin}/step")
        return self._run

    def _values(self, row: Row) -> dict[str, Any]:
        """Return what a row logs, by key."""
        begin = self._begin
        values: dict[str, Any] = {f"{begin}/{k}": v for k, v in row.scalars().items()}
        if row.alerts:
            values[f"{begin}/alert_text"] = "\n".join(map(alert_text, row.alerts))
        if (missing := missing_text(row)) != self._missing:
            self._missing = missing
            values[f"{begin}/missing_text"] = missing
        numbers = self._numbers.flat(row, self._fields)
        values |= {f"{begin}/{tag}": value for tag, value in numbers.items()}
        for kind, table in ordinary_tables(row).items():
            if not self._histograms or table.places is None:
                continue
            zeros = table.records.counts[:, 4].tolist()
            for i, name in enumerate(table.names):
                edges, counts = table.places.dense(i)
                counts[edges.index(0.0)] += zeros[i]
                if len(counts) <= _MOST_BUCKETS and any(counts):
                    histogram = self._wandb.Histogram(np_histogram=(counts[1:], edges))
                    values[f"{begin}/{kind}/{name}"] = histogram
        return values
