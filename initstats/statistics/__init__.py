"""Statistics of tensors in one pass: records, tables of records, records per slice."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.statistics.compute import stats
from initstats.statistics.histogram import Bucket, Histogram
from initstats.statistics.record import Stats
from initstats.statistics.replicas import ReplicaReport, replicas_agree
from initstats.statistics.slices import SliceStats
from initstats.statistics.table import StatsTable

__all__ = [
    "Bucket",
    "Histogram",
    "ReplicaReport",
    "SliceStats",
    "Stats",
    "StatsTable",
    "replicas_agree",
    "stats",
]

claim_classes(__name__, globals())
