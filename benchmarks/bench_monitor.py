"""Training steps of a GPT with a monitor, and with other tools, against the plain step.

The unit is a step of AdamW on real text. `python -m benchmarks monitor --seconds 300`: single steps
wander by several percent, so that it takes many of them to see one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.harness import Case, Measure, cases
from initstats.auditing.demo import data
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.monitoring import Monitor
from initstats.monitoring.hooks import BeforeInPlace, EndHook, EnterHook, LeaveHook, OutputHook
from initstats.sinks import JsonLines

# 24.3 million parameters; 2048 tokens per step.
CONFIG = DemoConfig(vocabulary=10240, context=256, layers=6, width=512, heads=8, batch=8)
EVERYTHING = ("weights", "gradients", "activations", "updates")
# Settings, and allowed times of the plain step, as the project's bars state them.
SETTINGS: dict[str, tuple[dict[str, Any], float]] = {
    "everything": ({"every": 1, "watch": EVERYTHING}, 1.03),
    "everything, window = 10": ({"every": 1, "window": 10, "watch": EVERYTHING}, 1.03),
    "weights + gradients": ({"every": 1, "watch": ("weights", "gradients")}, 1.01),
    "every = 100": ({"every": 100, "watch": EVERYTHING}, 1.002),
}


class Training:
    """A model, its optimizer and a batch."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = DemoGPT(CONFIG).to(device)
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        batch = data.batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=0)
        self.tokens, self.targets = (part.to(device) for part in batch)

    def step(self, after: Callable[[], object] = lambda: None) -> None:
        """Train one step; `after` runs between the optimizer and the next step."""
        self.optimizer.zero_grad()
        loss = self.model(self.tokens, self.targets)[1]
        loss.backward()
        self.optimizer.step()
        after()


class OwnTime:
    """Adds up the time inside the monitor's hooks and methods, and that of its threads.

    Args:
        monitor: A monitor that is not attached yet.
        clock: Read in the training thread.
    """

    entries = (
        (OutputHook, "__call__"),
        (EnterHook, "__call__"),
        (LeaveHook, "__call__"),
        (EndHook, "__call__"),
        (BeforeInPlace, "__call__"),
        (Monitor, "_before_update"),
        (Monitor, "_after_update"),
        (Monitor, "step"),
    )

    def __init__(self, monitor: Monitor, clock: Callable[[], float] = time.perf_counter) -> None:
        self._monitor = monitor
        self._clock = clock
        self._inside = 0
        self._spent = 0.0
        self._originals: list[tuple[type, str, Any]] = []

    def __enter__(self) -> OwnTime:
        for owner, name in self.entries:
            original = getattr(owner, name)
            self._originals.append((owner, name, original))
            setattr(owner, name, self._timed(original))
        return self

    def __exit__(self, *exception: object) -> None:
        for owner, name, original in self._originals:
            setattr(owner, name, original)

    def seconds(self) -> float:
        """Return the seconds so far: wall time in the training thread, CPU time in the others."""
        return self.in_training() + self.in_threads()

    def in_training(self) -> float:
        """Return the seconds so far in the training thread, by the clock."""
        return self._spent

    def in_threads(self) -> float:
        """Return the processor time of the monitor's own threads so far."""
        return sum(
            time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            for thread in threading.enumerate()
            if thread.name.startswith("initstats ") and thread.ident is not None
        )

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = self._clock()
            self._inside += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._inside -= 1
                if self._inside == 0:
                    self._spent += self._clock() - begin

        return timed


@cases("settings, bar", {f"monitor {name}": SETTINGS[name] for name in SETTINGS})
def bench_monitor(
    measure: Measure, device: torch.device, tmp_path: Path, settings: dict[str, Any], bar: float
) -> None:
    """Watch every step, with the time of our own code beside it."""
    watched = Training(device)
    sink = JsonLines(tmp_path / "run.jsonl")
    monitor = Monitor(watched.model, optimizer=watched.optimizer, sinks=[sink], **settings)
    with OwnTime(monitor) as own:
        monitor.attach()
        watched.step(monitor.step)  # the first step is always measured
        step = partial(watched.step, monitor.step)
        measure(beside_plain(device, step, bar_times=bar, own_seconds=own.seconds))
        monitor.close()


@cases("tag", {"TensorBoard add_histogram": "{}.grad"})
def bench_tensorboard(measure: Measure, device: torch.device, tmp_path: Path, tag: str) -> None:
    """Log histograms of weights and gradients in every step."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    watched = Training(device)
    writer = tensorboard.SummaryWriter(str(tmp_path))

    def write() -> None:
        for name, parameter in watched.model.named_parameters():
            writer.add_histogram(name, parameter)
            writer.add_histogram(tag.format(name), parameter.grad)

    measure(beside_plain(device, lambda: watched.step(write)))
    writer.close()


@cases("log", {"wandb.watch all, every step": "all"})
def bench_wandb(measure: Measure, device: torch.device, tmp_path: Path, log: str) -> None:
    """Log everything in every step."""
    wandb = pytest.importorskip("wandb")
    os.environ.setdefault("WANDB_SILENT", "true")
    run = wandb.init(project="bench", mode="offline", dir=str(tmp_path))
    watched = Training(device)
    run.watch(watched.model, log=log, log_freq=1)
    measure(beside_plain(device, partial(watched.step, lambda: run.log({}))))
    run.finish()


def beside_plain(device: torch.device, ours: Callable[[], object], **others: Any) -> Case:
    """Return a case beside the plain step."""
    return Case(
        ours=ours,
        count=1,
        unit="step",
        bytes_moved=0,
        rival=Training(device).step,
        rival_name="plain step",
        paired=True,
        **others,
    )
