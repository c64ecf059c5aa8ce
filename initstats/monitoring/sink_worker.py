"""Threads that write rows to sinks, each from its own bounded queue."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from initstats.monitoring.row import Row

LOG = logging.getLogger("initstats.monitor")
_QUEUED_ROWS = 64
_FAILURES = 3
_STOP = object()


@runtime_checkable
class Sink(Protocol):
    """Where rows go. A method `close()` is called at the end if there is one.

    `resume(step)`, if there is one, is called before the first row of a run that goes on after that
    step: what was written for later steps comes again.
    """

    def write(self, row: Row) -> None:
        """Take one row; called from a thread of its own, row by row, and may raise or block."""


@dataclass(eq=False)
class _Shared:
    """One sink of one or several monitors: they write in turn, and the last one closes it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


_SHARED: dict[int, _Shared] = {}
_SHARED_LOCK = threading.Lock()


class Feed:
    """The queue and the thread of one sink.

    Exceptions are logged to `initstats.monitor`; three in a row disable the sink. A sink that is
    too slow loses the newest rows, which are counted. A sink that several monitors share is written
    to by one at a time, and closed by the last.

    Args:
        sink: The sink.
        after: Step after which a run goes on, None for one that begins.

    Attributes:
        written: Rows that the sink took.
        lost: Rows that found the queue full or the sink given up.
        failures: Rows in a row at which it raised.
        error: What it raised last.
    """

    def __init__(self, sink: Sink, after: int | None = None) -> None:
        self.sink = sink
        self._after = after
        self.written = 0
        self.lost = 0
        self.failures = 0
        self.error: Exception | None = None
        self._stopping = False
        self._queue: queue.Queue[Any] = queue.Queue(_QUEUED_ROWS)
        with _SHARED_LOCK:
            self._shared = _SHARED.setdefault(id(sink), _Shared())
            self._shared.users += 1
        name = f"initstats {type(sink).__name__}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def given_up(self) -> bool:
        """True when the sink raised too often."""
        return self.failures >= _FAILURES

    def put(self, row: Row) -> None:
        """Queue a row, or count it as lost; never waits."""
        if self.given_up:
            self.lost += 1
            return
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.lost += 1
            if self.lost == 1:
                LOG.warning("%s is too slow: rows are lost", type(self.sink).__name__)

    def drain(self, timeout: float) -> bool:
        """Wait until the rows that are queued are written.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False if they were not in time.
        """
        until = time.monotonic() + timeout
        passed = threading.Event()
        try:
            self._queue.put(passed, timeout=timeout)
        except queue.Full:
            return False
        return passed.wait(max(0.0, until - time.monotonic()))

    def close(self, timeout: float) -> bool:
        """Let the thread finish; may be called again when it has not.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            True when the thread has ended.
        """
        if not self._stopping:
            try:
                self._queue.put(_STOP, timeout=timeout)
            except queue.Full:
                return False
            self._stopping = True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._resume()
        while (row := self._queue.get()) is not _STOP:
            if isinstance(row, threading.Event):
                row.set()
                continue
            if self.given_up:
                self.lost += 1
                continue
            try:
                with self._shared.lock:
                    self.sink.write(row)
            except Exception as error:  # noqa: BLE001  # a sink must never end training
                self._failed(error)
            else:
                self.written += 1
                self.failures = 0
            row = None
        self._close()

    def _close(self) -> None:
        """Close the sink, unless another monitor writes to it."""
        with _SHARED_LOCK:
            self._shared.users -= 1
            is_last = self._shared.users == 0
            if is_last:
                del _SHARED[id(self.sink)]
        close = getattr(self.sink, "close", None)
        if is_last and close is not None:
            try:
                with self._shared.lock:
                    close()
            except Exception as error:  # noqa: BLE001  # a sink must never end training
                self._failed(error)

    def _resume(self) -> None:
        """Tell the sink which step a run goes on after."""
        resume = getattr(self.sink, "resume", None)
        if self._after is not None and resume is not None:
            try:
                with self._shared.lock:
                    resume(self._after)
            except Exception as error:  # noqa: BLE001
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.error = error
        self.failures += 1
        self.lost += 1
        name = type(self.sink).__name__
        LOG.warning("%s raised %s: %s", name, type(error).__name__, error)
        if self.failures == _FAILURES:
            LOG.warning("%s is given up after %d failures in a row", name, _FAILURES)
