"""Fast initialisers, fused statistics of every layer, an audit of how a model starts."""

from initstats import recipes, sinks
from initstats.auditing import AuditReport, AuditRule, Finding, audit
from initstats.constant_fills import constant_, dirac_, eye_, identity_, ones_, zeros_
from initstats.deprecated_names import (
    constant,
    dirac,
    eye,
    kaiming_normal,
    kaiming_uniform,
    normal,
    orthogonal,
    uniform,
    xavier_normal,
    xavier_uniform,
)
from initstats.fans import Fans, calculate_fan_in_and_fan_out
from initstats.fills import (
    foreach_normal_,
    foreach_trunc_normal_,
    foreach_uniform_,
    normal_,
    trunc_normal_,
    uniform_,
)
from initstats.gains import calculate_gain
from initstats.initialising import Receipt, init_
from initstats.keys import key_of
from initstats.monitoring import Monitor
from initstats.orthogonal_fills import orthogonal_
from initstats.planning import Plan, plan
from initstats.recipes import Match, Recipe, Rule
from initstats.record import Stats
from initstats.records import StatsTable, stats
from initstats.scaled_fills import (
    kaiming_normal_,
    kaiming_uniform_,
    xavier_normal_,
    xavier_uniform_,
)
from initstats.variance_scaling import (
    lecun_normal_,
    lecun_uniform_,
    truncated_normal_,
    variance_scaling_,
)
from initstats.verifying import VerifyReport, verify

# torch's private name, which much user code calls.
_calculate_fan_in_and_fan_out = calculate_fan_in_and_fan_out

__version__ = "0.1.0"

__all__ = [
    "AuditReport",
    "AuditRule",
    "Fans",
    "Finding",
    "Match",
    "Monitor",
    "Plan",
    "Receipt",
    "Recipe",
    "Rule",
    "Stats",
    "StatsTable",
    "VerifyReport",
    "audit",
    "calculate_fan_in_and_fan_out",
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "foreach_normal_",
    "foreach_trunc_normal_",
    "foreach_uniform_",
    "identity_",
    "init_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "key_of",
    "lecun_normal_",
    "lecun_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "plan",
    "recipes",
    "sinks",
    "stats",
    "trunc_normal_",
    "truncated_normal_",
    "uniform",
    "uniform_",
    "variance_scaling_",
    "verify",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]
