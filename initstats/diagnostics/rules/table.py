"""The rules of the audit: their public names and their order, causes before symptoms."""

from __future__ import annotations

from initstats.diagnostics.findings import AuditRule
from initstats.diagnostics.rules.batch import ConstantBatch, ConstantTargets
from initstats.diagnostics.rules.dependence import FutureInputs, MixedExamples, SoftmaxAxis
from initstats.diagnostics.rules.inputs import DropoutShare, FirstLayer, InputScale
from initstats.diagnostics.rules.loss import (
    DoubleSoftmax,
    InitialLoss,
    LossReduction,
    LossSign,
    LossTrajectory,
)
from initstats.diagnostics.rules.norm import NormEpsilon, NormIdentity, NormInEval
from initstats.diagnostics.rules.peers import WeightPeers
from initstats.diagnostics.rules.precision import LostUpdate, Underflow
from initstats.diagnostics.rules.scores import BroadcastLoss, ScoreActivation
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
from initstats.diagnostics.rules.untrained import FrozenRandom, UnheldParameters
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
    "BroadcastLoss",
    "ConstantBatch",
    "ConstantTargets",
    "DeadUnits",
    "DoubleSoftmax",
    "DropoutShare",
    "FirstLayer",
    "FrozenRandom",
    "FutureInputs",
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
    "MixedExamples",
    "NormEpsilon",
    "NormIdentity",
    "NormInEval",
    "NotFinite",
    "ResidualPath",
    "SaturatedUnits",
    "ScoreActivation",
    "SeedSpread",
    "SoftmaxAxis",
    "Symmetry",
    "Underflow",
    "UnheldParameters",
    "UpdateRatio",
    "WeightPeers",
    "WeightsAgainstRecipe",
    "ZeroGradient",
]

DEFAULT_RULES: tuple[AuditRule, ...] = (
    NotFinite(),
    InputScale(),
    ConstantBatch(),
    ConstantTargets(),
    BroadcastLoss(),
    WeightsAgainstRecipe(),
    Symmetry(),
    NormIdentity(),
    NormInEval(),
    NormEpsilon(),
    BlockStructure(),
    ResidualPath(),
    LossSign(),
    LossReduction(),
    DoubleSoftmax(),
    ScoreActivation(),
    SoftmaxAxis(),
    FutureInputs(),
    MixedExamples(),
    UnheldParameters(),
    FrozenRandom(),
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
