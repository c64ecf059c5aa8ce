"""The monitor under ways of training: checkpoints, accumulation, sharing, freezing, compilation."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from initstats.monitoring import Monitor
from monitored import Kept, batch, small_model, train

CLOSE = 1e-5


class Shared(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        result: Tensor = checkpoint(self.layers, x, use_reentrant=self.reentrant)
        return result


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_checkpointing_computes_again_is_not_recorded_again(reentrant: bool) -> None:
    model = Checkpointed(reentrant=reentrant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 2)
    for row in kept.rows:
        assert row.tables["activations"]["layers.0"].count == 5 * 16
        assert row.missing == {}


def test_accumulated_gradients_are_measured_once_and_activations_over_all_batches() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    outputs = []
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for i in range(3):
            outputs.append(model[0](batch(i)).detach())
            model(batch(i)).square().mean().backward()
        total = model[0].weight.grad.norm().item()
        optimizer.step()
        monitor.step()
    (row,) = kept.rows
    assert row.tables["gradients"]["0.weight"].l2 == pytest.approx(total, rel=CLOSE)
    whole = row.tables["activations"]["2"]
    assert whole.count == 3 * 5 * 4
    twice = torch.cat(outputs)  # the hooks saw this layer alone, and in the model
    assert row.tables["activations"]["0"].std == pytest.approx(
        torch.cat((twice, twice)).std().item(), rel=CLOSE
    )


def test_a_shared_module_gives_one_record_of_all_its_calls() -> None:
    model = Shared()
    kept = Kept()
    x = torch.randn(6, 8)
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        model(x)
        monitor.step()
    first = model.layer(x)
    both = torch.cat((first, model.layer(first)))
    record = kept.rows[0].tables["activations"]["layer"]
    assert record.count == both.numel()
    assert record.std == pytest.approx(both.std().item(), rel=CLOSE)
    assert record.histogram.total == both.numel()


def test_frozen_parameters_are_not_missed_and_unused_ones_are_named() -> None:
    model = small_model()
    model[0].bias.requires_grad_(False)
    model.register_parameter("spare", nn.Parameter(torch.ones(2, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        train(model, optimizer, monitor, 1)
        model[0].bias.requires_grad_(True)
        train(model, optimizer, monitor, 1)
    first, second = kept.rows
    assert "0.bias" in first.tables["weights"]
    assert "0.bias" not in first.tables["updates"]
    assert first.missing == {"gradients": {"spare": "no gradient"}}
    assert second.tables["updates"]["0.bias"].abs_max > 0


def test_gradients_that_were_deleted_before_the_step_are_named() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, every=1, sinks=[kept]) as monitor:
        model(batch(0)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        monitor.step()
    assert set(kept.rows[0].missing["gradients"].values()) == {"no gradient"}
    assert len(kept.rows[0].missing["gradients"]) == 4


def test_a_step_that_the_optimizer_skips_is_named() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = Kept()
    with Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        model(batch(0)).square().mean().backward()
        monitor.step()  # as a GradScaler that found an overflow
    (row,) = kept.rows
    assert set(row.missing["updates"].values()) == {"the optimizer did not step"}
    assert row.tables["gradients"]["0.weight"].l2 > 0


def test_sparse_gradients_count_as_dense() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True))
    kept = Kept()
    with Monitor(model, every=1, watch=("gradients",), sinks=[kept]) as monitor:
        model(torch.tensor([1, 1, 3])).sum().backward()
        monitor.step()
    record = kept.rows[0].tables["gradients"]["0.weight"]
    assert (record.count, record.zero, record.max) == (40, 32, 2.0)


def test_an_inplace_module_does_not_change_the_record_of_its_input() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 2))
    kept = Kept()
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        model(batch(0))
        monitor.step()
    table = kept.rows[0].tables["activations"]
    assert table["0"].min == pytest.approx(model[0](batch(0)).min().item(), rel=CLOSE)
    assert table["0"].min < 0 == table["1"].min


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y += x
        return y


def test_an_output_changed_in_place_is_named_and_then_recorded_at_once() -> None:
    model = Residual()
    kept = Kept()
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        for _ in range(2):
            model(batch(0))
            monitor.step()
    assert kept.rows[0].missing == {
        "activations": {
            "layer": "changed in place after the module returned; recorded at once from now on"
        }
    }
    record = kept.rows[1].tables["activations"]["layer"]
    assert record.std == pytest.approx(model.layer(batch(0)).std().item(), rel=CLOSE)


def test_evaluation_is_not_recorded() -> None:
    model = small_model()
    kept = Kept()
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        model(batch(0))
        model.eval()
        with torch.inference_mode():
            model(batch(1))
        model.train()
        monitor.step()
    assert kept.rows[0].tables["activations"]["0"].count == 5 * 16


def test_a_silent_forward_pass_is_warned_of_once() -> None:
    model = small_model().eval()
    with Monitor(model, every=1, watch=("activations",)) as monitor:
        with pytest.warns(UserWarning, match="attach the monitor before torch.compile"):
            monitor.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.step()


def test_a_graph_capture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    with (
        Monitor(model, every=1, watch=("activations",)),
        pytest.raises(RuntimeError, match="expected no CUDA graph capture while"),
    ):
        model(batch(0))


def test_replicas_in_threads_are_merged() -> None:
    model = small_model()
    kept = Kept()
    with Monitor(model, every=1, watch=("activations",), sinks=[kept]) as monitor:
        # As DataParallel: shallow copies of every module, which share the hooks, one per thread.
        replicas = [copy.copy(model) for _ in range(4)]
        for replica in replicas:
            replica._modules = {name: copy.copy(child) for name, child in model._modules.items()}
        threads = [
            threading.Thread(target=replica, args=(batch(i),)) for i, replica in enumerate(replicas)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        monitor.step()
    table = kept.rows[0].tables["activations"]
    expected = torch.cat([model[0](batch(i)) for i in range(4)])
    assert table["0"].count == expected.numel()
    assert table["0"].std == pytest.approx(expected.std().item(), rel=CLOSE)


def test_tensors_are_held_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from initstats import _ops

    calls: list[int] = []
    original = _ops.stats

    def counted(tensors: list[torch.Tensor], *rest: Any, **more: Any) -> Any:
        calls.append(len(tensors))
        return original(tensors, *rest, **more)

    monkeypatch.setattr(_ops, "stats", counted)
    model = small_model()
    with Monitor(model, every=1, watch=("activations",), held_bytes=5 * 16 * 4) as monitor:
        model(batch(0))
        monitor.step()
    assert calls == [2, 1]  # the second tensor passes the limit
