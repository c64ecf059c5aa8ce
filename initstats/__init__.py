"""Fast initialisers, fused statistics of every layer, an audit of how a model starts."""

from initstats import compiled_fills as _compiled_fills  # noqa: F401  # registers its op
from initstats import recipes, sinks
from initstats.patch.context import FastInit, fast_init
from initstats.patch.report import AccelerationReport
from initstats.auditing import AuditReport, AuditRule, Finding, audit
from initstats.init.constant_fills import constant_, dirac_, eye_, identity_, ones_, zeros_
from initstats.init.deprecated import (
    constant,
    dirac,
    eye,
    kaiming_normal,
    kaiming_uniform,
    normal,
    orthogonal,
    sparse,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from initstats.planning.ensembles import ensemble
from initstats.init.fans import Fans, calculate_fan_in_and_fan_out
from initstats.init.random import (
    foreach_normal_,
    foreach_trunc_normal_,
    foreach_uniform_,
    normal_,
    trunc_normal_,
    uniform_,
)
from initstats.init.foreach import (
    foreach_kaiming_normal_,
    foreach_kaiming_uniform_,
    foreach_variance_scaling_,
    foreach_xavier_normal_,
    foreach_xavier_uniform_,
)
from initstats.init.gains import calculate_gain
from initstats.planning.initialize import Receipt, init_
from initstats.init.keys import key_of
from initstats.planning.lsuv import LsuvReport, lsuv_
from initstats.statistics.compute import stats
from initstats.monitoring import Monitor
from initstats.init.orthogonal_blocks import orthogonal_block_
from initstats.init.orthogonal_fills import delta_orthogonal_, orthogonal_
from initstats.planning.planner import Plan, plan
from initstats.recipes import Match, Recipe, Rule
from initstats.statistics.record import Stats
from initstats.statistics.table import StatsTable
from initstats.init.xavier_kaiming import (
    kaiming_normal_,
    kaiming_uniform_,
    xavier_normal_,
    xavier_uniform_,
)
from initstats.statistics.slices import SliceStats
from initstats.init.sparse_fills import sparse_
from initstats.planning.transfer import WarmStart, init_new_, lora_from_weight_, warm_start_
from initstats.init.variance_scaling import (
    lecun_normal_,
    lecun_uniform_,
    truncated_normal_,
    variance_scaling_,
)
from initstats.verification.verifier import VerifyReport, verify

# torch's private name, which much user code calls.
_calculate_fan_in_and_fan_out = calculate_fan_in_and_fan_out

__version__ = "0.1.0"

__all__ = [
    "AccelerationReport",
    "AuditReport",
    "AuditRule",
    "Fans",
    "FastInit",
    "Finding",
    "LsuvReport",
    "Match",
    "Monitor",
    "Plan",
    "Receipt",
    "Recipe",
    "Rule",
    "SliceStats",
    "Stats",
    "StatsTable",
    "VerifyReport",
    "WarmStart",
    "audit",
    "calculate_fan_in_and_fan_out",
    "calculate_gain",
    "constant",
    "constant_",
    "delta_orthogonal_",
    "dirac",
    "dirac_",
    "ensemble",
    "eye",
    "eye_",
    "fast_init",
    "foreach_kaiming_normal_",
    "foreach_kaiming_uniform_",
    "foreach_normal_",
    "foreach_trunc_normal_",
    "foreach_uniform_",
    "foreach_variance_scaling_",
    "foreach_xavier_normal_",
    "foreach_xavier_uniform_",
    "identity_",
    "init_",
    "init_new_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "key_of",
    "lecun_normal_",
    "lecun_uniform_",
    "lora_from_weight_",
    "lsuv_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "orthogonal_block_",
    "plan",
    "recipes",
    "sinks",
    "sparse",
    "sparse_",
    "stats",
    "trunc_normal_",
    "truncated_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "verify",
    "warm_start_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]
