"""Steps of optimizers beside calls of monitor.step(): which ranks have left out some of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from initstats.monitoring.row import Taken


class StepsTaken:
    """Counts the steps of optimizers between two calls of `Monitor.step`. In the training thread.

    Of several optimizers the one with the most steps counts; of those that take turns, as in
    adversarial training, all do. A call without any step of an optimizer, which a scaler may have
    skipped, counts as a usual one, and as idle. Nothing is told before the first step of an
    optimizer.

    Attributes:
        caught_up: Steps by which the number of the step was moved on, because this rank had left
            out calls of `Monitor.step`.
    """

    def __init__(self) -> None:
        self.caught_up = 0
        self._since: dict[int, int] = {}
        self._known: set[int] = set()
        self._one_at_a_time = True
        self._updates = self._idle = self._usual = 0

    def note(self, optimizer: object) -> None:
        """Note that an optimizer has stepped."""
        self._since[id(optimizer)] = self._since.get(id(optimizer), 0) + 1

    def end_step(self) -> None:
        """Note that `Monitor.step` was called."""
        taken = self._count()
        self._since.clear()
        if not taken:
            taken = self._usual
            self._idle += 1
        elif not self._updates:  # of idle calls before it, each counts as a usual one too
            self._usual = taken
            self._updates = self._idle * taken
        self._usual = min(self._usual, taken)
        self._updates += taken

    def _count(self) -> int:
        """Return the steps since the last call: all of optimizers that take turns, else the most.

        They do if no two of them had stepped between two calls when the second one came up.
        """
        is_new = bool(self._since.keys() - self._known)
        if is_new:
            self._one_at_a_time &= len(self._since) == 1
            self._known |= self._since.keys()
        count = sum if self._one_at_a_time else max
        return count(self._since.values()) if self._since else 0

    def taken(self, step: int, behind: int = 0, later: int = 0) -> Taken | None:
        """Return what a row says of it; None without any step of an optimizer.

        Args:
            step: Number of the last step of the row.
            behind: Calls of `Monitor.step` that were left out before what the row holds was
                measured, and made up for since.
            later: Steps that the monitor has gone on since the last one of the row.
        """
        if not self._updates:
            return None
        updates = self._updates + (behind - later) * self._usual
        return Taken(step, updates, self._idle, self._usual, self.caught_up - behind)


@dataclass(frozen=True)
class Parted:
    """Ranks that have taken other steps than the rest.

    Attributes:
        behind: Calls of `Monitor.step` that a rank has left out: its row is of a later step than
            that of the others.
        updates: By rank how many more steps its optimizer has taken, negative for fewer, where that
            is no left out call of `Monitor.step`.
        apart: Updates and idle calls that a rank of `updates` has more than the rest.
    """

    behind: Mapping[int, int] = field(default_factory=dict)
    updates: Mapping[int, int] = field(default_factory=dict)
    apart: Mapping[int, tuple[int, int]] = field(default_factory=dict)


def parted(taken: Mapping[int, Taken]) -> Parted:
    """Return which ranks have taken other steps than the rest, up to the same row.

    Args:
        taken: By rank, of those that count them.
    """
    if not taken:
        return Parted()
    # Those of a stage or a part of the model may take more than others take of theirs.
    usual = {rank: each.usual for rank, each in taken.items()}
    # Some may have closed their monitor before the last step of the row.
    updates = {rank: each.updates - each.usual * each.step for rank, each in taken.items()}
    common = min(updates.values())
    more = {rank: n - common for rank, n in updates.items()}
    behind = {rank: n // usual[rank] for rank, n in more.items() if n}
    if any(n % usual[rank] for rank, n in more.items()):  # single steps of several
        behind = {}
        common = _most_common(list(updates.values()))
    idle = _most_common([each.idle for each in taken.values()])
    apart = {
        rank: (0 if behind else updates[rank] - common, each.idle - idle)
        for rank, each in taken.items()
    }
    apart = {rank: two for rank, two in apart.items() if any(two)}
    return Parted(behind, {rank: n - i * usual[rank] for rank, (n, i) in apart.items()}, apart)


def _most_common(values: Sequence[int]) -> int:
    """Return the value that comes most often, of several the least."""
    return min(set(values), key=lambda value: (-values.count(value), value))


def ended(step: int) -> str:
    """Return in words that a rank has measured only the first steps of a row."""
    return f"has measured nothing after step {step}"


def left_out(steps: int) -> str:
    """Return in words that a rank has left out calls of `Monitor.step`."""
    return f"has left out {steps} monitor.step()"
