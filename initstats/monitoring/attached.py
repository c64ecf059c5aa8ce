"""Take away what a monitor leaves in a model, in torch and in threads, when it is let go of."""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass

from initstats.monitoring.clipping import unlisten
from initstats.monitoring.hooks import Taps
from initstats.monitoring.local_gradients import LocalGradients
from initstats.monitoring.optimizers import Optimizers
from initstats.monitoring.scripting import end_scripting
from initstats.monitoring.window import Window
from initstats.monitoring.worker import Delivery

_ENDING: weakref.WeakSet[Delivery] = weakref.WeakSet()


@dataclass(eq=False)
class Attached:
    """What is alive of a monitor beside itself. Holds nothing that holds the monitor.

    Attributes:
        taps: Its hooks in the model.
        optimizers: Its hooks on optimizers.
        local: Its hooks on parameters, for gradients before a reduction.
        window: The open window.
        delivery: Its threads, None when it is not attached.
        process: The process that attached it.
    """

    taps: Taps
    optimizers: Optimizers
    local: LocalGradients
    window: Window
    delivery: Delivery | None = None
    process: int = 0

    def unhook(self) -> None:
        """Remove all hooks."""
        self.optimizers.detach()
        unlisten()
        self.local.end()
        self.taps.active = False
        self.taps.detach()
        end_scripting(self.taps)

    def abandon(self) -> None:
        """Remove the hooks and let the threads write what is left; never waits.

        Called when nobody holds the monitor any more: a cell of a notebook that ran again made a
        new one. It may be called by the garbage collector, in any thread.
        """
        self.unhook()
        delivery, self.delivery = self.delivery, None
        if delivery is None or os.getpid() != self.process:
            return
        _ENDING.add(delivery)
        last = self.window if self.window.last_step else None
        if last is not None:
            last.close()
        delivery.abandon(last)


def wait_for_abandoned(timeout: float = 10.0) -> None:
    """Wait until monitors that were let go of have written their rows; when the program ends.

    Args:
        timeout: Seconds to wait at most.
    """
    until = time.monotonic() + timeout
    for delivery in list(_ENDING):
        delivery.join(max(0.0, until - time.monotonic()))
