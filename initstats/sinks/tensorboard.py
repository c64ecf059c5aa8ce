"""Sink for scalars and histograms in TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from initstats.monitoring.row import Row, Table
from initstats.sinks.extras import refuse_pickle, require
from initstats.sinks.row_words import NamedNumbers, alert_text, missing_text, ordinary_tables

DEFAULT_FIELDS = ("std", "abs_max")


class TensorBoard:
    """Write scalars and ready-made histograms; nothing is counted or copied again.

    Tags are `gradients/h.0.attn.weight` for histograms and `gradients_std/h.0.attn.weight` for
    fields, `near_zero/h.0.act`, `calls/experts.3` and `momentum_cosine/...` for what is one number
    per name; the largest value of a field in the window is drawn for "abs_max", else its mean.

    Args:
        target: A folder, or a `SummaryWriter` that is used as it is and not closed.
        fields: Fields of `Stats` drawn per tensor.
        histograms: Write histograms.
        prefix: Begins every tag, such as "actor" for `actor/gradients/...`: for several models that
            share one writer.

    Raises:
        ImportError: If tensorboard is not installed (extra `tensorboard`).
    """

    def __init__(
        self,
        target: Any,
        *,
        fields: Iterable[str] = DEFAULT_FIELDS,
        histograms: bool = True,
        prefix: str = "",
    ) -> None:
        module = require("torch.utils.tensorboard", "sinks.TensorBoard", "tensorboard")
        self._owns = not hasattr(target, "add_histogram_raw")
        self._target = Path(target).absolute() if self._owns else target
        self._writer = module.SummaryWriter(str(self._target)) if self._owns else target
        self._missing = ""
        self._numbers = NamedNumbers()
        self._fields = tuple(fields)
        self._histograms = histograms
        self._prefix = f"{prefix}/" if prefix else ""

    def write(self, row: Row) -> None:
        """Write the scalars and histograms of a row at its step."""
        begin = self._prefix
        for name, value in row.scalars().items():
            if name != "step":
                self._writer.add_scalar(f"{begin}initstats/{name}", value, row.step, row.time)
        for tag, value in self._numbers.flat(row, self._fields).items():
            self._writer.add_scalar(f"{begin}{tag}", value, row.step, row.time)
        for kind, table in ordinary_tables(row).items():
            if self._histograms and table.places is not None:
                self._write_histograms(kind, table, row)
        for finding in row.alerts:
            text = alert_text(finding)
            self._writer.add_text(f"{begin}initstats/alerts", text, row.step, row.time)
        if (missing := missing_text(row)) != self._missing:
            self._missing = missing
            lines = missing.replace("\n", "  \n") or "nothing"  # two spaces: a line of Markdown
            self._writer.add_text(f"{begin}initstats/missing", lines, row.step, row.time)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file if this sink opened it."""
        if self._owns:
            self._writer.close()

    def resume(self, step: int) -> None:
        """Hide what an interrupted run wrote after a step that is gone on from.

        Args:
            step: The last step that counts.
        """
        if self._owns:
            self._writer.close()
            self._writer = type(self._writer)(str(self._target), purge_step=step + 1)

    def __getstate__(self) -> dict[str, Any]:
        if not self._owns:
            refuse_pickle("sinks.TensorBoard", "a writer", "give it a folder")
        return {**self.__dict__, "_writer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        module = require("torch.utils.tensorboard", "sinks.TensorBoard", "tensorboard")
        self._writer = module.SummaryWriter(str(self._target))

    def _write_histograms(self, kind: str, table: Table, row: Row) -> None:
        assert table.places is not None
        finite, zeros = table.records.finite.tolist(), table.records.counts[:, 4].tolist()
        mean, rms = table.column("mean"), table.column("rms")
        low, high = table.column("min"), table.column("max")
        for i, name in enumerate(table.names):
            if not finite[i]:
                continue
            edges, counts = table.places.dense(i)
            counts[edges.index(0.0)] += zeros[i]
            self._writer.add_histogram_raw(
                f"{self._prefix}{kind}/{name}",
                min=low[i],
                max=high[i],
                num=finite[i],
                sum=mean[i] * finite[i],
                sum_squares=rms[i] ** 2 * finite[i],
                bucket_limits=edges,
                bucket_counts=counts,
                global_step=row.step,
                walltime=row.time,
            )
