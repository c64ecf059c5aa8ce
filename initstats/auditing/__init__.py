"""Audit: train a model for a few steps, measure every layer, and report problems."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.auditing.report.compare import (
    FindingChange,
    LayerComparison,
    ReportComparison,
    compare_reports,
)
from initstats.auditing.report.report import AuditReport, SavedReport, load_report
from initstats.auditing.runner import audit
from initstats.diagnostics.evidence import (
    Carried,
    CrossEntropyReport,
    Evidence,
    LayerReport,
    LogitReport,
    LossCallReport,
    LossReport,
    ParameterReport,
)
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.diagnostics.rules import table
from initstats.diagnostics.rules.table import *  # noqa: F403
from initstats.diagnostics.seed_spread import Lottery, SeedResult, Spread
from initstats.diagnostics.unit_records import UnitRecords
from initstats.diagnostics.weight_rows import RowReport

__all__ = [
    "AuditReport",
    "AuditRule",
    "Carried",
    "CrossEntropyReport",
    "Evidence",
    "Finding",
    "FindingChange",
    "LayerComparison",
    "LayerReport",
    "LogitReport",
    "LossCallReport",
    "LossReport",
    "Lottery",
    "ParameterReport",
    "ReportComparison",
    "RowReport",
    "SavedReport",
    "SeedResult",
    "Spread",
    "UnitRecords",
    "audit",
    "compare_reports",
    "load_report",
]
__all__ += table.__all__

claim_classes(__name__, globals())
