"""The monitor: statistics of every layer during training."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.monitoring.alerts import FromAudit, MonitorRule, Subject
from initstats.monitoring.monitor import Monitor
from initstats.monitoring.row import Row, Table
from initstats.monitoring.rules import (
    DeadLayer,
    FirstNotFinite,
    GradientSpike,
    VanishingGradient,
    default_rules,
)
from initstats.monitoring.sink_worker import Sink

__all__ = [
    "DeadLayer",
    "FirstNotFinite",
    "FromAudit",
    "GradientSpike",
    "Monitor",
    "MonitorRule",
    "Row",
    "Sink",
    "Subject",
    "Table",
    "VanishingGradient",
    "default_rules",
]

claim_classes(__name__, globals())
