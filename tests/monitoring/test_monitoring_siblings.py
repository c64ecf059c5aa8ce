"""Cases beside those of the other files: what broke when every sentence was tried three ways."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initstats import sinks
from initstats.monitoring import Monitor
from monitored import Kept, batch, small_model, train, wait_for


def norm_of(model: nn.Module) -> float:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))


def test_clipping_with_a_norm_that_the_caller_computed_is_heard() -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        (model(batch(0)).square().mean() * 100).backward()
        before = norm_of(model)
        total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        nn.utils.clip_grads_with_norm_(model.parameters(), 0.5, total)
        optimizer.step()
        monitor.step()
    (row,) = kept.rows
    assert row.gradient_norm_before_clipping[0] == pytest.approx(before, rel=1e-5)
    assert row.gradient_norm[0] == pytest.approx(0.5, rel=1e-5)


def test_graphs_that_are_traced_and_fake_tensors_hold_nothing_of_the_monitor() -> None:
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        assert "initstats" not in make_fx(model)(batch(0)).code
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(mode.from_tensor(batch(0)))
        train(model, optimizer, monitor, 1)
    assert kept.rows[0].tables["activations"]["0"].count == 5 * 16


def test_the_window_that_was_open_when_a_run_was_saved_is_in_the_file_once(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    how: dict[str, Any] = {"optimizer": optimizer, "every": 2, "window": 2}
    for steps, expected in ((1, [(1, 3), (5, 7)]), (5, [(1, 3), (5, 7), (9, 11)])):
        path.unlink(missing_ok=True)
        monitor = Monitor(model, **how, sinks=[sinks.JsonLines(path)]).attach()
        train(model, optimizer, monitor, steps)
        state = monitor.state_dict()
        monitor.close()  # writes the window, which the run that goes on has open again
        monitor = Monitor(model, **how, sinks=[sinks.JsonLines(path)])
        monitor.load_state_dict(state)
        with monitor:
            train(model, optimizer, monitor, 2 * sum(map(len, expected)) - steps)
        assert [row.steps for row in sinks.read_rows(path)] == expected


def test_sparse_gradients_have_a_cosine() -> None:
    model, kept = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Linear(8, 4)), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    watch = ("momentum_cosine",)
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        for i in range(2):
            optimizer.zero_grad()
            ids = torch.arange(i, i + 5)
            model(ids).square().mean().backward()
            optimizer.step()
            weight = model[0].weight
            expected = torch.cosine_similarity(
                optimizer.state[weight]["momentum_buffer"].to_dense().flatten(),
                weight.grad.to_dense().flatten(),
                dim=0,
            )
            monitor.step()
            wait_for(kept, i + 1)
    assert kept.rows[1].momentum_cosines()["0.weight"] == pytest.approx(float(expected), abs=1e-5)


class ZeroLast(nn.Module):
    """A residual block whose last layer starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.first(x).relu())


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_weights_that_grow_from_0_under_adam_raise_no_alert(rate: float) -> None:
    torch.manual_seed(0)
    model, kept = nn.Sequential(nn.Linear(8, 8), ZeroLast(), ZeroLast()), Kept()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for i in range(42):
            train(model, optimizer, monitor, 1)
            wait_for(kept, i + 1)
    alerts = [(r.step, a.rule, a.where) for r in kept.rows for a in r.alerts]
    assert not [alert for alert in alerts if alert[1] == "update-ratio"], alerts


def test_weights_that_grow_from_0_too_fast_are_still_told() -> None:
    torch.manual_seed(0)
    model, kept = nn.Sequential(nn.Linear(8, 8), ZeroLast(), ZeroLast()), Kept()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for i in range(42):
            optimizer.zero_grad()
            model(batch(i)).square().mean().backward()
            with torch.no_grad():
                for parameter in model[2].last.parameters():
                    parameter.grad = torch.randn_like(parameter) * 1.5**i
            optimizer.step()
            monitor.step()
            wait_for(kept, i + 1)
    assert any(a.rule == "update-ratio" for row in kept.rows for a in row.alerts)


def test_without_an_optimizer_old_gradients_are_left_out_as_well() -> None:
    model, kept = small_model(), Kept()
    with Monitor(model, every=1, watch=("gradients",), sinks=[kept]) as monitor:
        for i in range(3):
            if i != 1:  # nothing happens in the second step
                model.zero_grad()
                model(batch(i)).square().mean().backward()
            monitor.step()
            wait_for(kept, i + 1)
    assert [row.gradient_norm.size for row in kept.rows] == [1, 0, 1]
    assert "left by an earlier step" in kept.rows[1].missing["gradients"]["0.weight"]


def test_after_a_forward_pass_that_raised_rollouts_do_not_count() -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        with pytest.raises(RuntimeError):
            model(torch.zeros(3, 5))
        with torch.no_grad():
            model(torch.zeros(99, 8))
        train(model, optimizer, monitor, 1)
    assert kept.rows[0].tables["activations"]["0"].count == 5 * 16
    assert not model._forward_hooks_always_called
