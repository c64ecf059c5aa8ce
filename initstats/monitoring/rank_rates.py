"""Learning rates and calls of modules over ranks: what all have, and which have others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from initstats.monitoring.row import Row

MOST_RANKS = 16  # with other learning rates that are named


def common_rates(
    of_ranks: Mapping[int, Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the learning rates that most ranks have, and those of the ranks that have others.

    Args:
        of_ranks: By rank and name; a rank may have no rates, or others by other names. Those that
            are not finite are left out.

    Returns:
        By name the rate that most have, of several the one of the first rank; and by rank, as
        "rank 3", and name the others, of 16 ranks at most.
    """
    finite = {
        rank: {name: rate for name, rate in rates.items() if math.isfinite(rate)}
        for rank, rates in of_ranks.items()
    }
    common: dict[str, float] = {}
    for name in dict.fromkeys(name for rates in finite.values() for name in rates):
        here = [rates[name] for rates in finite.values() if name in rates]
        common[name] = max(here, key=here.count)
    odd = {
        f"rank {rank}": {name: rate for name, rate in rates.items() if rate != common[name]}
        for rank, rates in finite.items()
    }
    named = [(who, rates) for who, rates in odd.items() if rates]
    return common, dict(named[:MOST_RANKS])


def mean_calls(rows: Sequence[Row]) -> dict[str, float]:
    """Return the calls per step of each module, the mean over the ranks that watch it.

    Args:
        rows: Rows of one rank each.
    """
    names = dict.fromkeys(name for row in rows for name in row.calls)
    having = {name: [row for row in rows if name in row.calls] for name in names}
    return {
        name: sum(row.calls[name] * row.measured for row in those)
        / max(1, sum(row.measured for row in those))
        for name, those in having.items()
    }
