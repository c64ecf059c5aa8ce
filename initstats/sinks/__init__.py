"""Where the rows of a monitor go. A sink is any object with a method `write(row)`."""

from __future__ import annotations

from initstats.monitoring.sink_worker import Sink
from initstats.sinks.for_opentelemetry import OpenTelemetry
from initstats.sinks.for_rich import Rich
from initstats.sinks.for_tensorboard import TensorBoard
from initstats.sinks.for_wandb import WandB
from initstats.sinks.json_lines import JsonLines, read_rows

__all__ = [
    "JsonLines",
    "OpenTelemetry",
    "Rich",
    "Sink",
    "TensorBoard",
    "WandB",
    "read_rows",
]
