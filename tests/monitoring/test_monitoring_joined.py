"""Files of four processes that are joined; each check is in tests/support/joining_ranks.py."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import joining_ranks
from gloo_ranks import Check, run_checks
from initstats.monitoring import Monitor
from initstats.monitoring.row import Part, Row, Taken
from initstats.sinks.row_text import SCHEMA, from_lines, to_lines
from initstats.statistics.record_array import COUNT_NAMES, MOMENT_NAMES, Records
from monitored import Kept, batch, small_model, train, wait_for


def row_with_steps() -> Row:
    """Return a row of two steps that keeps the records of each."""
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, optimizer=optimizer, every=1, window=2, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 2, batch)
        wait_for(kept, 1)
    (row,) = kept.rows
    by_step = {}
    for i, (kind, table) in enumerate(row.tables.items()):
        records = Records.empty(2, len(table))
        records.moments[:], records.counts[:] = np.pi + i, 7 + i
        records.moments[1, 0, 0] = np.nan
        by_step[kind] = row.steps, records
    taken = Taken(2, 3, 1, 2)
    return replace(row, part=Part((0,), 0.5, by_step=by_step, taken=taken))


def test_records_of_each_step_are_13_numbers_in_a_file_and_come_back() -> None:
    assert len(MOMENT_NAMES) + len(COUNT_NAMES) == 13
    row = row_with_steps()
    (again,) = from_lines(to_lines(row, set()))
    assert row.part is not None
    assert again.part is not None
    assert again.part.taken == row.part.taken
    for kind, (steps, records) in row.part.by_step.items():
        found_steps, found = again.part.by_step[kind]
        assert found_steps == steps == (1, 2)
        np.testing.assert_array_equal(found.moments, records.moments)
        n = len(COUNT_NAMES)
        np.testing.assert_array_equal(found.counts[..., :n], records.counts[..., :n])


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("taken", [2, 3, 1, 0, 0]),  # usual steps that nothing can be divided by
        ("taken", [2, 3]),
        ("by_step", {"weights": {"steps": [1, 1]}}),
        ("by_step", {"weights": {"steps": [1, 2], **{key: [[0.0]] for key in MOMENT_NAMES}}}),
    ],
)
def test_a_row_whose_part_is_wrong_is_passed_over(field: str, wrong: object) -> None:
    *names, line = to_lines(row_with_steps(), set())
    value = json.loads(line)
    assert value["schema"] == SCHEMA
    value["part"][field] = wrong
    assert list(from_lines([*names, json.dumps(value)])) == []


@pytest.fixture(scope="module")
def wrong() -> dict[str, list[str]]:
    """What went wrong in each check, by rank."""
    return run_checks(joining_ranks.CHECKS)


@pytest.mark.long
@pytest.mark.parametrize("check", joining_ranks.CHECKS, ids=lambda check: check.__name__)
def test_on_every_rank(check: Check, wrong: dict[str, list[str]]) -> None:
    assert not wrong[check.__name__], "\n".join(wrong[check.__name__])
