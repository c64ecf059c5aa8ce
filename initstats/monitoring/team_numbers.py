"""What rides in the messages of a row beside records: steps, learning rates, calls of modules."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np

from initstats.monitoring.rank_rates import common_rates
from initstats.monitoring.row import Row, Taken
from initstats.monitoring.steps_taken import Parted, parted
from initstats.monitoring.team import Team
from initstats.statistics.record_array import Floats, Integers
from initstats.statistics.reduction import Array, Contribution, Message, first_message

_STEPS = 2  # steps of the optimizer, and idle calls
_END = 2  # in the place after them: the last measured step
_RATES = 3  # the place of the first learning rate
_SEEN = 6  # number of the row, the first four fields of `Taken`, and the last measured step


def numbers_of(
    team: Team, taken: Taken | None, last: int | None, rates: Mapping[str, float]
) -> Floats:
    """Return what this rank should have alike with others, `[n]`; infinite where it has none.

    Args:
        team: The ranks.
        taken: Steps of the optimizer of this rank.
        last: Its last measured step.
        rates: Its learning rates.
    """
    numbers = np.full(_RATES + len(team.rates), math.inf)
    if last is not None:
        numbers[_END] = last
    numbers[_RATES:] = [_finite(rates.get(name, math.inf)) for name in team.rates]
    if taken is not None:
        steps = taken.updates - taken.usual * taken.step, taken.idle
        numbers[:_STEPS] = np.array(steps) - team.apart
    return numbers


def _finite(rate: float) -> float:
    return rate if math.isfinite(rate) else math.inf


@dataclass(frozen=True, eq=False)
class Numbers:
    """What the ranks have sent of numbers that should be alike.

    Attributes:
        low: The smallest of each, `[n]`; infinite where no rank has one.
        differing: Which are not alike, bool `[n]`.
    """

    low: Floats
    differing: Array

    @property
    def differ_in_steps(self) -> bool:
        """Whether ranks have taken other steps than the rest."""
        return bool(self.differing[:_STEPS].any())

    @property
    def differ_in_ends(self) -> bool:
        """Whether some ranks have not measured the last steps of others."""
        return bool(self.differing[_END])


def agree(
    contribution: Contribution, numbers: Floats, room: int
) -> Generator[Message, Array, tuple[Array, Numbers]]:
    """Send the first message of a row.

    Args:
        contribution: What this rank adds.
        numbers: As `numbers_of` returned them.
        room: Records that the message has room for.

    Yields:
        The message.

    Returns:
        The message, reduced, and the numbers of all ranks.
    """
    records = first_message(contribution, room)
    both = np.concatenate((numbers, np.where(np.isinf(numbers), math.inf, -numbers)))
    agreed = yield Message("min", np.concatenate((records, both)))
    low, minus_high = np.split(agreed[len(records) :], 2)
    return agreed[: len(records)], Numbers(low, np.isfinite(low) & (low != -minus_high))


def look(
    team: Team, row: float, taken: Taken | None, last: int | None
) -> Generator[Message, Array, tuple[Floats, Parted, Floats]]:
    """Look at which row every rank is, and who of those at the next one has taken other steps.

    Args:
        team: The ranks.
        row: Number of the row of this rank.
        taken: Its steps, None where it counts none.
        last: Its last measured step, None without any.

    Yields:
        One message.

    Returns:
        The number of the row of each rank, which of those at the least of them have parted, and the
        last measured step of each, infinite without any.
    """
    own: Floats = np.full((_SEEN, len(team.ranks)), math.inf)
    own[0, team.ranks.index(team.rank)] = row
    if last is not None:
        own[-1, team.ranks.index(team.rank)] = last
    if taken is not None:
        updates, idle = np.array((taken.updates, taken.idle)) - team.apart
        own[1:-1, team.ranks.index(team.rank)] = taken.step, updates, idle, taken.usual
    seen: Array = (yield Message("min", own.ravel())).reshape(own.shape)
    here: Mapping[int, Taken] = {
        rank: Taken(*map(int, numbers))
        for rank, its_row, *numbers in zip(team.ranks, *seen[:-1].tolist(), strict=True)
        if its_row == seen[0].min() and not math.isinf(numbers[0])
    }
    found = parted(here)
    updates, idle = found.apart.get(team.rank, (0, 0))
    team.apart = team.apart[0] + updates, team.apart[1] + idle
    return seen[0], found, seen[-1]


def learning_rates(
    team: Team, numbers: Numbers, own: Mapping[str, float]
) -> Generator[Message, Array, tuple[dict[str, float], dict[str, dict[str, float]]]]:
    """Return the learning rates that most ranks have, and those of ranks that have others.

    Args:
        team: The ranks.
        numbers: As `agree` returned them.
        own: The learning rates of this rank, empty where it is not in the row.

    Yields:
        One message where learning rates differ.

    Returns:
        As `common_rates`.
    """
    alike = dict(zip(team.rates, numbers.low[_RATES:].tolist(), strict=True))
    rates = {name: rate for name, rate in alike.items() if math.isfinite(rate)}
    which = np.flatnonzero(numbers.differing[_RATES:]).tolist()
    if not which:
        return rates, {}
    names = [team.rates[i] for i in which]
    seen = np.full((len(team.ranks), len(names)), math.inf)
    seen[team.ranks.index(team.rank)] = [_finite(own.get(name, math.inf)) for name in names]
    seen = (yield Message("min", seen.ravel())).reshape(-1, len(names))
    each = zip(team.ranks, seen.tolist(), strict=True)
    common, others = common_rates({r: dict(zip(names, here, strict=True)) for r, here in each})
    return rates | common, others


_CALLS_BITS = 40  # of an int64, below the number of steps: sums stay exact for 2**23 steps of ranks


def calls_message(team: Team, row: Row | None) -> Integers:
    """Return how often this rank called each module, and in how many steps, in one int64 each."""
    found = np.zeros(len(team.modules), dtype=np.int64)
    if row is not None:
        for i, name in enumerate(team.modules):
            if name in row.calls:
                calls = round(row.calls[name] * row.measured)
                found[i] = (row.measured << _CALLS_BITS) + calls
    return found


def calls_of(team: Team, message: Integers) -> dict[str, float]:
    """Return the calls per step of each module, the mean over the ranks that watch it."""
    steps, calls = message >> _CALLS_BITS, message & ((1 << _CALLS_BITS) - 1)
    counted = zip(team.modules, calls.tolist(), steps.tolist(), strict=True)
    return {name: n / k for name, n, k in counted if k}
