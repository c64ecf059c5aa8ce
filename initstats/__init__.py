"""Fast initialisers, fused statistics of every layer, an audit of how a model starts.

Fills and statistics are loaded here; everything else at its first use.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from initstats import init
from initstats._public import LATE
from initstats.init import *  # noqa: F403
from initstats.init import _calculate_fan_in_and_fan_out  # noqa: F401  # much user code calls it
from initstats.sharding import Box
from initstats.statistics import ReplicaReport, SliceStats, Stats, StatsTable, replicas_agree, stats

if TYPE_CHECKING:
    from initstats import recipes, sinks
    from initstats.auditing import AuditReport, AuditRule, Finding, audit
    from initstats.coordinates import CoordReport, coord_check
    from initstats.monitoring import Monitor
    from initstats.patch import AccelerationReport, FastInit, fast_init
    from initstats.planning import (
        LsuvReport,
        Plan,
        Receipt,
        WarmStart,
        ensemble,
        init_,
        init_new_,
        lora_from_weight_,
        lsuv_,
        plan,
        warm_start_,
    )
    from initstats.recipes import Match, Recipe, Rule
    from initstats.verification import VerifyReport, verify

__version__ = "0.1.0"

__all__ = [
    "AccelerationReport",
    "AuditReport",
    "AuditRule",
    "Box",
    "CoordReport",
    "FastInit",
    "Finding",
    "LsuvReport",
    "Match",
    "Monitor",
    "Plan",
    "Receipt",
    "Recipe",
    "ReplicaReport",
    "Rule",
    "SliceStats",
    "Stats",
    "StatsTable",
    "VerifyReport",
    "WarmStart",
    "audit",
    "coord_check",
    "ensemble",
    "fast_init",
    "init",
    "init_",
    "init_new_",
    "lora_from_weight_",
    "lsuv_",
    "plan",
    "recipes",
    "replicas_agree",
    "sinks",
    "stats",
    "verify",
    "warm_start_",
]
__all__ += init.__all__

_HOME = {name: package for package, names in LATE.items() for name in names}

if not TYPE_CHECKING:  # type checkers refuse unknown names

    def __getattr__(name: str) -> Any:
        """Import what has the name, at its first use."""
        if name in LATE:
            return importlib.import_module(f"initstats.{name}")
        if name not in _HOME:
            # With these two Python suggests the nearest name.
            message = f"module 'initstats' has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[__name__])
        value = getattr(importlib.import_module(f"initstats.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *LATE, *(name for name in globals() if name.startswith("__"))})
