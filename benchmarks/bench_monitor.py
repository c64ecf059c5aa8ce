"""Training steps of a GPT with a monitor, and with other tools, against the plain step.

The unit is a step of AdamW on real text. A ratio is plain / watched: 0.97 means 3 % slower.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness import Case
from initstats.auditing import demo_text
from initstats.auditing.demo_model import DemoConfig, DemoGPT
from initstats.monitoring import Monitor
from initstats.sinks import JsonLines

# 24.3 million parameters; 2048 tokens per step.
CONFIG = DemoConfig(vocabulary=10240, context=256, layers=6, width=512, heads=8, batch=8)
EVERYTHING = ("weights", "gradients", "activations", "updates")
# Allowed times of the plain step, as the project's bars state them.
BARS = {"everything": 1.03, "weights + gradients": 1.01, "every = 100": 1.002}


class Training:
    """A model, its optimizer and a batch."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = DemoGPT(CONFIG).to(device)
        for parameter in self.model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        batch = demo_text.batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=0)
        self.tokens, self.targets = (part.to(device) for part in batch)

    def step(self, after: Callable[[], object] = lambda: None) -> None:
        """Train one step; `after` runs between the optimizer and the next step."""
        self.optimizer.zero_grad()
        loss = self.model(self.tokens, self.targets)[1]
        loss.backward()
        self.optimizer.step()
        after()


def cases(device: torch.device) -> Iterator[Case]:
    """Yield the monitor's settings, then other tools, each beside the plain step."""
    plain = Training(device)
    folder = Path(tempfile.mkdtemp())
    settings: dict[str, tuple[tuple[str, ...], int]] = {
        "everything": (EVERYTHING, 1),
        "weights + gradients": (("weights", "gradients"), 1),
        "every = 100": (EVERYTHING, 100),
    }
    for name, (watch, every) in settings.items():
        watched = Training(device)
        sink = JsonLines(folder / f"{every}-{len(watch)}.jsonl")
        monitor = Monitor(
            watched.model, optimizer=watched.optimizer, every=every, watch=watch, sinks=[sink]
        )
        monitor.attach()
        watched.step(monitor.step)  # the first step is always measured
        yield case(f"monitor {name}", plain, partial(watched.step, monitor.step), 1 / BARS[name])
        monitor.close()
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        watched = Training(device)
        writer = SummaryWriter(str(folder / "tensorboard"))

        def write() -> None:
            for name, parameter in watched.model.named_parameters():
                writer.add_histogram(name, parameter)
                writer.add_histogram(f"{name}.grad", parameter.grad)

        yield case("TensorBoard add_histogram", plain, lambda: watched.step(write), None)
        writer.close()
    with suppress(ImportError):
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        run = wandb.init(project="bench", mode="offline", dir=str(folder))
        watched = Training(device)
        run.watch(watched.model, log="all", log_freq=1)
        yield case(
            "wandb.watch all, every step", plain, lambda: watched.step(lambda: run.log({})), None
        )
        run.finish()


def case(name: str, plain: Training, ours: Callable[[], object], bar: float | None) -> Case:
    """Return a case beside the plain step."""
    return Case(
        name=name,
        ours=ours,
        count=1,
        unit="step",
        bytes_moved=0,
        rival=plain.step,
        rival_name="plain step",
        bar_ratio=bar,
    )
