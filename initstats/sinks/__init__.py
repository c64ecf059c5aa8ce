"""Sinks of the monitor. A sink is any object with a method `write(row)`."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.monitoring.sink_worker import Sink
from initstats.sinks.console import Rich
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines, read_rows
from initstats.sinks.opentelemetry import OpenTelemetry
from initstats.sinks.tensorboard import TensorBoard
from initstats.sinks.wandb import WandB

__all__ = [
    "JsonLines",
    "OpenTelemetry",
    "Rich",
    "Sink",
    "TensorBoard",
    "WandB",
    "join_rows",
    "read_rows",
]

claim_classes(__name__, globals())
