"""A run that goes on: the same rows and alerts as of one that was never interrupted."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from initstats import sinks
from initstats.monitoring import GradientSpike, Monitor, Row, default_rules
from monitored import Kept, batch, small_model, train


def settings(kept: Any) -> dict[str, Any]:
    rules = [GradientSpike(factor=2.5), *default_rules()[2:]]
    return {"every": 2, "window": 3, "sinks": [kept], "rules": rules}


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def from_step(first: int, factor: float = 1.0) -> Any:
    return lambda i: batch(first + i) * (factor if first + i == 50 else 1.0)


def run(parts: list[int], factor: float = 1.0) -> list[Row]:
    """Train for the steps of all parts, each with a monitor of its own."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    kept, state, done = Kept(), None, 0
    for steps in parts:
        monitor = Monitor(model, optimizer=optimizer, **settings(kept))
        if state is not None:
            monitor.load_state_dict(saved(state))
        monitor.attach()
        train(model, optimizer, monitor, steps, from_step(done, factor))
        done += steps
        state = monitor.state_dict()
        if done < sum(parts):
            monitor._window = type(monitor._window)(True)  # the process ends: nothing is written
        monitor.close()
    return kept.rows


@pytest.mark.parametrize("parts", [[17, 43], [1, 2, 57], [30, 30]])
def test_a_run_that_goes_on_has_the_rows_of_one_that_was_not_interrupted(parts: list[int]) -> None:
    whole, split = run([60]), run(parts)
    assert [row.steps for row in split] == [row.steps for row in whole]
    for a, b in zip(whole, split, strict=True):
        assert np.array_equal(a.gradient_norm, b.gradient_norm)
        assert a.missing == b.missing
        for kind, table in a.tables.items():
            for name, record in table.items():
                assert record.to_dict() == b.tables[kind][name].to_dict()


def test_the_rule_on_spikes_goes_on_with_its_past_and_tells_once() -> None:
    whole, split = run([70], 30.0), run([45, 25], 30.0)
    told = [[(r.step, a.rule, a.where) for r in rows for a in r.alerts] for rows in (whole, split)]
    assert told[0] == told[1]
    assert any(rule == "gradient-spike" for _, rule, _ in told[1])


def test_a_file_holds_no_step_twice_after_a_run_went_on(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[sinks.JsonLines(path)]) as monitor:
        train(model, optimizer, monitor, 5)
        state = saved(monitor.state_dict())
        assert [row.step for row in sinks.read_rows(path)] == [1, 2, 3, 4, 5]  # all are written
        train(model, optimizer, monitor, 3)  # lost with the process
    monitor = Monitor(model, optimizer=optimizer, every=1, sinks=[sinks.JsonLines(path)])
    monitor.load_state_dict(state)
    with monitor:
        train(model, optimizer, monitor, 4)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 10))
    assert [row.step for row in sinks.read_rows(path)] == list(range(1, 10))
    with Monitor(
        model, optimizer=optimizer, every=1, first_step=8, sinks=[sinks.JsonLines(path)]
    ) as monitor:
        train(model, optimizer, monitor, 1)
    assert [row.step for row in sinks.read_rows(path)] == [*range(1, 8), 8]


def test_files_that_were_rotated_are_cut_as_well(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "run.jsonl"
    sink = sinks.JsonLines(path, max_bytes=1)
    with Monitor(model, every=1, watch=("weights",), sinks=[sink]) as monitor:
        for _ in range(4):
            monitor.step()
    sink = sinks.JsonLines(path, max_bytes=1)
    sink.resume(2)
    sink.close()
    assert [row.step for row in sinks.read_rows(path)] == [1, 2]


def test_two_optimizers_number_the_steps_of_training() -> None:
    model, kept = small_model(), Kept()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    with Monitor(model, optimizer=optimizers, every=1, sinks=[kept]) as monitor:
        for i in range(3):
            model.zero_grad()
            model(batch(i)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
            monitor.step()
    assert [row.step for row in kept.rows] == [1, 2, 3]
    again = Monitor(model, optimizer=optimizers, every=1)
    again.load_state_dict(monitor.state_dict())
    assert again.state_dict()["step"] == 4


def test_a_state_that_does_not_fit_is_refused() -> None:
    model = small_model()
    monitor = Monitor(model, every=1)
    state = copy.deepcopy(monitor.state_dict())
    with pytest.raises(ValueError, match=r"expected what state_dict\(\) returned, got schema=None"):
        monitor.load_state_dict({})
    message = "expected a monitor that is not attached yet, got one that is"
    with monitor, pytest.raises(RuntimeError, match=message):
        monitor.load_state_dict(state)
