"""The monitor against torch's own numbers: what is measured, when, and over which window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import initstats
from initstats.monitoring import Monitor
from monitored import Kept, batch, small_model, train

# One float32 ulp of the largest element and sums in another order: far above both.
CLOSE = 1e-5
ALL = ("weights", "gradients", "activations", "inputs", "updates", "moments")


def test_one_step_shows_what_torch_computes() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sink = Kept()
    monitor = Monitor(model, optimizer=optimizer, every=1, watch=ALL, sinks=[sink]).attach()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hidden = model[0](batch(0)).detach()
    model(batch(0)).square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    optimizer.zero_grad()  # gradients are measured before this
    monitor.step()
    monitor.close()
    (row,) = sink.rows
    tables = row.tables
    for name, p in model.named_parameters():
        std = tables["weights"][name].std
        assert std == pytest.approx(before[name].std().item(), rel=CLOSE)
        assert tables["gradients"][name].l2 == pytest.approx(
            gradients[name].norm().item(), rel=1e-5
        )
        change = p.detach() - before[name]
        update = tables["updates"][name]
        # The subtraction cancels: one ulp of the weights, 2^-24, against changes of 1e-2.
        assert update.mean == pytest.approx(change.mean().item(), abs=1e-7)
        assert update.min == pytest.approx(change.min().item(), abs=1e-7)
        assert update.histogram.total == p.numel()
        assert sum(b.count for b in update.histogram.buckets if b.high < 0) == int(
            (change < 0).sum()
        )
        state = optimizer.state[p]
        assert tables["exp_avg"][name].l1 == pytest.approx(state["exp_avg"].abs().sum().item())
        assert tables["exp_avg_sq"][name].max == pytest.approx(state["exp_avg_sq"].max().item())
        # After one step v = (1 - beta2) g^2, so that g^2 over the corrected v is 1.
        assert tables["square_gradient_ratio"][name].mean == pytest.approx(1.0, rel=CLOSE)
        ratio = change.square().mean().sqrt() / before[name].square().mean().sqrt()
        assert row.update_ratios()[name] == pytest.approx(ratio.item(), rel=1e-4)
    # The hooks also saw the call for `hidden`, of the same batch: both calls are in the record.
    assert tables["activations"]["0"].mean == pytest.approx(hidden.mean().item(), rel=1e-4)
    assert tables["inputs"]["0"].max == pytest.approx(batch(0).max().item())
    norm = torch.nn.utils.get_total_norm(list(gradients.values())).item()
    assert row.gradient_norm.tolist() == pytest.approx([norm], rel=CLOSE)
    assert row.missing == {}


def test_without_the_optimizer_updates_and_gradients_are_those_at_the_call() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sink = Kept()
    with Monitor(model, every=3, sinks=[sink]) as monitor:
        train(model, optimizer, monitor, 7)
    assert [row.step for row in sink.rows] == [1, 4, 7]
    last = sink.rows[-1].tables
    weight = model[0].weight
    assert last["weights"]["0.weight"].std == pytest.approx(weight.std().item(), rel=CLOSE)
    # SGD: update = -lr * gradient, up to the rounding of weights near 0.35.
    assert last["updates"]["0.weight"].l2 == pytest.approx(
        0.5 * weight.grad.norm().item(), rel=1e-3
    )
    assert last["updates"]["0.weight"].mean == pytest.approx(
        -0.5 * weight.grad.mean().item(), abs=1e-7
    )


def test_a_window_keeps_extremes_and_merges_records() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    whole, single = Kept(), Kept()
    scales = [1.0, 50.0, 2.0, 1.0, 1.0]  # the spike in step 2 must not be lost
    for window, sink in ((5, whole), (1, single)):
        with Monitor(model, optimizer=optimizer, every=1, window=window, sinks=[sink]) as monitor:
            train(model, optimizer, monitor, 5, lambda i: scales[i] * batch(i))
    (row,) = whole.rows
    assert (row.first_step, row.step, row.measured, row.steps) == (1, 5, 5, (1, 2, 3, 4, 5))
    norms = [float(r.gradient_norm[0]) for r in single.rows]
    assert row.gradient_norm.tolist() == pytest.approx(norms)
    for kind in ("gradients", "activations", "updates", "weights"):
        table = row.tables[kind]
        for name in table:
            parts = [r.tables[kind][name] for r in single.rows]
            merged = parts[0]
            for part in parts[1:]:
                merged = merged.merge(part)
            assert table[name].histogram == merged.histogram
            assert table[name].std == pytest.approx(merged.std, nan_ok=True)
            assert table[name].kurtosis == pytest.approx(merged.kurtosis, nan_ok=True, rel=1e-6)
            i = table.index[name]
            rms = [part.rms for part in parts]
            assert table.high["rms"][i] == pytest.approx(max(rms))
            assert table.low["rms"][i] == pytest.approx(min(rms))
            assert table.average["rms"][i] == pytest.approx(sum(rms) / 5)


def test_every_measures_no_other_step() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Kept()
    launches = []
    with Monitor(model, optimizer=optimizer, every=4, window=2, sinks=[sink]) as monitor:
        original = monitor._window.measure
        assert original is not None
        launches.append(monitor._taps.active)
        for i in range(9):
            launches.append(monitor._taps.active)
            train(model, optimizer, monitor, 1, lambda _, i=i: batch(i))
    assert launches[1:] == [True, False, False, False, True, False, False, False, True]
    assert [row.steps for row in sink.rows] == [(1, 5), (9,)]


def test_one_launch_per_kind_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from initstats import _ops

    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    calls: list[int] = []

    def count(name: str) -> None:
        original = getattr(_ops, name)

        def counted(tensors: list[torch.Tensor], *rest: Any, **more: Any) -> Any:
            calls.append(len(tensors))
            return original(tensors, *rest, **more)

        monkeypatch.setattr(_ops, name, counted)

    count("stats")
    count("square_ratio_stats")
    count("copy_stats_")  # weights, which are copied for updates while they are read
    with Monitor(model, optimizer=optimizer, every=1, watch=ALL, sinks=[]) as monitor:
        train(model, optimizer, monitor, 3)
    # activations, inputs, weights, gradients, updates, first moments, second ones and ratios
    assert calls == [3, 3, 4, 4, 4, 4, 4] * 3


def test_gradients_are_multiplied_by_unscale_and_histograms_move_with_them() -> None:
    rows = {}
    for scale in (1.0, 1024.0, 1000.0):
        model = small_model()
        sink = Kept()
        with Monitor(
            model,
            every=1,
            watch=("gradients",),
            sinks=[sink],
            unscale=lambda scale=scale: torch.tensor(1.0 / scale, dtype=torch.float64),
        ) as monitor:
            (scale * model(batch(0)).square().mean()).backward()
            monitor.step()
        rows[scale] = sink.rows[0].tables["gradients"]
    name = "0.weight"
    assert rows[1024.0][name].histogram == rows[1.0][name].histogram
    assert rows[1024.0][name].std == rows[1.0][name].std
    assert rows[1024.0][name].min_abs == rows[1.0][name].min_abs
    assert rows[1000.0][name].kurtosis == pytest.approx(rows[1.0][name].kurtosis, rel=1e-4)
    with pytest.raises(ValueError, match="expected a record taken with"):
        _ = rows[1000.0][name].histogram  # no exact histogram: none


def test_nan_everywhere_is_shown_and_hurts_nothing() -> None:
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    sink = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[sink]) as monitor:
        train(model, optimizer, monitor, 2, lambda _: torch.full((5, 8), math.nan))
    row = sink.rows[1]
    assert row.tables["weights"]["0.weight"].nan == 128
    assert math.isnan(row.gradient_norm[0])
    assert math.isnan(row.tables["gradients"]["0.weight"].mean)


def test_infinite_gradients_make_the_norm_infinite() -> None:
    model = small_model()
    sink = Kept()
    with Monitor(model, every=1, watch=("gradients",), sinks=[sink]) as monitor:
        for p in model.parameters():
            p.grad = torch.full_like(p, math.inf)
        monitor.step()
    assert sink.rows[0].gradient_norm.tolist() == [math.inf]


def test_a_model_is_the_same_after_close() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer=optimizer, every=1).attach()
    assert monitor.attach() is monitor
    monitor.close()
    monitor.close()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    monitor.step()  # after close: nothing


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "expected every >= 1, got every=0"),
        ({"window": 0}, ValueError, "expected window >= 1, got window=0"),
        ({"watch": ("weight",)}, ValueError, "expected watch to name some of"),
        ({"watch": ()}, ValueError, "expected watch to name some of"),
        ({"watch": ("moments",)}, ValueError, "expected an optimizer to watch its moments"),
        ({"optimizer": 3}, TypeError, "expected a torch optimizer or several, got optimizer=int"),
        ({"optimizer": [3]}, TypeError, "expected a torch optimizer or several, got optimizer=int"),
        ({"sinks": [3]}, TypeError, "expected sinks with a method write, got 3"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"initstats.Monitor: {message}"):
        Monitor(small_model(), **arguments)


def test_wrong_models_are_refused() -> None:
    with pytest.raises(TypeError, match=r"initstats\.Monitor: expected a module, got model=int"):
        Monitor(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'weight': one on the meta device; leave it out"):
        Monitor(nn.Linear(3, 3, device="meta"))
    with pytest.raises(TypeError, match=r"'weight': dtype=torch\.complex64"):
        Monitor(nn.Linear(3, 3, dtype=torch.complex64))


def test_chosen_modules_and_parameters_only() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = Kept()
    with Monitor(
        model,
        optimizer=optimizer,
        every=1,
        sinks=[sink],
        modules=lambda name, _: name == "2",
        parameters=lambda name, _: name.endswith("weight"),
        histograms=False,
    ) as monitor:
        train(model, optimizer, monitor, 1)
    tables = sink.rows[0].tables
    assert list(tables["activations"]) == ["2"]
    assert list(tables["weights"]) == list(tables["updates"]) == ["0.weight", "2.weight"]
    assert tables["weights"].places is None


def test_the_rows_of_a_batch_are_those_of_stats() -> None:
    model = small_model()
    sink = Kept()
    with Monitor(model, every=1, watch=("weights",), sinks=[sink]) as monitor:
        monitor.step()
    table, expected = sink.rows[0].tables["weights"], initstats.stats(model)
    for name, record in expected.items():
        assert table[name].to_dict() == record.to_dict()
        assert np.array_equal(table[name].histogram.counts, record.histogram.counts)


def test_a_step_of_a_monitor_that_was_never_attached_says_so() -> None:
    monitor = Monitor(small_model())
    with pytest.raises(RuntimeError, match=r"never attached; write `with Monitor"):
        monitor.step()
    monitor.attach().close()
    monitor.step()  # closed: nothing happens
