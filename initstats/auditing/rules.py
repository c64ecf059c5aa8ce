"""The rules that an audit checks when none are given, causes before symptoms."""

from __future__ import annotations

from initstats.auditing.findings import AuditRule
from initstats.auditing.input_rules import DropoutShare, FirstLayer, InputScale
from initstats.auditing.loss_rules import (
    DoubleSoftmax,
    InitialLoss,
    LossReduction,
    LossSign,
    LossTrajectory,
)
from initstats.auditing.norm_rules import NormIdentity
from initstats.auditing.peer_rules import WeightPeers
from initstats.auditing.precision_rules import LostUpdate, Underflow
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
from initstats.auditing.weight_rules import (
    Symmetry,
    WeightsAgainstRecipe,
)

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
