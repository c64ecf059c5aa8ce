"""State of a monitor for checkpoints that others write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from initstats.monitoring import Monitor

LOG = logging.getLogger("initstats.monitor")
_RANKS = "ranks"


def state_or_nothing(monitor: Monitor | None) -> dict[str, Any]:
    """Return the state of a monitor; a checkpoint must not fail because a sink is slow.

    Args:
        monitor: The monitor, None before there is one.

    Returns:
        What `Monitor.state_dict` returns; empty, with a message in the log, when it timed out.
    """
    if monitor is None:
        return {}
    try:
        return monitor.state_dict()
    except TimeoutError as error:
        LOG.warning("the checkpoint holds no state of the monitor: %s", error)
        return {}


def state_of_ranks(monitor: Monitor | None) -> dict[str, Any]:
    """Return the states of all ranks, for a checkpoint that one of them writes.

    Each rank has measured a part of the open window. With a group it is a collective of that; every
    rank must call it.

    Args:
        monitor: The monitor of this rank, None before there is one.

    Returns:
        On the first rank of the group the states by global rank, on others their own among them;
        as `state_or_nothing` without a group.
    """
    own = state_or_nothing(monitor)
    if monitor is None or not dist.is_available() or not dist.is_initialized():
        return own
    states: dict[int, dict[str, Any]] = {dist.get_rank(): own}
    given = monitor._ranks.given  # noqa: SLF001  # of this package
    if given is None:
        return {_RANKS: states} if own and dist.get_world_size() > 1 else own
    for group in given.groups:
        first = dist.get_process_group_ranks(group)[0]
        parts: list[Any] | None = None
        if dist.get_rank() == first:
            parts = [None] * dist.get_world_size(group)
        dist.gather_object(states, parts, dst=first, group=group)
        states = {rank: state for part in parts or [states] for rank, state in part.items()}
    return {_RANKS: states} if any(states.values()) else {}


def state_of_this_rank(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this rank goes on from, of what `state_of_ranks` or a single monitor has saved.

    A rank that the checkpoint lacks, as it was late or is new, goes on at the same step as the
    others, without measurements of its own in the open window.
    """
    if _RANKS not in state:
        return dict(state)
    states: Mapping[int, dict[str, Any]] = state[_RANKS]
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    if own := states.get(rank):
        return own
    other = next((states[each] for each in sorted(states) if states[each]), None)
    return {} if other is None else of_another_rank(other)


def of_another_rank(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of another rank without what that one has measured."""
    LOG.warning("the checkpoint holds no state of the monitor of this rank: a row lacks its part")
    window = {**state["window"], "segments": [], "clipped": [], "losses": {}}
    return {**state, "window": window}
