"""Loss and learning rates in the rows: as given and as the optimizer used them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from initstats.monitoring import Monitor
from initstats.monitoring.row_merge import merge_rows
from initstats.sinks import JsonLines, read_rows
from monitored import Kept, batch, small_model


def test_rows_have_the_loss_of_each_step_and_the_rates_that_were_used(tmp_path: Path) -> None:
    model, kept, path = small_model(), Kept(), tmp_path / "run.jsonl"
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    losses = []
    with Monitor(
        model, optimizer=optimizer, every=1, window=3, sinks=[kept, JsonLines(path)]
    ) as monitor:
        for i in range(6):
            optimizer.zero_grad()
            loss = model(batch(i)).square().mean()
            loss.backward()
            optimizer.step()
            schedule.step()
            monitor.step(loss=None if i == 1 else loss if i % 2 else loss.item())
            losses.append(math.nan if i == 1 else loss.item())
    for rows in (kept.rows, list(read_rows(path))):
        found = [value for row in rows for value in row.loss]
        assert found == pytest.approx(losses, nan_ok=True)
        assert rows[0].learning_rates == pytest.approx({"0": 0.1 * 0.25, "1": 0.5 * 0.25})
        assert rows[0].scalars()["loss"] == pytest.approx((losses[0] + losses[2]) / 2)
        assert rows[1].scalars()["learning_rate_1"] == pytest.approx(0.5 * 0.5**5)
        merged = merge_rows(*rows)
        assert list(merged.loss) == pytest.approx(losses, nan_ok=True)


def test_rows_without_a_loss_have_none_and_of_two_optimizers_both_rates() -> None:
    model, kept = small_model(), Kept()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1 + i) for i in (0, 2)]
    with Monitor(model, optimizer=optimizers, every=1, sinks=[kept]) as monitor:
        model(batch(0)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        monitor.step()
        with pytest.raises(ValueError, match=r"expected a loss of one element, got \(2,\)"):
            monitor.step(loss=torch.zeros(2))
    assert kept.rows[0].loss.size == 0
    assert "loss" not in kept.rows[0].scalars()
    assert kept.rows[0].learning_rates == {"0.0": 0.1, "1.0": 2.1}
