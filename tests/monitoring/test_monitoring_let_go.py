"""Monitors that nobody closes: a cell of a notebook that runs again with a new model."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from initstats import sinks
from initstats.monitoring import Monitor, Row, clipping, scripting
from monitored import Kept, small_model, train, wait_for

EVERYTHING = ("weights", "gradients", "activations", "inputs", "updates", "moments")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Leave everything to reference counts."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def threads() -> list[str]:
    """Return the names of the monitors' threads, but for sinks that other tests made block."""
    names = [one.name for one in threading.enumerate()]
    return [name for name in names if name.startswith("initstats") and "Blocks" not in name]


def until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not is_so() and time.monotonic() < end:
        time.sleep(1e-3)
    return is_so()


@pytest.mark.usefixtures("no_collector")
def test_a_cell_that_runs_again_with_a_new_model_leaves_nothing_of_the_old_one() -> None:
    models, kept = [], [Kept() for _ in range(3)]
    for sink in kept:
        model = small_model()
        optimizer = torch.optim.Adam(model.parameters())
        monitor = Monitor(
            model, optimizer=optimizer, every=1, window=3, sinks=[sink], watch=EVERYTHING
        ).attach()
        models.append(weakref.ref(model))
        train(model, optimizer, monitor, 4)
    assert [one() is not None for one in models] == [False, False, True]
    for sink in kept[:2]:
        wait_for(sink, 2)
        assert [row.steps for row in sink.rows] == [(1, 2, 3), (4,)]
    assert until(lambda: len(threads()) == 2), threads()
    assert len(clipping._LISTENERS) == len(scripting._USERS) == 1
    hooks = [len(module._forward_hooks) for module in (model, *model)]
    assert hooks == [2, 1, 1, 1]
    monitor.close()
    assert not clipping._LISTENERS
    assert not scripting._USERS
    assert until(lambda: not threads()), threads()


class Slow:
    """A sink that tells when two threads are in it, and when it is closed."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.rows: list[Row] = []
        self.closed_after: list[int] = []

    def write(self, row: Row) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(2e-3)
        self.inside -= 1
        self.rows.append(row)

    def close(self) -> None:
        self.closed_after.append(len(self.rows))


def test_a_sink_of_two_monitors_is_written_to_in_turn_and_closed_by_the_last() -> None:
    sink, models = Slow(), [small_model() for _ in range(2)]
    monitors = [Monitor(model, every=1, watch=("weights",), sinks=[sink]) for model in models]
    for monitor in monitors:
        monitor.attach()
    for _ in range(20):
        for monitor in monitors:
            monitor.step()
    monitors[0].close()
    assert sink.closed_after == []
    monitors[1].step()
    monitors[1].close()
    assert sink.most == 1
    assert sink.closed_after == [len(sink.rows)]
    monitor = Monitor(models[0], every=1, watch=("weights",), sinks=[sink]).attach()
    monitor.close()
    assert len(sink.closed_after) == 2


PROGRAM = """
import sys, torch
from initstats import Monitor, sinks
for name in "ab":
    model = torch.nn.Linear(4, 4)
    monitor = Monitor(model, every=1, window=5, sinks=[sinks.JsonLines(f"{sys.argv[1]}/{name}")])
    monitor.attach()
    model(torch.ones(2, 4)).sum().backward()
    monitor.step()
    del monitor
"""


def test_rows_of_monitors_that_were_let_go_of_are_written_when_the_program_ends(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, timeout=120)
    for name in "ab":
        assert [row.step for row in sinks.read_rows(tmp_path / name)] == [1]
