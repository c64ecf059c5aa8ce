"""Ranks that leave out steps, of the monitor or of the optimizer, also in four real processes.

Each check of processes is in tests/support/skipping_ranks.py.
"""

from __future__ import annotations

import pytest

import skipping_ranks
from gloo_ranks import Check, run_checks
from initstats.monitoring.row import Taken
from initstats.monitoring.steps_taken import Parted, StepsTaken, parted


def counted(*between: int) -> Taken | None:
    """Return what is counted where an optimizer steps so often from one step to the next."""
    steps, optimizer = StepsTaken(), object()
    for n in between:
        for _ in range(n):
            steps.note(optimizer)
        steps.end_step()
    return steps.taken(len(between))


def test_the_optimizer_with_the_most_steps_counts() -> None:
    steps = StepsTaken()
    for n in (1, 3):
        optimizer = object()
        for _ in range(n):
            steps.note(optimizer)
    steps.end_step()
    assert steps.taken(7) == Taken(7, 3, 0, 3)


def test_a_step_without_updates_counts_as_a_usual_one_and_as_idle() -> None:
    assert counted(0, 0) is None
    assert counted(5, 10, 5, 0) == Taken(4, 25, 1, 5)
    assert counted(0, 0, 5, 10, 0) == Taken(5, 30, 3, 5)


def test_optimizers_that_take_turns_count_together() -> None:
    steps, (first, second) = StepsTaken(), (object(), object())
    for each in ((first,), (second,), (first, second), (first,)):  # one left out
        for optimizer in each:
            steps.note(optimizer)
        steps.end_step()
    assert steps.taken(4) == Taken(4, 5, 0, 1)


def test_an_optimizer_that_steps_less_often_than_another_adds_nothing() -> None:
    steps, (first, second) = StepsTaken(), (object(), object())
    for each in ((first,), (first, second), (first,), (second,)):
        for optimizer in each:
            steps.note(optimizer)
        steps.end_step()
    assert steps.taken(4) == Taken(4, 4, 0, 1)


def test_ranks_that_have_left_out_steps_are_behind() -> None:
    assert parted({}) == Parted()
    assert parted(dict.fromkeys(range(4), Taken(8, 20, 1, 5))) == Parted()
    taken = {0: Taken(8, 9, 0, 1), 1: Taken(8, 8, 0, 1), 2: Taken(8, 11, 0, 1)}
    assert parted(taken) == Parted(behind={0: 1, 2: 3})
    # Parts of the model may have more steps of their optimizers than others.
    stages = {0: Taken(8, 40, 0, 5), 1: Taken(8, 8, 0, 1), 2: Taken(8, 50, 0, 5)}
    assert parted(stages) == Parted(behind={2: 2})
    # Of a row of which one has seen the beginning alone.
    early = {0: Taken(9, 9, 0, 1), 1: Taken(8, 8, 0, 1), 2: Taken(8, 9, 0, 1)}
    assert parted(early) == Parted(behind={2: 1})


def test_single_updates_are_told_of_the_few_ranks() -> None:
    taken = {0: Taken(8, 40, 0, 5), 1: Taken(8, 40, 0, 5), 2: Taken(8, 39, 0, 5)}
    assert parted(taken) == Parted(updates={2: -1}, apart={2: (-1, 0)})
    idle = {0: Taken(8, 8, 0, 1), 1: Taken(8, 8, 2, 1), 2: Taken(8, 8, 0, 1)}
    assert parted(idle) == Parted(updates={1: -2}, apart={1: (0, 2)})


@pytest.fixture(scope="module")
def wrong() -> dict[str, list[str]]:
    """What went wrong in each check, by rank."""
    return run_checks(skipping_ranks.CHECKS)


@pytest.mark.long
@pytest.mark.parametrize("check", skipping_ranks.CHECKS, ids=lambda check: check.__name__)
def test_on_every_rank(check: Check, wrong: dict[str, list[str]]) -> None:
    assert not wrong[check.__name__], "\n".join(wrong[check.__name__])
