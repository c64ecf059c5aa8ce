"""Reductions over simulated ranks: in any order, flat or by nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from initstats.statistics.reduction import Array, Message, Messages

Combine = Callable[[Sequence[Array], Callable[[Array, Array], Array]], Array]


def in_order(order: Sequence[int]) -> Combine:
    """Reduce rank after rank in this order."""
    return lambda arrays, op: reduce(op, [arrays[i] for i in order])


def by_nodes(size: int) -> Combine:
    """Reduce within nodes of so many ranks first, then over the nodes, the last one first."""

    def combine(arrays: Sequence[Array], op: Callable[[Array, Array], Array]) -> Array:
        nodes = [reduce(op, arrays[i : i + size]) for i in range(0, len(arrays), size)]
        return reduce(op, nodes[::-1])

    return combine


def run_ranks(
    ranks: Sequence[Messages], combine: Combine | None = None, sent: list[Message] | None = None
) -> list[Any]:
    """Run all ranks in lockstep.

    Args:
        ranks: What the ranks do.
        combine: How arrays become one; in the order of the ranks by default.
        sent: Gets the messages of the first rank.

    Returns:
        What each returned, or the exception that it raised.
    """
    combine = combine or in_order(range(len(ranks)))
    answers: list[Array | None] = [None] * len(ranks)
    results: list[Any] = [None] * len(ranks)
    while True:
        messages: list[Message] = []
        for i, rank in enumerate(ranks):
            message, results[i] = advance(rank, answers[i])
            if message is not None:
                messages.append(message)
        if not messages:
            return results
        assert len(messages) == len(ranks), "some ranks have ended, others wait for them: a hang"
        assert len({(m.op, m.data.shape, m.data.dtype) for m in messages}) == 1, "a hang"
        if sent is not None:
            sent.append(messages[0])
        with np.errstate(all="raise"):
            op = np.minimum if messages[0].op == "min" else np.add
            whole = combine([m.data for m in messages], op)
        answers = [whole.copy() for _ in ranks]


def advance(rank: Messages, answer: Array | None) -> tuple[Message | None, Any]:
    """Return the next message of a rank, or None and what it returned or raised."""
    try:
        return (next(rank) if answer is None else rank.send(answer)), None
    except StopIteration as stop:
        return None, stop.value
    except ValueError as error:
        return None, error
