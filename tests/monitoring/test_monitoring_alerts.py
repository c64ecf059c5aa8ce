"""Alerts: each rule finds what it is for, once, and says nothing of a healthy model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from initstats.auditing import Finding, NotFinite, UpdateRatio
from initstats.monitoring import FromAudit, Monitor, Row, Subject
from initstats.monitoring.alerts import evidence_of
from monitored import Kept, batch, small_model, train, wait_for


class Heard:
    def __init__(self) -> None:
        self.findings: list[tuple[int, Finding]] = []

    def __call__(self, finding: Finding, row: Row) -> None:
        self.findings.append((row.step, finding))

    @property
    def rules(self) -> list[str]:
        return [finding.rule for _, finding in self.findings]


def test_a_healthy_run_raises_nothing() -> None:
    heard = Heard()
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer=optimizer, every=1, window=5, on_alert=heard) as monitor:
        train(model, optimizer, monitor, 60)
    assert heard.findings == []


def test_nan_names_the_first_layer_and_step_and_is_told_once() -> None:
    heard, kept = Heard(), Kept()
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(
        model, optimizer=optimizer, every=1, window=4, on_alert=heard, sinks=[kept]
    ) as monitor:
        train(model, optimizer, monitor, 2)
        hook = model[1].register_forward_hook(lambda _m, _i, output: output.mul_(math.nan))
        train(model, optimizer, monitor, 6)
        hook.remove()
    step, finding = heard.findings[0]
    assert (step, finding.rule, finding.severity) == (4, "not-finite", "error")
    # The hook changes the output of layer 1 in place after it was remembered, so that its record
    # is left out of the first bad step: layer 2 is the first that shows it.
    assert finding.where == "2"
    assert "activations: 40 values are NaN or infinite in step 3" in finding.cause
    assert kept.rows[0].alerts[:1] == (finding,)
    assert heard.rules.count("not-finite") == 2  # a second place: the weights, in the next row
    assert heard.findings[1][1].where == "0.weight"


def test_nan_that_begins_in_the_gradients_names_the_last_parameter() -> None:
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.nan

    heard = Heard()
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hook = model[1].register_forward_hook(lambda _m, _i, output: Poison.apply(output))
    with Monitor(model, optimizer=optimizer, every=1, on_alert=heard) as monitor:
        train(model, optimizer, monitor, 1)
    hook.remove()
    _, finding = heard.findings[0]
    assert finding.where == "1.bias"
    assert set(finding.also) == {"1.weight", "0.bias", "0.weight"}
    assert finding.cause.startswith("gradients: 8 values")


@pytest.mark.parametrize(
    ("scale", "after", "places"), [(1.0, "softmax", 0), (1e5, "softmax", 1), (1.0, "norm", 1)]
)
def test_a_mask_of_minus_infinity_is_none_until_something_else_is_not_finite(
    scale: float, after: str, places: int
) -> None:
    class Scores(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * scale).masked_fill(torch.arange(8) > 4, -math.inf)

    heard = Heard()
    last = nn.Softmax(-1) if after == "softmax" else nn.LayerNorm(8)
    model = nn.Sequential(nn.Linear(8, 8), Scores(), last, nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(
        model,
        optimizer=optimizer,
        every=1,
        watch=("activations", "inputs", "gradients"),
        on_alert=heard,
    ) as monitor:
        train(model, optimizer, monitor, 2)
    assert heard.rules.count("not-finite") >= places
    if not places:
        assert "not-finite" not in heard.rules


def test_a_spike_inside_a_window_is_found() -> None:
    heard = Heard()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer=optimizer, every=1, window=10, on_alert=heard) as monitor:
        train(
            model,
            optimizer,
            monitor,
            40,
            lambda i: batch(i) * (100.0 if i == 33 else 1.0),
        )
    spikes = [(step, f) for step, f in heard.findings if f.rule == "gradient-spike"]
    assert [step for step, _ in spikes] == [40]
    assert spikes[0][1].where == "all parameters"
    assert spikes[0][1].value > spikes[0][1].threshold > 0


def test_a_dead_layer_is_named() -> None:
    heard = Heard()
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, on_alert=heard) as monitor:
        train(model, optimizer, monitor, 3)
    dead = [(step, f.where) for step, f in heard.findings if f.rule == "dead-layer"]
    assert dead == [(1, "1")]


def test_vanishing_gradients_are_named_only_next_to_others() -> None:
    heard = Heard()
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
    with Monitor(model, every=1, watch=("gradients",), on_alert=heard) as monitor:
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e-9)  # small everywhere: the loss is scaled, no more
        monitor.step()
        assert heard.findings == []
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        model[0].weight.grad = torch.full((8, 8), 1e-9)
        model[0].bias.grad = torch.zeros(8)  # a vector may have none by design
        monitor.step()
    assert [(f.rule, f.where) for _, f in heard.findings] == [("vanishing-gradient", "0.weight")]


def test_rules_of_the_audit_judge_a_row() -> None:
    heard, kept = Heard(), Kept()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    rules = [FromAudit(UpdateRatio(), rows=2), FromAudit(NotFinite())]
    with Monitor(
        model, optimizer=optimizer, every=1, on_alert=heard, rules=rules, sinks=[kept]
    ) as monitor:
        train(model, optimizer, monitor, 1)
    assert heard.rules == ["update-ratio"]
    finding = heard.findings[0][1]
    assert finding.value == pytest.approx(kept.rows[0].update_ratios()[finding.where])
    evidence = evidence_of(kept.rows[0], Subject.of(model))
    assert evidence.layers["0"].matrix is not None
    assert evidence.parameters["0.weight"].shape == (16, 8)


def test_a_rule_that_raises_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FromAudit):
        def check(self, *_: object) -> object:  # type: ignore[override]
            raise KeyError("mine")

    model = small_model()
    kept = Kept()
    rules = [Broken(NotFinite())]
    with Monitor(model, every=1, watch=("weights",), rules=rules, sinks=[kept]) as monitor:
        monitor.step()
        monitor.step()
    assert len(kept.rows) == 2
    assert caplog.text.count("rule Broken is given up") == 1


class Adapted(nn.Module):
    """A frozen layer with an adapter that starts at 0, and what passes its output on."""

    def __init__(self, zero: str = "b", *, detached: bool = False) -> None:
        super().__init__()
        self.w = nn.Linear(8, 8).requires_grad_(False)
        self.a, self.b = nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False)
        self.drop, self.detached = nn.Dropout(0.1), detached
        for name in zero:
            nn.init.zeros_(self.get_submodule(name).weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.drop(self.b(self.a(x)))
        return self.w(x) + (branch.detach() if self.detached else branch)


@pytest.mark.parametrize("rate", [1e-3, 0.0])
def test_an_adapter_that_starts_at_zero_raises_nothing(rate: float) -> None:
    heard, model = Heard(), nn.Sequential(Adapted(), nn.Tanh(), Adapted())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    with Monitor(model, optimizer=optimizer, every=1, on_alert=heard) as monitor:
        train(model, optimizer, monitor, 5)
    assert heard.findings == []


def test_an_adapter_that_stays_at_zero_is_dead() -> None:
    heard, model = Heard(), nn.Sequential(Adapted("ab"), nn.Tanh(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with Monitor(model, optimizer=optimizer, every=1, on_alert=heard) as monitor:
        train(model, optimizer, monitor, 3)
    found = {(f.rule, f.where) for _, f in heard.findings}
    assert {("dead-layer", "0.a"), ("dead-layer", "0.b"), ("dead-layer", "0.drop")} <= found


@pytest.mark.parametrize("steps", [10, 200])
def test_a_warm_up_from_zero_raises_nothing_and_a_rate_that_stays_small_does(steps: int) -> None:
    for warm in (True, False):
        heard, kept, model = Heard(), Kept(), small_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if warm else 1e-8)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i, warm=warm: min(1.0, i / steps) if warm else 1.0
        )
        with Monitor(model, optimizer=optimizer, every=1, on_alert=heard, sinks=[kept]) as monitor:
            for i in range(60):
                train(model, optimizer, monitor, 1)
                schedule.step()
                wait_for(kept, i + 1)
        assert heard.rules == ([] if warm else ["update-ratio"])


def test_a_spike_is_found_though_the_set_of_gradients_changes() -> None:
    heard, kept = Heard(), Kept()
    model = nn.ModuleList(nn.Linear(8, 4) for _ in range(4))
    with Monitor(
        model, every=1, window=2, watch=("gradients",), on_alert=heard, sinks=[kept]
    ) as monitor:
        for i in range(120):
            model.zero_grad()
            scale = 1e4 if i == 100 else 1.0
            for chosen in {i % 4, (i // 5) % 4}:
                (model[chosen](batch(i)).square().mean() * scale).backward()
            monitor.step()
            wait_for(kept, (i + 1) // 2)
    spikes = [(step, f) for step, f in heard.findings if f.rule == "gradient-spike"]
    assert [step for step, _ in spikes] == [102]
    assert spikes[0][1].where == "all parameters"
    assert spikes[0][1].also == ("0.weight", "0.bias")
    assert all(math.isfinite(norm) for row in kept.rows for norm in row.gradient_norm)
