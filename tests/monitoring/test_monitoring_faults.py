"""What must not hurt training: sinks that fail or block, a killed process, copies, forks."""

from __future__ import annotations

import copy
import io
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from initstats.monitoring import Monitor, Row
from initstats.monitoring.sink_worker import Feed
from initstats.sinks import JsonLines, read_rows
from monitored import Kept, small_model, train

ROOT = Path(__file__).resolve().parents[2]


class Raises:
    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.calls = 0

    def write(self, row: Row) -> None:
        del row
        self.calls += 1
        if self.calls <= self.rows:
            raise OSError(28, "No space left on device")


class Blocks:
    def __init__(self) -> None:
        self.release = threading.Event()

    def write(self, row: Row) -> None:
        del row
        self.release.wait(60)


def train_with(*sinks: object, steps: int = 6, **arguments: object) -> Monitor:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer=optimizer, every=1, sinks=sinks, **arguments).attach()
    train(model, optimizer, monitor, steps)
    return monitor


def test_a_sink_that_raises_is_logged_and_the_others_get_every_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept, once, always = Kept(), Raises(1), Raises(100)
    with caplog.at_level(logging.WARNING, "initstats.monitor"):
        train_with(once, always, kept).close()
    assert [step for row in kept.rows for step in row.steps] == [1, 2, 3, 4, 5, 6]
    assert once.calls == 6
    assert always.calls == 3  # then it is given up
    assert "Raises raised OSError: [Errno 28] No space left on device" in caplog.text
    assert "Raises is given up after 3 failures in a row" in caplog.text


def test_a_sink_that_blocks_stops_neither_training_nor_the_other_sinks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept, blocks = Kept(), Blocks()
    monitor = train_with(blocks, kept, steps=70)
    feed = monitor._delivery.feeds[0]
    monitor.close(timeout=5.0)
    # When the reader is behind, a row covers more steps; none is lost.
    assert [step for row in kept.rows for step in row.steps] == list(range(1, 71))
    assert feed.written == 0
    assert "Kept" not in caplog.text
    assert "Blocks blocks and is left behind" in caplog.text
    blocks.release.set()


def test_rows_that_a_slow_sink_cannot_take_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    kept, blocks = Kept(), Blocks()
    train_with(kept, steps=1).close()
    feed = Feed(blocks)
    for _ in range(70):  # 64 fit into the queue, and one is being written at most
        feed.put(kept.rows[0])
    assert feed.lost in {5, 6}
    assert caplog.text.count("Blocks is too slow: rows are lost") == 1
    blocks.release.set()
    assert feed.close(10.0)
    assert feed.written == 70 - feed.lost


def test_a_full_disk_leaves_whole_rows_and_writing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = JsonLines(tmp_path / "run.jsonl")
    kept = Kept()
    train_with(kept, steps=3).close()
    sink.write(kept.rows[0])
    size = sink.path.stat().st_size
    original = os.write
    answers = [lambda fd, data: original(fd, data[:100])]  # the disk takes 100 bytes more

    def full(fd: int, data: bytes) -> int:
        if answers:
            return answers.pop()(fd, data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left on device"):
        sink.write(kept.rows[1])
    monkeypatch.undo()
    assert sink.path.stat().st_size == size
    sink.write(kept.rows[2])
    sink.close()
    assert [row.step for row in read_rows(sink.path)] == [1, 3]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_training_goes_on_when_the_disk_is_full() -> None:
    kept = Kept()
    monitor = train_with(JsonLines("/dev/full"), kept, steps=5)
    feed = monitor._delivery.feeds[0]
    monitor.close()
    assert len(kept.rows) == 5
    assert isinstance(feed.error, OSError)
    assert feed.written == 0


KILLED = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from monitored import small_model, batch
from initstats.monitoring import Monitor
from initstats.sinks import JsonLines
model = small_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Monitor(model, optimizer=optimizer, every=1, sinks=[JsonLines(sys.argv[1])]) as monitor:
    i = 0
    while True:
        optimizer.zero_grad()
        model(batch(i)).square().mean().backward()
        optimizer.step()
        monitor.step()
        i += 1
"""


def test_a_killed_process_leaves_a_file_that_reads_back_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(ROOT / "tests/support")], env=environment
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and not (path.exists() and path.stat().st_size > 200_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = list(read_rows(path))
    assert len(rows) > 10
    # When the reader is behind, a row covers more steps; none is lost.
    steps = [step for row in rows for step in row.steps]
    assert steps == list(range(1, len(steps) + 1))
    # A line that the kill tore: cut short by hand, as one system call rarely leaves one.
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 57])
    assert [row.step for row in read_rows(path)] == [row.step for row in rows[:-1]]
    sink = JsonLines(path)
    sink.write(rows[-1])
    sink.close()
    assert [row.step for row in read_rows(path)] == [row.step for row in rows]


def test_a_module_may_be_deleted_or_added_while_it_is_watched() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 2)
        del model[2]
        train(model, optimizer, monitor, 2)
        model.append(nn.Linear(16, 3))
        optimizer.add_param_group({"params": list(model[2].parameters())})
        train(model, optimizer, monitor, 2)
    names = [tuple(row.tables["activations"]) for row in kept.rows]
    # Which modules are watched is settled at the beginning of a step.
    assert names[1] == ("0", "1", "2")
    assert names[3] == ("0", "1")
    assert names[5] == ("0", "1", "2")
    assert list(kept.rows[3].tables["weights"]) == ["0.weight", "0.bias"]
    assert kept.rows[5].tables["weights"]["2.weight"].count == 48
    assert kept.rows[5].tables["updates"]["2.weight"].abs_max > 0


def test_copies_and_pickles_of_a_watched_model_carry_no_monitor() -> None:
    model = small_model()
    kept = Kept()
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        average = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (average, loaded, pickle.loads(pickle.dumps(model))):
            other(torch.ones(1, 8))
        model(torch.ones(2, 8))
        monitor.step()
        with pytest.raises(TypeError, match=r"initstats\.Monitor: expected no copy or pickle"):
            copy.copy(monitor)
    assert kept.rows[0].tables["activations"]["0"].count == 2 * 16


class Numbers(Dataset[torch.Tensor]):
    """Holds the watched model, so that it travels to the workers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        with torch.no_grad():
            return self.model(torch.full((8,), float(i)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_workers_of_a_data_loader_do_not_touch_the_monitor(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        loader = DataLoader(
            Numbers(model), batch_size=2, num_workers=1, multiprocessing_context=method
        )
        assert len(list(loader)) == 2
        train(model, optimizer, monitor, 2)
    assert [row.step for row in kept.rows] == [1, 2]
    assert kept.rows[0].tables["activations"]["0"].count == 5 * 16


def test_a_forked_child_neither_writes_nor_waits(tmp_path: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests/support")!r})
from monitored import small_model, train, Kept
import torch
from initstats.monitoring import Monitor
from initstats.sinks import JsonLines
model = small_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
monitor = Monitor(model, optimizer=optimizer, every=1, sinks=[JsonLines({str(tmp_path / "r")!r})])
monitor.attach()
train(model, optimizer, monitor, 1)
child = os.fork()
if child == 0:
    monitor.step()
    monitor.close()
    os._exit(0 if monitor._step == 2 else 1)  # the step of the child did not count
assert os.waitpid(child, 0)[1] == 0
train(model, optimizer, monitor, 1)
# no close: the end of the program writes what is left
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)
    assert [row.step for row in read_rows(tmp_path / "r")] == [1, 2]


def test_the_alert_callback_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    def callback(*_: object) -> None:
        raise RuntimeError("mine")

    model = small_model()
    kept = Kept()
    with Monitor(model, every=1, watch=("weights",), sinks=[kept], on_alert=callback) as monitor:
        with torch.no_grad():
            model[0].weight[0, 0] = float("nan")
        monitor.step()
    assert len(kept.rows) == 1
    assert "the alert callback raised" in caplog.text


class Unused(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.spare = small_model(), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.net(x)
        return result


@pytest.mark.parametrize("replaced", [True, False])
def test_parameters_that_become_integers_are_named(replaced: bool) -> None:
    model, kept = Unused(), Kept()
    model.spare.requires_grad_(False)
    optimizer = torch.optim.SGD(model.net.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
        integers = torch.zeros(4, 4, dtype=torch.int8)
        if replaced:
            model.spare.weight = nn.Parameter(integers, requires_grad=False)
        else:
            model.spare.weight.data = integers
        train(model, optimizer, monitor, 2)
        copies = monitor._parameters._before
        train(model, optimizer, monitor, 1)
        assert monitor._parameters._before is copies
        model.spare.weight = nn.Parameter(torch.ones(4, 4), requires_grad=False)
        train(model, optimizer, monitor, 2)
    there = ["spare.weight" in row.tables["weights"] for row in kept.rows]
    assert there == [True, False, False, False, True, True]
    for row in kept.rows[1:4]:
        assert row.missing["weights"] == {"spare.weight": "dtype=torch.int8"}
        assert row.tables["weights"]["net.0.weight"].count == 8 * 16
    assert "weights" not in kept.rows[0].missing
    assert "weights" not in kept.rows[5].missing


def test_frozen_integers_are_named_from_the_beginning() -> None:
    model, kept = Unused(), Kept()
    model.spare.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.uint8), requires_grad=False)
    optimizer = torch.optim.SGD(model.net.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
    assert kept.rows[0].missing["weights"] == {"spare.weight": "dtype=torch.uint8"}
    assert "updates" not in kept.rows[0].missing


def test_a_lazy_module_is_refused_with_what_to_do_and_followed_when_it_comes_later() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(
        TypeError, match=r"initstats\.Monitor.*'0\.weight': .*lazy.*run a batch through the model"
    ):
        Monitor(model, every=1)
    with Monitor(model, every=1, parameters=lambda *_: False, watch=("activations",)):
        model(torch.ones(2, 3))
    kept = Kept()
    with Monitor(model, every=1, watch=("weights",), sinks=[kept]) as monitor:
        model.append(nn.LazyLinear(2, bias=False))
        monitor.step()
        monitor.step()
        model(torch.ones(2, 3))
        monitor.step()
        monitor.step()
    reason = "one of a lazy module, not initialised"
    assert kept.rows[1].missing == {"weights": {"1.weight": reason}}
    assert kept.rows[3].tables["weights"]["1.weight"].count == 2 * 4
    assert kept.rows[3].missing == {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_second_monitor_of_a_model_closes_the_first_with_a_warning() -> None:
    model, first, second, other = small_model(), Kept(), Kept(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    apart = Monitor(small_model(), every=1, sinks=[other], watch=("weights",)).attach()
    old = Monitor(model, optimizer=optimizer, every=1, window=5, sinks=[first]).attach()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    train(model, optimizer, old, 3)
    compiled = torch.compile(model)
    with pytest.warns(UserWarning, match=r"initstats\.Monitor.*no other open monitor.*closed now"):
        new = Monitor(compiled, optimizer=optimizer, every=1, sinks=[second]).attach()
    new.close()
    new = Monitor(model, optimizer=optimizer, every=1, sinks=[second]).attach()
    assert first.rows[0].steps == (1, 2, 3)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    train(model, optimizer, old, 1)  # what the old one is told does nothing
    new.step()
    apart.step()
    for monitor in (new, old, apart):
        monitor.close()
    assert (len(first.rows), len(second.rows), len(other.rows)) == (1, 1, 1)
