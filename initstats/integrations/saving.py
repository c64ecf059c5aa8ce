"""State of a monitor for checkpoints that others write."""

from __future__ import annotations

import logging
from typing import Any

from initstats.monitoring import Monitor

LOG = logging.getLogger("initstats.monitor")


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
