"""The rules of the audit: their public names and their order, causes before symptoms."""

from __future__ import annotations

from initstats.diagnostics.findings import AuditRule
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
from initstats.diagnostics.rules.training import GradientRatio, GradientSpread, UpdateRatio
from initstats.diagnostics.rules.units import BiasScale, DeadUnits, SaturatedUnits
from initstats.diagnostics.rules.weights import (
    Symmetry,
    WeightsAgainstRecipe,
)

__all__ = [
    "DEFAULT_RULES",
    "ActivationGrowth",
    "ActivationScale",
    "ActivationStd",
    "BiasScale",
    "BlockStructure",
    "DeadUnits",
    "DoubleSoftmax",
    "DropoutShare",
    "FirstLayer",
    "GradientGrowth",
    "GradientRatio",
    "GradientSpread",
    "InitialLoss",
    "InputScale",
    "LossReduction",
    "LossSign",
    "LossTrajectory",
    "LostUpdate",
    "MissingGradient",
    "NormIdentity",
    "NotFinite",
    "ResidualPath",
    "SaturatedUnits",
    "SeedSpread",
    "Symmetry",
    "Underflow",
    "UpdateRatio",
    "WeightPeers",
    "WeightsAgainstRecipe",
    "ZeroGradient",
]

DEFAULT_RULES: tuple[AuditRule, ...] = (
    NotFinite(),
    InputScale(),
    WeightsAgainstRecipe(),
    Symmetry(),
    NormIdentity(),
    BlockStructure(),
    ResidualPath(),
    LossSign(),
    LossReduction(),
    DoubleSoftmax(),
    WeightPeers(),
    BiasScale(),
    DropoutShare(),
    LostUpdate(),
    DeadUnits(),
    SaturatedUnits(),
    FirstLayer(),
    ZeroGradient(),
    MissingGradient(),
    InitialLoss(),
    ActivationStd(),
    ActivationScale(),
    ActivationGrowth(),
    GradientGrowth(),
    GradientRatio(),
    GradientSpread(),
    Underflow(),
    LossTrajectory(),
    UpdateRatio(),
    SeedSpread(),
)
