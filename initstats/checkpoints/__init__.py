"""Read checkpoints, and build skeleton modules that hold their tensors, without running code."""

from __future__ import annotations

from initstats.checkpoints.checkpoint import CHECKPOINT_KEYS, Checkpoint
from initstats.checkpoints.files import load_checkpoint
from initstats.checkpoints.skeletons import not_judged, skeleton

__all__ = ["CHECKPOINT_KEYS", "Checkpoint", "load_checkpoint", "not_judged", "skeleton"]
