"""One number per name: cosine of momentum and gradient, share near zero, calls per module."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initstats import sinks
from initstats.monitoring import Monitor, Row
from initstats.monitoring.heat_map import scale_by_depth
from initstats.monitoring.row_merge import merge_rows
from monitored import Kept, batch, small_model, train, wait_for

OPTIMIZERS = {
    "adamw": (lambda p: torch.optim.AdamW(p, lr=1e-2), "exp_avg"),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=1e-2), "exp_avg"),
    "fused": (lambda p: torch.optim.Adam(p, lr=1e-2, fused=True), "exp_avg"),
    "sgd": (lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True), "momentum_buffer"),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9), "momentum_buffer"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scale", [1.0, 1e-14])
def test_the_cosine_is_that_of_the_momentum_and_the_gradient(name: str, scale: float) -> None:
    make, key = OPTIMIZERS[name]
    model, kept, expected = small_model(), Kept(), []
    optimizer = make(model.parameters())
    watch = ("momentum_cosine",)
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        for i in range(4):
            optimizer.zero_grad()
            (model(batch(i)).square().mean() * scale).backward()
            optimizer.step()
            found = {}
            for n, p in model.named_parameters():
                assert p.grad is not None
                a, b = optimizer.state[p][key].double(), p.grad.double()
                found[n] = float((a * b).sum() / (a.norm() * b.norm()))
            expected.append(found)
            monitor.step()
            wait_for(kept, i + 1)
    for row, by_name in zip(kept.rows, expected, strict=True):
        assert row.momentum_cosines() == pytest.approx(by_name, abs=2e-6)
        assert row.tables["momentum_cosine"]["0.weight"].count == 1
        assert row.scalars()["momentum_cosine_median"] <= 1 + 1e-6
        assert not row.missing


def test_a_cosine_that_is_not_there_is_named() -> None:
    model, kept = small_model(), Kept()
    model.add_module("unused", nn.Linear(2, 2))
    optimizers = [
        torch.optim.SGD(model[0].parameters(), lr=0.1),
        torch.optim.Adam([*model[2].parameters(), *model.unused.parameters()]),
    ]
    watch = ("momentum_cosine",)
    with Monitor(model, optimizer=optimizers, every=1, watch=watch, sinks=[kept]) as monitor:
        out = model[2](model[1](model[0](batch(0))))
        out.square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        monitor.step()
    (row,) = kept.rows
    assert set(row.momentum_cosines()) == {"2.weight", "2.bias"}
    none = "no momentum in the state of the optimizer"
    assert row.missing["momentum_cosine"] == dict.fromkeys(
        ("0.weight", "0.bias", "unused.weight", "unused.bias"), none
    )
    with pytest.raises(ValueError, match="expected an optimizer to watch its momentum"):
        Monitor(model, watch=watch)


def test_a_gradient_of_0_has_cosine_0_and_one_of_nan_is_nan() -> None:
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    watch = ("momentum_cosine",)
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        for factor in (1.0, 0.0, float("nan")):
            optimizer.zero_grad()
            (model(batch(0)).square().mean() * factor).backward()
            optimizer.step()
            monitor.step()
            wait_for(kept, len(kept.rows) + 1)
    assert [row.momentum_cosines()["0.weight"] for row in kept.rows[:2]] == [
        pytest.approx(1.0, abs=1e-6),
        0.0,
    ]
    assert kept.rows[2].tables["momentum_cosine"]["0.weight"].nan == 1


def near_zero(function: nn.Module, mean: float, std: float) -> float:
    model = nn.Sequential(nn.Identity(), function)
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(64, 512, generator=generator) * std + mean).requires_grad_()
    kept = Kept()
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        model(x).sum().backward()
        monitor.step()
    (row,) = kept.rows
    return row.near_zero_shares()["1"]


@pytest.mark.parametrize("function", [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Hardswish()])
def test_the_share_near_zero_tells_units_that_pass_nothing_from_small_ones(
    function: nn.Module,
) -> None:
    assert near_zero(function, 0.0, 1.0) < 0.01
    assert near_zero(function, 0.0, 1e-5) < 0.01  # small on both sides: alive
    assert near_zero(function, -30.0, 1.0) == 1.0
    half = near_zero(function, 0.0, 1000.0)  # half of the inputs are far below 0
    assert half == pytest.approx(0.5, abs=0.02)


def test_what_is_no_gelu_or_silu_has_no_share() -> None:
    class Gelu(nn.Linear):
        pass

    model, kept = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Gelu(8, 8), nn.GELU()), Kept()
    for histograms in (True, False):
        monitor = Monitor(model, every=1, sinks=[kept], histograms=histograms)
        with monitor:
            model(batch(0)).sum().backward()
            monitor.step()
    assert kept.rows[0].smooth == ("3",)
    assert [set(row.near_zero_shares()) for row in kept.rows] == [{"3"}, set()]


class Experts(nn.Module):
    """Three experts; which are called follows from the step."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor, calls: tuple[int, ...]) -> Tensor:
        for expert, n in zip(self.experts, calls, strict=True):
            for _ in range(n):
                x = x + expert(x)
        return self.act(x)


def rows_of_experts(sink: Any, **settings: Any) -> Kept:
    torch.manual_seed(0)
    model, kept = Experts(), Kept()
    optimizer = torch.optim.AdamW(model.parameters())
    kinds = ("weights", "gradients", "activations", "updates", "momentum_cosine")
    how = {"every": 1, "watch": kinds, "sinks": [kept, *sink], **settings}
    with Monitor(model, optimizer=optimizer, **how) as monitor:
        for i, calls in enumerate([(1, 2, 0), (1, 0, 0), (1, 1, 0), (3, 1, 0)]):
            optimizer.zero_grad()
            model(batch(i), calls).square().mean().backward()
            optimizer.step()
            monitor.step()
            wait_for(kept, (i + 1) // settings.get("window", 1))
    return kept


@pytest.mark.parametrize("held_bytes", [1, 1 << 26])
def test_rows_have_the_calls_of_each_module_per_step(held_bytes: int) -> None:
    calls = [row.calls for row in rows_of_experts([], held_bytes=held_bytes).rows]
    names = ("act", "experts.0", "experts.1", "experts.2")
    expected = [(1, 1, 2, 0), (1, 1, 0, 0), (1, 1, 1, 0), (1, 3, 1, 0)]
    assert calls == [dict(zip(names, row, strict=True)) for row in expected]
    rows = rows_of_experts([], held_bytes=held_bytes, window=2).rows
    assert [row.calls["experts.1"] for row in rows] == [1.0, 1.0]
    assert rows[1].calls["experts.0"] == 2.0
    assert merge_rows(*rows).calls["experts.0"] == 1.5


def test_calls_and_shares_and_cosines_come_back_from_a_file(tmp_path: Any) -> None:
    file = tmp_path / "run.jsonl"
    kept = rows_of_experts([sinks.JsonLines(file)])
    read = list(sinks.read_rows(file))
    for a, b in zip(kept.rows, read, strict=True):
        assert a.calls == b.calls
        assert a.smooth == b.smooth == ("act",)
        assert a.near_zero_shares() == b.near_zero_shares()
        assert a.momentum_cosines() == b.momentum_cosines()
    names, values = scale_by_depth(read, "calls", "rms", match="experts")
    assert names == ["experts.0", "experts.1", "experts.2"]
    assert values.tolist() == [[1, 1, 1, 3], [2, 0, 1, 1], [0, 0, 0, 0]]
    names, values = scale_by_depth(read, "momentum_cosine", "rms")
    assert np.nanmax(values) <= 1 + 1e-6
    assert scale_by_depth(read, "near_zero", "rms")[0] == ["act"]


def flat(rows: list[Row]) -> list[dict[str, float]]:
    from initstats.sinks.row_words import NamedNumbers

    numbers = NamedNumbers()
    return [numbers.flat(row, ("std",)) for row in rows]


def test_sinks_draw_calls_from_the_first_row_on_in_which_they_are_not_1() -> None:
    drawn = flat(rows_of_experts([]).rows)
    calls = [{k: v for k, v in row.items() if k.startswith("calls/")} for row in drawn]
    assert calls[0] == {"calls/experts.1": 2, "calls/experts.2": 0}
    assert calls[3] == {"calls/experts.0": 3, "calls/experts.1": 1, "calls/experts.2": 0}
    assert all("near_zero/act" in row for row in drawn)
    assert "momentum_cosine/experts.0.weight" in drawn[0]
    assert not any(tag.startswith("momentum_cosine_") for row in drawn for tag in row)
    model, kept = small_model(), Kept()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
    assert not any(tag.startswith("calls") for tag in flat(kept.rows)[0])


def test_the_terminal_and_the_page_show_them() -> None:
    from rich.console import Console

    from initstats.monitoring.report.page import run_page
    from initstats.sinks.row_table import row_table

    rows = rows_of_experts([]).rows
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(row_table(rows[0]))
    text = console.export_text()
    for word in ("momentum cosine", "near 0", "calls"):
        assert word in text, word
    page = run_page(rows, "run")
    for word in (
        *("momentum cosine by depth and time", "near zero by depth and time"),
        *("calls by depth and time", "near zero share", "calls per step", "NaN, inf"),
    ):
        assert word in re.sub(r"(<br>|\s)+", " ", page), word


def test_sinks_write_them(tmp_path: Any) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics.export import MetricExportResult
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Exporter:
        def __init__(self) -> None:
            self.names: set[str] = set()

        def export(self, data: Any) -> Any:
            for metric in data.resource_metrics[0].scope_metrics[0].metrics:
                self.names.add(metric.name)
            return MetricExportResult.SUCCESS

        def shutdown(self) -> None:
            pass

    exporter = Exporter()
    rows_of_experts([sinks.TensorBoard(tmp_path, prefix="a"), sinks.OpenTelemetry(exporter)])
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    for tag in ("calls/experts.1", "near_zero/act", "momentum_cosine/experts.0.weight"):
        assert f"a/{tag}" in tags
    assert {"initstats.calls", "initstats.near_zero", "initstats.momentum_cosine"} <= exporter.names


def test_they_cost_the_training_thread_nothing_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from initstats.monitoring import parameters

    def never(*_args: object) -> Tensor:
        raise AssertionError("a cosine was computed")

    monkeypatch.setattr(parameters, "_cosine", never)
    model, kept = small_model(), Kept()
    optimizer = torch.optim.Adam(model.parameters())
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
    assert kept.rows[0].calls == {"0": 1, "1": 1, "2": 1}


def test_a_parameter_that_was_replaced_between_two_steps_is_the_new_one_in_the_next_row() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    kept = Kept()
    norms = []
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for step in range(4):
            if step == 2:  # as a new head, resized embeddings, merged adapters
                model[2].weight = nn.Parameter(torch.full((4, 16), 100.0))
                optimizer.param_groups[0]["params"] = list(model.parameters())
            optimizer.zero_grad()
            model(batch(step)).square().mean().backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)))
            optimizer.step()
            monitor.step()
            wait_for(kept, step + 1)
    row = kept.rows[2]
    assert row.step == 3
    assert row.tables["weights"]["2.weight"].mean == 100.0
    assert row.gradient_norm.tolist() == pytest.approx([norms[2]], rel=1e-5)
    assert row.gradient_norm_before_clipping.tolist() == pytest.approx([norms[2]], rel=1e-5)
    assert not row.missing
