"""A recorded forward and backward pass of GPT-2 medium's shape against the plain one.

The unit is a pass over 512 tokens of real text.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Case, Measure, cases
from initstats.auditing.demo import data
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.auditing.hooks import Collector
from initstats.auditing.loss_mode import LossWatch
from initstats.planning.initialize import init_

# 24 blocks of width 1024, as GPT-2 medium.
CONFIG = DemoConfig(vocabulary=50257, context=256, layers=24, width=1024, heads=16, batch=2)
BAR = 1.10  # allowed time of the plain pass, as the project's bar states it


@cases("config", {"audit, forward + backward 24x1024": CONFIG})
def bench_audit(measure: Measure, device: torch.device, config: DemoConfig) -> None:
    """Record a pass."""
    model = DemoGPT(config).to(device)
    init_(model, "gpt2", seed=0)
    # The text has fewer different words than GPT-2's vocabulary; the sizes are what counts.
    batch = data.batch(4096, config.context, config.batch, seed=0)
    tokens, targets = (part.to(device) for part in batch)

    def plain() -> None:
        model.zero_grad()
        model(tokens, targets)[1].backward()

    def recorded() -> None:
        model.zero_grad()
        with Collector(model) as collector:
            with collector.operations(), collector.functions(), LossWatch(with_scores=True):
                loss = model(tokens, targets)[1]
            collector.in_backward = True
            loss.backward()

    measure(
        Case(
            ours=recorded,
            count=1,
            unit="pass",
            bytes_moved=0,
            rival=plain,
            rival_name="plain pass",
            paired=True,
            bar_times=BAR,
        )
    )
