"""Numbers that ranks should have alike: they ride in the first message of a row."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping

import numpy as np

from initstats.monitoring.row import Taken
from initstats.monitoring.steps_taken import Parted, parted
from initstats.monitoring.team import Team
from initstats.statistics.record_array import Floats
from initstats.statistics.reduction import Array, Contribution, Message, first_message

_STEPS = 2  # steps of the optimizer, and idle calls
_SEEN = 5  # number of the row, and the first four fields of `Taken`


def numbers_of(team: Team, taken: Taken | None) -> Floats:
    """Return what this rank should have alike with others, `[n]`; infinite where it has none."""
    numbers = np.full(_STEPS, math.inf)
    if taken is not None:
        steps = taken.updates - taken.usual * taken.step, taken.idle
        numbers[:_STEPS] = np.array(steps) - team.apart
    return numbers


def agree(
    contribution: Contribution, numbers: Floats, room: int
) -> Generator[Message, Array, tuple[Array, Array]]:
    """Send the first message of a row.

    Args:
        contribution: What this rank adds.
        numbers: As `numbers_of` returned them.
        room: Records that the message has room for.

    Yields:
        The message.

    Returns:
        The message, reduced, and which numbers differ, bool `[n]`.
    """
    records = first_message(contribution, room)
    both = np.concatenate((numbers, np.where(np.isinf(numbers), math.inf, -numbers)))
    agreed = yield Message("min", np.concatenate((records, both)))
    low, minus_high = np.split(agreed[len(records) :], 2)
    return agreed[: len(records)], np.isfinite(low) & (low != -minus_high)


def differ_in_steps(differing: Array) -> bool:
    """Tell whether ranks have taken other steps than the rest."""
    return bool(differing[:_STEPS].any())


def look(
    team: Team, row: float, taken: Taken | None
) -> Generator[Message, Array, tuple[Floats, Parted]]:
    """Look at which row every rank is, and who of those at the next one has taken other steps.

    Args:
        team: The ranks.
        row: Number of the row of this rank.
        taken: Its steps, None where it counts none.

    Yields:
        One message.

    Returns:
        The number of the row of each rank, and which of those at the least of them have parted.
    """
    own: Floats = np.full((_SEEN, len(team.ranks)), math.inf)
    own[0, team.ranks.index(team.rank)] = row
    if taken is not None:
        updates, idle = np.array((taken.updates, taken.idle)) - team.apart
        own[1:, team.ranks.index(team.rank)] = taken.step, updates, idle, taken.usual
    seen: Array = (yield Message("min", own.ravel())).reshape(own.shape)
    here: Mapping[int, Taken] = {
        rank: Taken(*map(int, numbers))
        for rank, its_row, *numbers in zip(team.ranks, *seen.tolist(), strict=True)
        if its_row == seen[0].min() and not math.isinf(numbers[0])
    }
    found = parted(here)
    updates, idle = found.apart.get(team.rank, (0, 0))
    team.apart = team.apart[0] + updates, team.apart[1] + idle
    return seen[0], found
