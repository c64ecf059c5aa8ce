"""Verify the weights of a model against a recipe."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.verification.entry import VerifyEntry
from initstats.verification.verifier import VerifyReport, verify

__all__ = [
    "VerifyEntry",
    "VerifyReport",
    "verify",
]

claim_classes(__name__, globals())
