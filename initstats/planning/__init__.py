"""Plan, initialise and reproduce: recipes applied to models, with receipts."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.planning.ensembles import ensemble
from initstats.planning.entry import PlanEntry
from initstats.planning.initialize import init_
from initstats.planning.lsuv import LsuvReport, lsuv_
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt
from initstats.planning.transfer import (
    init_new_,
    lora_from_weight_,
)
from initstats.planning.warm_starts import WarmStart, warm_start_

__all__ = [
    "LsuvReport",
    "Plan",
    "PlanEntry",
    "Receipt",
    "WarmStart",
    "ensemble",
    "init_",
    "init_new_",
    "lora_from_weight_",
    "lsuv_",
    "plan",
    "warm_start_",
]

claim_classes(__name__, globals())
