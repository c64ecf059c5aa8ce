"""Public names: the package that has each, and the module that public classes name as theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ForwardRef

# Packages whose public names `initstats` offers from the first use on, and those names.
LATE = {
    "auditing": ("AuditReport", "AuditRule", "Finding", "audit"),
    "coordinates": ("CoordReport", "coord_check"),
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
    *("Box", "Fans", "ReplicaReport", "SliceStats", "Stats", "StatsTable"),
}


def claim_classes(package: str, namespace: Mapping[str, Any]) -> None:
    """Let the public classes of a package name `initstats`, or the package, as their module.

    Pickles and messages then hold the public name, whatever file the class lives in.
    `typing.get_type_hints` evaluates the annotations in that file as before; `inspect.getsource`
    finds methods, and no longer the class, as for the classes of NumPy and JAX.

    Args:
        package: Full name of the package.
        namespace: Its globals, with `__all__`.
    """
    for name in namespace["__all__"]:
        value = namespace[name]
        home = value.__module__ if isinstance(value, type) else ""
        if home.startswith("initstats.") and home.count(".") > 1:  # a file: no package has it yet
            annotations: dict[str, Any] = vars(value).get("__annotations__", {})
            for field, hint in annotations.items():
                if isinstance(hint, str):
                    annotations[field] = ForwardRef(
                        hint, is_argument=False, module=home, is_class=True
                    )
            value.__module__ = "initstats" if name in _AT_THE_TOP else package
