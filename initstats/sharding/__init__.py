"""Shards: where the local tensor of a rank lies in the whole tensor."""

from __future__ import annotations

from initstats._public import claim_classes
from initstats.sharding.agreement import agreed
from initstats.sharding.box import Box, Piece, Run, pieces_of
from initstats.sharding.domain import Domain
from initstats.sharding.dtensor import (
    PLAIN_TYPES,
    is_dtensor,
    is_gathered,
    is_held,
    local_boxes,
    local_runs,
    local_tensor,
)
from initstats.sharding.fsdp import (
    GatheredParameter,
    gathered_parameters,
    reset_sharded_parameters,
    sharded_parameters,
)
from initstats.sharding.peers import is_first_of, tensor_parallel_ranks
from initstats.sharding.placements import runs_of
from initstats.sharding.refusals import (
    engine_loaded,
    is_managed,
    refuse_managed,
    refuse_subclass,
    reshard,
    unsharded_copies,
)
from initstats.sharding.spread import Spread

__all__ = [
    "PLAIN_TYPES",
    "Box",
    "Domain",
    "GatheredParameter",
    "Piece",
    "Run",
    "Spread",
    "agreed",
    "engine_loaded",
    "gathered_parameters",
    "is_dtensor",
    "is_first_of",
    "is_gathered",
    "is_held",
    "is_managed",
    "local_boxes",
    "local_runs",
    "local_tensor",
    "pieces_of",
    "refuse_managed",
    "refuse_subclass",
    "reset_sharded_parameters",
    "reshard",
    "runs_of",
    "sharded_parameters",
    "tensor_parallel_ranks",
    "unsharded_copies",
]

claim_classes(__name__, globals())
