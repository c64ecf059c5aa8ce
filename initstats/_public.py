"""Public names: the package that has each, and the module that public classes name as theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Packages whose public names `initstats` offers from the first use on, and those names.
LATE = {
    "auditing": ("AuditReport", "AuditRule", "Finding", "audit"),
    "monitoring": ("Monitor",),
    "patch": ("AccelerationReport", "FastInit", "fast_init"),
    "planning": (
        "LsuvReport",
        "Plan",
        "Receipt",
        "WarmStart",
        "ensemble",
        "init_",
        "init_new_",
        "lora_from_weight_",
        "lsuv_",
        "plan",
        "warm_start_",
    ),
    "recipes": ("Match", "Recipe", "Rule"),
    "sinks": (),
    "verification": ("VerifyReport", "verify"),
}
_AT_THE_TOP = {
    *(name for names in LATE.values() for name in names),
    *("Fans", "SliceStats", "Stats", "StatsTable"),
}


def claim_classes(package: str, namespace: Mapping[str, Any]) -> None:
    """Let the public classes of a package name `initstats`, or the package, as their module.

    Pickles and messages then hold the public name, whatever file the class lives in.

    Args:
        package: Full name of the package.
        namespace: Its globals, with `__all__`.
    """
    for name in namespace["__all__"]:
        value = namespace[name]
        if isinstance(value, type) and value.__module__.startswith("initstats."):
            value.__module__ = "initstats" if name in _AT_THE_TOP else package
