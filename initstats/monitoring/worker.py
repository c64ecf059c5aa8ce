"""Thread that reads windows and hands rows to alerts and sinks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue

from initstats.monitoring.alerts import LOG, Alerts
from initstats.monitoring.reader import Measured, read_window
from initstats.monitoring.row import RankInfo, Row, Shard
from initstats.monitoring.row_part import part_of
from initstats.monitoring.sink_worker import Feed, Sink
from initstats.monitoring.window import Window

_WAITING_WINDOWS = 8
_WAITING_ROWS_OF_RANKS = 256
_TURN_SECONDS = 0.05
_ABANDONED_SECONDS = 10.0


class Delivery:
    """Reads windows in a thread of its own, and feeds one more thread per sink.

    Args:
        sinks: The sinks.
        alerts: Judges every row.
        after: Step after which a run goes on, None for one that begins.
        ranks: Which ranks the rows are of, None in a run of one process.
        shards: What a row of one rank holds of each parameter; with them windows end at the same
            steps on all ranks, and are never kept open.
        peers: Ranks that share a batch with this one, itself included.

    Attributes:
        feeds: One per sink.
        owed: Calls of `Monitor.step` that this rank has left out since it was attached, as far as
            the other ranks have told.
    """

    def __init__(
        self,
        sinks: Iterable[Sink],
        alerts: Alerts,
        after: int | None = None,
        ranks: RankInfo | None = None,
        shards: Mapping[str, Shard] | None = None,
        peers: Sequence[int] = (),
    ) -> None:
        self.feeds = tuple(Feed(sink, after) for sink in sinks)
        self.alerts = alerts
        self.owed = 0
        self._ranks = ranks
        self._shards, self._peers = shards, tuple(peers)
        self._last_time = 0.0
        self._has_lost_rows = False
        self._abandoned = False
        self._windows: SimpleQueue[Window | threading.Event | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="initstats reader", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """True when as many windows wait as should; of ranks that end them together never."""
        return self._shards is None and self._windows.qsize() >= _WAITING_WINDOWS

    def put(self, window: Window) -> None:
        """Take a closed window; never waits. Of too many the newest are dropped, and logged."""
        if self._windows.qsize() < _WAITING_ROWS_OF_RANKS:
            self._windows.put(window)
        elif not self._has_lost_rows:
            self._has_lost_rows = True
            LOG.warning("%d rows wait to be read: rows are lost", _WAITING_ROWS_OF_RANKS)

    def drain(self, timeout: float) -> bool:
        """Wait until what was put is read and written.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            False if the reader did not come to it in time.
        """
        until = time.monotonic() + timeout
        passed = threading.Event()
        self._windows.put(passed)
        if not passed.wait(timeout):
            return False
        for feed in self.feeds:
            feed.drain(max(0.0, until - time.monotonic()))
        return True

    def close(self, timeout: float) -> None:
        """Read and write what is left.

        Args:
            timeout: Seconds to wait at most, for all threads together.
        """
        until = time.monotonic() + timeout
        self._windows.put(None)
        self._thread.join(timeout)
        self._close_feeds(until)

    def abandon(self, window: Window | None) -> None:
        """Let the reader's thread write what is left and end; never waits, and takes no lock.

        Args:
            window: A closed window, the last one.
        """
        self._abandoned = True
        if window is not None:
            self._windows.put(window)
        self._windows.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end; for one that was abandoned."""
        self._thread.join(timeout)

    def _close_feeds(self, until: float) -> None:
        left = list(self.feeds)
        while True:  # in turns, so that one that blocks takes no time from the others
            left = [feed for feed in left if not feed.close(_TURN_SECONDS)]
            if not left or time.monotonic() >= until:
                break
        for feed in left:
            LOG.warning("%s blocks and is left behind", type(feed.sink).__name__)

    def _main(self) -> None:
        self._run()
        if self._abandoned:
            self._close_feeds(time.monotonic() + _ABANDONED_SECONDS)

    def _run(self) -> None:
        while (window := self._windows.get()) is not None:
            if isinstance(window, threading.Event):
                window.set()
            else:
                self._deliver(window)

    def _deliver(self, window: Window) -> None:
        try:
            row, measured = read_window(window)
            row = self.alerts.judge(self._of_this_rank(row, measured, window), measured)
        except Exception:  # noqa: BLE001  # reading must never end training
            LOG.exception("a row could not be read")
        else:
            for feed in self.feeds:
                feed.put(row)

    def _seconds(self, window: Window, steps: int) -> float:
        """Return the mean seconds of a measured step since the window before; 0 without one."""
        seconds = (window.wall_time - self._last_time) if self._last_time else 0.0
        self._last_time = window.wall_time
        return max(0.0, seconds) / max(1, steps)

    def _of_this_rank(self, row: Row, measured: Mapping[str, Measured], window: Window) -> Row:
        """Return a row with what tells of which rank it is, and of what part of the model."""
        if self._shards is None:
            return replace(row, ranks=self._ranks)
        seconds = self._seconds(window, row.measured)
        part = part_of(measured, self._peers, seconds, window.fingerprints)
        lost = tuple(s for s in row.steps if window.losses and s not in window.losses)
        part = replace(part, taken=window.taken, without_loss=lost)
        return replace(row, ranks=self._ranks, shards=self._shards, part=part)
