"""Report of a `fast_init` block: fills that ran here, fills left to torch, and why."""

from __future__ import annotations

import threading
from collections import Counter


class AccelerationReport:
    """The calls of fills inside `fast_init`; its text is a table of them.

    Attributes:
        accelerated: Calls that ran here, by the name of the function.
        elements: How many elements they wrote, on this rank, by the name of the function.
        left: Calls that torch did itself, by the name of the function and the reason.
    """

    def __init__(self) -> None:
        self.accelerated: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()
        self.left: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, function: str, elements: int) -> None:
        """Count a call that ran here."""
        with self._lock:
            self.accelerated[function] += 1
            self.elements[function] += elements

    def leave(self, function: str, reason: str) -> None:
        """Count a call that was left to torch."""
        with self._lock:
            self.left[function, reason] += 1

    def __str__(self) -> str:
        lines = [
            f"{name:<18} {calls:>7} calls  {self.elements[name]:>15,} elements"
            for name, calls in sorted(self.accelerated.items())
        ]
        lines += [
            f"{name:<18} {calls:>7} calls  left to torch: {reason}"
            for (name, reason), calls in sorted(self.left.items())
        ]
        return "\n".join(lines) or "no fills"
