"""Run third-party models' initialisation on initstats: `fast_init`."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.patch.context import FastInit, fast_init
from initstats.patch.report import AccelerationReport

__all__ = [
    "AccelerationReport",
    "FastInit",
    "fast_init",
]

claim_classes(__name__, globals())
