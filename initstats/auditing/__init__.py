"""The audit: does this model start well? Layers, gradients, first losses, and what is wrong."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.auditing.report.compare import (
    FindingChange,
    LayerComparison,
    ReportComparison,
    compare_reports,
)
from initstats.auditing.report.report import AuditReport
from initstats.auditing.report.schema import SavedReport, load_report
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
from initstats.diagnostics.rules.inputs import DropoutShare, FirstLayer, InputScale
from initstats.diagnostics.rules.loss import (
    DoubleSoftmax,
    InitialLoss,
    LossReduction,
    LossSign,
    LossTrajectory,
)
from initstats.diagnostics.rules.norm import NormIdentity
from initstats.diagnostics.rules.peers import WeightPeers
from initstats.diagnostics.rules.precision import LostUpdate, Underflow
from initstats.diagnostics.rules.seeds import SeedSpread
from initstats.diagnostics.rules.signal import (
    ActivationGrowth,
    ActivationScale,
    ActivationStd,
    GradientGrowth,
    NotFinite,
)
from initstats.diagnostics.rules.structure import (
    BlockStructure,
    MissingGradient,
    ResidualPath,
    ZeroGradient,
)
from initstats.diagnostics.rules.table import DEFAULT_RULES
from initstats.diagnostics.rules.training import GradientRatio, GradientSpread, UpdateRatio
from initstats.diagnostics.rules.units import BiasScale, DeadUnits, SaturatedUnits
from initstats.diagnostics.rules.weights import (
    Symmetry,
    WeightsAgainstRecipe,
)
from initstats.diagnostics.seed_spread import Lottery, SeedResult, Spread
from initstats.diagnostics.unit_records import UnitRecords
from initstats.diagnostics.weight_rows import RowReport

__all__ = [
    "DEFAULT_RULES",
    "ActivationGrowth",
    "ActivationScale",
    "ActivationStd",
    "AuditReport",
    "AuditRule",
    "BiasScale",
    "BlockStructure",
    "Carried",
    "CrossEntropyReport",
    "DeadUnits",
    "DoubleSoftmax",
    "DropoutShare",
    "Evidence",
    "Finding",
    "FindingChange",
    "FirstLayer",
    "GradientGrowth",
    "GradientRatio",
    "GradientSpread",
    "InitialLoss",
    "InputScale",
    "LayerComparison",
    "LayerReport",
    "LogitReport",
    "LossCallReport",
    "LossReduction",
    "LossReport",
    "LossSign",
    "LossTrajectory",
    "LostUpdate",
    "Lottery",
    "MissingGradient",
    "NormIdentity",
    "NotFinite",
    "ParameterReport",
    "ReportComparison",
    "ResidualPath",
    "RowReport",
    "SaturatedUnits",
    "SavedReport",
    "SeedResult",
    "SeedSpread",
    "Spread",
    "Symmetry",
    "Underflow",
    "UnitRecords",
    "UpdateRatio",
    "WeightPeers",
    "WeightsAgainstRecipe",
    "ZeroGradient",
    "audit",
    "compare_reports",
    "load_report",
]

claim_classes(__name__, globals())
