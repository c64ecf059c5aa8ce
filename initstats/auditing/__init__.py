"""The audit: does this model start well? Layers, gradients, first losses, and what is wrong."""

from __future__ import annotations

from initstats.auditing.evidence import (
    Carried,
    CrossEntropyReport,
    Evidence,
    LayerReport,
    LogitReport,
    LossCallReport,
    LossReport,
    ParameterReport,
)
from initstats.auditing.findings import AuditRule, Finding
from initstats.auditing.input_rules import DropoutShare, FirstLayer, InputScale
from initstats.auditing.loss_rules import (
    DoubleSoftmax,
    InitialLoss,
    LossReduction,
    LossSign,
    LossTrajectory,
)
from initstats.auditing.lottery import Lottery, SeedResult, Spread
from initstats.auditing.norm_rules import NormIdentity
from initstats.auditing.peer_rules import WeightPeers
from initstats.auditing.precision_rules import LostUpdate, Underflow
from initstats.auditing.report import AuditReport
from initstats.auditing.report_comparing import (
    FindingChange,
    LayerComparison,
    ReportComparison,
    compare_reports,
)
from initstats.auditing.rules import DEFAULT_RULES
from initstats.auditing.running import audit
from initstats.auditing.schema import SavedReport, load_report
from initstats.auditing.seed_rules import SeedSpread
from initstats.auditing.signal_rules import (
    ActivationGrowth,
    ActivationScale,
    ActivationStd,
    GradientGrowth,
    NotFinite,
)
from initstats.auditing.structure_rules import (
    BlockStructure,
    MissingGradient,
    ResidualPath,
    ZeroGradient,
)
from initstats.auditing.training_rules import GradientRatio, GradientSpread, UpdateRatio
from initstats.auditing.unit_rules import BiasScale, DeadUnits, SaturatedUnits
from initstats.auditing.units import UnitRecords
from initstats.auditing.weight_rules import (
    Symmetry,
    WeightsAgainstRecipe,
)
from initstats.auditing.weights import RowReport

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
