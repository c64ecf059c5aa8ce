"""Shards: where the local tensor of a rank lies in the whole tensor."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.sharding.box import Box, Piece, Run, pieces_of
from initstats.sharding.dtensor import (
    is_dtensor,
    local_boxes,
    local_runs,
    local_tensor,
)
from initstats.sharding.placements import runs_of

__all__ = [
    "Box",
    "Piece",
    "Run",
    "is_dtensor",
    "local_boxes",
    "local_runs",
    "local_tensor",
    "pieces_of",
    "runs_of",
]

claim_classes(__name__, globals())
