"""The audit: does this model start well? Layers, gradients, first losses, and what is wrong."""

from __future__ import annotations

from initstats.auditing.evidence import (
    CrossEntropyReport,
    Evidence,
    LayerReport,
    LossReport,
    ParameterReport,
)
from initstats.auditing.findings import AuditRule, Finding
from initstats.auditing.lottery import Lottery, SeedResult, Spread
from initstats.auditing.report import AuditReport
from initstats.auditing.running import DEFAULT_RULES, audit
from initstats.auditing.seed_rules import SeedSpread
from initstats.auditing.signal_rules import (
    ActivationGrowth,
    ActivationScale,
    ActivationStd,
    GradientGrowth,
    NotFinite,
)
from initstats.auditing.training_rules import (
    GradientRatio,
    InitialLoss,
    LossTrajectory,
    MissingGradient,
    UpdateRatio,
)
from initstats.auditing.weight_rules import WeightsAgainstRecipe

__all__ = [
    "DEFAULT_RULES",
    "ActivationGrowth",
    "ActivationScale",
    "ActivationStd",
    "AuditReport",
    "AuditRule",
    "CrossEntropyReport",
    "Evidence",
    "Finding",
    "GradientGrowth",
    "GradientRatio",
    "InitialLoss",
    "LayerReport",
    "LossReport",
    "LossTrajectory",
    "Lottery",
    "MissingGradient",
    "NotFinite",
    "ParameterReport",
    "SeedResult",
    "SeedSpread",
    "Spread",
    "UpdateRatio",
    "WeightsAgainstRecipe",
    "audit",
]
