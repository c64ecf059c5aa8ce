"""Sink for a live table in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.live import Live

from initstats.monitoring.row import Row
from initstats.sinks.extras import refuse_pickle
from initstats.sinks.row_table import row_table


class Rich:
    """Show the last row, in place.

    Args:
        console: Where; None for the terminal's error stream, which keeps the output of a program
            apart.
        most: Lines per table at most.
    """

    def __init__(self, console: Console | None = None, most: int = 30) -> None:
        self._is_default = console is None
        self._console = console or Console(stderr=True)
        self._most = most
        self._live: Live | None = None

    def write(self, row: Row) -> None:
        """Show a row in place of the last."""
        shown = row_table(row, self._most)
        if self._live is None:
            self._live = Live(shown, console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(shown, refresh=True)

    def close(self) -> None:
        """Leave the last row on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __getstate__(self) -> dict[str, Any]:
        if not self._is_default:
            refuse_pickle("sinks.Rich", "a console", "make it in the process that writes")
        return {"most": self._most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(most=state["most"])  # type: ignore[misc]
