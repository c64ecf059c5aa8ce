"""Gradient norms before clipping: the right ones, in rows, files and the rule on spikes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_  # bound before any monitor

from initstats.diagnostics.findings import Finding
from initstats.monitoring import Monitor, Row
from initstats.sinks import JsonLines, read_rows
from monitored import Kept, batch, small_model, wait_for

CLOSE = 1e-5


def norm_of(parameters: Iterable[nn.Parameter]) -> float:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]).item()


@pytest.mark.parametrize("norm_type", [2.0, math.inf, 1.0])
@pytest.mark.parametrize("scale", [1.0, 256.0])
def test_the_norm_before_clipping_is_in_the_row_and_the_file(
    norm_type: float, scale: float, tmp_path: Path
) -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before, after = [], []
    with Monitor(
        model,
        optimizer=optimizer,
        every=2,
        window=3,
        unscale=1 / scale,
        sinks=[kept, JsonLines(tmp_path / "run.jsonl")],
    ) as monitor:
        for i in range(6):
            optimizer.zero_grad()
            (model(batch(i)).square().mean() * (scale if i == 4 else 100.0 * scale)).backward()
            before.append(norm_of(model.parameters()) / scale)
            clip_grad_norm_(model.parameters(), 2.0 * scale, norm_type)
            clip_grad_norm_(model.parameters(), 2.0 * scale, norm_type)
            after.append(norm_of(model.parameters()) / scale)
            optimizer.step()
            monitor.step()
    for row in (*kept.rows, *read_rows(tmp_path / "run.jsonl")):
        assert row.gradient_norm.tolist() == pytest.approx(after[::2], rel=CLOSE)
        assert row.gradient_norm_before_clipping.tolist() == pytest.approx(before[::2], rel=CLOSE)
        share = sum(a < 0.999 * b for a, b in zip(after[::2], before[::2], strict=True)) / 3
        assert row.scalars()["clip_share"] == pytest.approx(share)
        assert norm_type == 1.0 or share < 1.0


def test_parts_that_are_clipped_apart_or_not_or_with_others_make_one_norm() -> None:
    model, foreign, kept = small_model(), nn.Linear(8, 4), Kept()
    with Monitor(model, every=1, watch=("gradients",), sinks=[kept]) as monitor:
        (model(batch(0)).sum() + foreign(batch(0)).sum()).backward()
        before = norm_of(model.parameters())
        torch.nn.utils.clip_grad_norm_(foreign.parameters(), 0.1)
        torch.nn.utils.clip_grad_norm_(model[0].weight, 0.1)
        torch.nn.utils.clip_grad_norm_([*foreign.parameters(), model[2].weight], 0.1)
        after = norm_of(model.parameters())
        monitor.step()
        monitor.step()  # nothing is clipped in this step
    first, second = kept.rows
    assert first.gradient_norm.tolist() == pytest.approx([after], rel=CLOSE)
    assert first.gradient_norm_before_clipping.tolist() == pytest.approx([before], rel=CLOSE)
    assert second.gradient_norm_before_clipping.size == 0
    assert "clip_share" not in second.scalars()


def test_a_spike_that_is_clipped_is_told() -> None:
    model, kept, heard = small_model(), Kept(), []

    def hear(finding: Finding, row: Row) -> None:
        heard.append((row.step, finding.rule, finding.where, finding.value))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer=optimizer, every=1, on_alert=hear, sinks=[kept]) as monitor:
        for i in range(40):
            optimizer.zero_grad()
            (model(batch(i)).square().mean() * (1000 if i == 30 else 20)).backward()
            if i == 30:
                expected = norm_of(model.parameters())
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            monitor.step()
            wait_for(kept, i + 1)
    spikes = [alert for alert in heard if alert[1] == "gradient-spike"]
    assert spikes == [(31, "gradient-spike", "all parameters", pytest.approx(expected, rel=CLOSE))]


def test_torch_is_as_before_when_the_last_monitor_is_closed() -> None:
    from torch.nn.utils import clip_grad

    original = clip_grad._get_total_norm
    one, two = (Monitor(small_model(), every=1, watch=("gradients",)).attach() for _ in range(2))
    assert clip_grad._get_total_norm is not original
    one.close()
    assert clip_grad._get_total_norm is not original
    two.close()
    assert clip_grad._get_total_norm is original


@pytest.mark.parametrize("foreach", [None, False])
def test_the_norm_before_clipping_by_value_is_in_the_row(foreach: bool | None) -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before, after = [], []
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for i in range(3):
            optimizer.zero_grad()
            model(batch(i)).square().mean().backward()
            before.append(norm_of(model.parameters()))
            clip_grad_value_(model.parameters(), 0.01, foreach=foreach)
            after.append(norm_of(model.parameters()))
            optimizer.step()
            monitor.step()
    for row, b, a in zip(kept.rows, before, after, strict=True):
        assert row.gradient_norm.item() == pytest.approx(a, rel=CLOSE)
        assert row.gradient_norm_before_clipping.item() == pytest.approx(b, rel=CLOSE)
        assert row.scalars()["clip_share"] == 1.0
    clip = torch.nn.utils.clip_grad
    assert "initstats" not in clip._group_tensors_by_device_and_dtype.__code__.co_filename
