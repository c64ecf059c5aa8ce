"""Fast initialisers, fused statistics of every layer, an audit of how a model starts."""

from initstats import recipes
from initstats.auditing import AuditReport, AuditRule, Finding, audit
from initstats.fills import (
    foreach_normal_,
    foreach_trunc_normal_,
    foreach_uniform_,
    normal_,
    trunc_normal_,
    uniform_,
)
from initstats.initialising import Receipt, init_
from initstats.keys import key_of
from initstats.orthogonal import orthogonal_
from initstats.planning import Plan, plan
from initstats.recipes import Match, Recipe, Rule
from initstats.record import Stats
from initstats.records import StatsTable, stats
from initstats.verifying import VerifyReport, verify

__version__ = "0.1.0"

__all__ = [
    "AuditReport",
    "AuditRule",
    "Finding",
    "Match",
    "Plan",
    "Receipt",
    "Recipe",
    "Rule",
    "Stats",
    "StatsTable",
    "VerifyReport",
    "audit",
    "foreach_normal_",
    "foreach_trunc_normal_",
    "foreach_uniform_",
    "init_",
    "key_of",
    "normal_",
    "orthogonal_",
    "plan",
    "recipes",
    "stats",
    "trunc_normal_",
    "uniform_",
    "verify",
]
