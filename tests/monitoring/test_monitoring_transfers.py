"""Copies to pinned memory: awaited without a call of CUDA, memory used again, graphs left alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from initstats.monitoring import Monitor
from initstats.monitoring.optimizers import CAPTURED
from initstats.monitoring.transfers import PinnedPool, Transfers
from monitored import Kept, batch, small_model, train, wait_for

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def ordinary(size: int) -> Tensor:
    return torch.full((size,), 7, dtype=torch.uint8)


def test_pinned_memory_is_taken_again() -> None:
    made = []

    def allocate(size: int) -> Tensor:
        made.append(size)
        return ordinary(size)

    pool = PinnedPool(allocate)
    first, second = pool.take(100), pool.take(65)
    assert made == [128, 128]
    assert first.data_ptr() != second.data_ptr()
    pool.give_back(first)
    assert pool.take(128).data_ptr() == first.data_ptr()
    assert pool.take(0).numel() == 64
    assert made == [128, 128, 64]


def test_the_reader_waits_for_every_flag_and_gives_memory_back() -> None:
    pool = PinnedPool(ordinary)
    transfers = Transfers(pool)
    flags = [pool.take(1), pool.take(1)]
    for memory in flags:
        memory[:1].zero_()
    transfers._flags = list(flags)
    copied = torch.ones(3)
    transfers._copies[id(copied)] = copied, pool.take(12)
    pauses = 0

    def pause(_seconds: float) -> None:  # as the device writes, one after the other
        nonlocal pauses
        flags[pauses][0] = 1
        pauses += 1

    transfers.wait(pause)
    assert pauses == 2
    own = transfers.own(copied)
    assert torch.equal(own, copied)
    assert own.data_ptr() != copied.data_ptr()
    other = torch.zeros(2)
    assert transfers.own(other) is other
    transfers.release()
    free = [pool.take(1).data_ptr() for _ in range(3)]
    assert {memory.data_ptr() for memory in flags} < set(free)  # and that of the copy


def test_nothing_of_a_window_on_the_cpu_is_copied() -> None:
    transfers = Transfers(PinnedPool(ordinary))
    tensor = torch.ones(3)
    transfers.follow(tensor.device)
    assert transfers.copy(tensor) is tensor
    transfers.finish()
    transfers.wait(lambda _seconds: pytest.fail("nothing to wait for"))


def test_a_captured_optimizer_step_is_told_once_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    captured = False
    monkeypatch.setattr("initstats.monitoring.monitor.is_captured", lambda: captured)

    def captured_step() -> None:
        nonlocal captured
        captured = True
        optimizer.step()
        captured = False

    watch = ("weights", "updates")
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        model(batch(0)).mean().backward()
        with pytest.warns(UserWarning, match="captured in a CUDA graph, whose replays run no hook"):
            captured_step()
        monitor.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            captured_step()
        captured = True
        with pytest.raises(RuntimeError, match="expected a call after the replay of a CUDA graph"):
            monitor.step()
        captured = False
        wait_for(kept, 1)
    row = kept.rows[0]
    assert set(row.tables) == {"weights"}
    assert row.missing["updates"] == dict.fromkeys(row.missing["updates"], CAPTURED)
    assert set(row.missing["updates"]) == {name for name, _ in model.named_parameters()}


@needs_gpu
@pytest.mark.backends("cuda")
@pytest.mark.filterwarnings("ignore")
def test_a_graph_is_captured_while_rows_are_read() -> None:
    """Another thread that asked CUDA for an event would end the capture with an error."""
    device = torch.device("cuda")
    model = small_model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for _ in range(20):
            train(model, optimizer, monitor, 5, lambda i: batch(i).to(device))
            x = torch.zeros(1024, device=device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # capture_error_mode="global"
                for _ in range(200):
                    x.add_(1)
            graph.replay()
        assert int(x[0]) == 200
    assert kept.rows[-1].step == 100


@needs_gpu
@pytest.mark.backends("cuda")
def test_rows_of_several_streams_are_those_of_one() -> None:
    device = torch.device("cuda")
    rows = []
    for streams in (1, 3):
        model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)).to(device)
        torch.nn.init.constant_(model[0].weight, 0.01)
        kept = Kept()
        with Monitor(model, every=1, watch=("weights",), window=8, sinks=[kept]) as monitor:
            used = [torch.cuda.Stream() for _ in range(streams)]
            for step in range(8):
                with torch.cuda.stream(used[step % streams]):
                    monitor.step()
        rows.append(kept.rows[0].tables["weights"]["0.weight"])
    assert rows[0].count == rows[1].count
    assert rows[0].std == rows[1].std
