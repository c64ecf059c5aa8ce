"""Rule on ranks: one whose gradient norm, before the reduction, leaves those of the others."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from initstats.diagnostics.findings import Finding
from initstats.text import number

_SOURCE = "norms of each rank before the reduction: the noise scale, arXiv 1812.06162"
# Standard deviation of a normal distribution over the median of its absolute values.
_NORMAL = 1.4826


class RankNorms:
    """Compare the norms of local gradients of ranks that hold the same parameters.

    Ranks see different data, so their norms differ. What is usual is learnt: the logarithms of
    norms over the median of their row, from all ranks of the rows before. A rank leaves the others
    when its norm is `factor` times the median or a `factor`-th of it, and the logarithm lies
    `scales` standard deviations away, which are estimated from the median deviation. Log-normal
    norms, whose logarithms have standard deviations from 0.05 to 2, raise no alarm in 10**5 norms
    of 3, 4 and 16 ranks, nor in 10**6 of 512 (tests/monitoring/test_monitoring_rank_norms.py). Of
    two ranks nothing tells which has left.

    Args:
        factor: Multiple of the median.
        scales: Standard deviations.
        least: Norms of earlier rows before the rule says anything.
        history: Norms that are kept.
    """

    def __init__(
        self, factor: float = 4.0, scales: float = 8.0, least: int = 32, history: int = 4096
    ) -> None:
        self._factor = math.log(factor)
        self._scales = scales
        self._least = least
        self._past: deque[float] = deque(maxlen=history)

    def state_dict(self) -> dict[str, Any]:
        """Return the logarithms that are kept, float64 `[at most history]`."""
        return {"past": torch.tensor(list(self._past), dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._past.clear()
        self._past.extend(state["past"].tolist())

    def check(
        self,
        norms: Mapping[int, float],
        alike: Sequence[Sequence[int]],
        peers: Mapping[int, Sequence[int]] | None = None,
    ) -> Iterator[Finding]:
        """Judge one row.

        Args:
            norms: Of the ranks that measured some.
            alike: Ranks that hold the same parameters, together.
            peers: The ranks that a norm is of, by the first of them, where it is of several.
        """
        known = len(self._past) >= self._least
        usual = _NORMAL * float(np.median(self._past)) if known else 0.0
        bound = max(self._factor, self._scales * usual)
        new: list[float] = []
        for ranks in alike:
            here = [rank for rank in ranks if math.isfinite(norms.get(rank, math.nan))]
            if len(here) < _FEWEST:
                continue
            logs = np.log([norms[rank] for rank in here])
            middle = float(np.median(logs))
            new += [away for away in np.abs(logs - middle).tolist() if away > 0]
            for rank, log in zip(here, logs.tolist(), strict=True):
                if known and abs(log - middle) > bound:
                    sign = 1 if log > middle else -1
                    which = tuple((peers or {}).get(rank, (rank,)))
                    yield _finding(which, norms[rank], math.exp(middle), sign * bound)
        self._past.extend(new)


_FEWEST = 3  # ranks of which one can leave the others


def norms_of_peers(
    norms: Mapping[int, float], peers: Mapping[int, Sequence[int]]
) -> dict[int, float]:
    """Return the norms of ranks that share a batch, by the first of them, of those that have any.

    Args:
        norms: Of what each rank counts, by rank.
        peers: Ranks that share a batch, by the first of them.
    """
    found = {
        first: [norms[rank] for rank in ranks if rank in norms] for first, ranks in peers.items()
    }
    return {first: math.hypot(*each) for first, each in found.items() if each}


def _finding(ranks: tuple[int, ...], norm: float, median: float, bound: float) -> Finding:
    who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
    return Finding(
        rule="rank-gradient-norm",
        severity="warning",
        where=who,
        value=norm,
        threshold=math.exp(bound) * median,
        cause=f"the gradient norm of {who} before the reduction is {number(norm)}, the median"
        f" of the ranks {number(median)}",
        fix="look at the data and the memory of that rank, and at how it scales its loss",
        source=_SOURCE,
    )
