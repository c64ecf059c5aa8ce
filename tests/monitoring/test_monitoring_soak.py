"""Many steps: no thread is left, memory stays flat, and every step is in a row."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import torch

from initstats.monitoring import Monitor
from initstats.sinks import JsonLines, read_rows
from monitored import small_model, train


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("initstats")]


def test_thousands_of_steps_leave_no_thread_no_memory_and_every_row(tmp_path: Path) -> None:
    """The 100,000 steps of docs/guides/monitoring.md; INITSTATS_SOAK_STEPS sets the number."""
    steps = int(os.environ.get("INITSTATS_SOAK_STEPS", "2000"))
    window = 10
    before = threads()
    sink = JsonLines(tmp_path / "run.jsonl", max_bytes=1 << 24, keep=1000)
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sizes = []
    monitor = Monitor(model, optimizer=optimizer, every=1, window=window, sinks=[sink]).attach()
    for part in range(4):
        train(model, optimizer, monitor, steps // 4)
        while monitor._delivery._windows.qsize() or monitor._delivery.feeds[0]._queue.qsize():
            time.sleep(0.01)
        sizes.append((part, resident_bytes()))
    monitor.close()
    rows = [row.steps for row in read_rows(sink.path)]
    assert [step for row in rows for step in row] == list(range(1, steps + 1))
    assert threads() == before
    # Windows are merged when the reader is behind: then rows are fewer, and no step is lost.
    assert len(rows) <= steps / window
    # Growth after the first quarter: less than 20 bytes per step, a tenth of one kept record.
    assert sizes[-1][1] - sizes[0][1] < max(20 * steps, 1 << 22)


def resident_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_record_needs_less_than_ten_kilobytes_on_its_device() -> None:
    from initstats.monitoring.window import _PAGE, Segment, Window

    window = Window(histograms=True)
    tensors = [torch.ones(4) for _ in range(50)]
    names = tuple(map(str, range(50)))
    # One step short of a page: what a device holds at most. The last step's histogram is still
    # there beside the sum while it is added.
    for step in range(_PAGE):
        window.measure("weights", names, tensors, step)
    (segment,) = window.segments.values()
    assert isinstance(segment, Segment)
    assert segment.places is not None
    held = 2 * segment.places.nbytes + sum(
        t.nbytes for t in (*segment.moments[:_PAGE], *segment.counts[:_PAGE])
    )
    assert held / 50 <= 10_000
