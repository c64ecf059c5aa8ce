"""The audit records modules of all kinds once per call, and puts back what they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audited_models import LOSS, demo_batch, demo_gpt, labelled, net, run


def test_a_shared_module_is_recorded_for_every_call() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(5):
                x = self.shared(x).tanh()
            out: Tensor = self.head(x)
            return out

    (layer,) = (layer for layer in run(Repeats()).layers if layer.name == "shared")
    assert layer.calls == 5
    assert layer.activation.count == 5 * 32 * 8
    assert layer.output_gradient.count == 5 * 32 * 8


class Checkpointed(nn.Module):
    def __init__(self, how: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4))
        self.head = nn.Linear(8, 4)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x) if self.how is None else checkpoint(block, x, use_reentrant=self.how)
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_nothing_twice(reentrant: bool) -> None:
    plain, report = run(Checkpointed(None)), run(Checkpointed(reentrant))
    assert report.loss == plain.loss
    assert [layer.name for layer in report.layers] == [layer.name for layer in plain.layers]
    for layer, expected in zip(report.layers, plain.layers, strict=True):
        assert layer.calls == 1
        for record, other in (
            (layer.activation, expected.activation),
            (layer.output_gradient, expected.output_gradient),
        ):
            assert (record.count, record.rms) == (other.count, pytest.approx(other.rms))


def test_frozen_parameters_are_reported_and_not_changed() -> None:
    model = net()
    model[0].requires_grad_(requires_grad=False)
    report = run(model)
    frozen = report.evidence.parameters["0.weight"]
    assert (frozen.trained, frozen.update, frozen.gradient) == (False, None, None)


def test_views_and_changes_in_place_do_not_break_the_records() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.flatten, self.relu = (
                nn.Linear(8, 16),
                nn.Unflatten(1, (4, 4)),
                nn.ReLU(inplace=True),
            )
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.flatten(self.linear(x))
            x[:, 0].mul_(2)
            x += 1
            x = self.relu(x)
            out: Tensor = self.head(x.flatten(1).transpose(0, 1).contiguous().transpose(0, 1))
            return out

    report = run(Views(), recipe=None)
    layers = {layer.name: layer for layer in report.layers}
    assert layers["linear"].activation.min < 0 <= layers["relu"].activation.min
    assert layers["linear"].output_gradient.count == 32 * 16
    assert len(report.loss.values) == 3


def test_a_batch_that_the_model_changes_is_the_same_for_every_step_and_afterwards() -> None:
    class Centres(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            out: Tensor = self.body(x)
            return out

    x, y = labelled()
    before = x.clone()
    report = run(Centres(), (x, y))
    assert torch.equal(x, before)
    assert report.loss.values == pytest.approx(run(net(), (2 * before, y)).loss.values)


def test_tied_weights_are_one_parameter() -> None:
    report = run(demo_gpt(), demo_batch(), loss_fn=None)
    assert "wte.weight" in report.evidence.parameters
    assert "lm_head.weight" not in report.evidence.parameters


def reparametrised() -> list[Callable[[], nn.Module]]:
    old: Any = nn.utils
    parametrizations: Any = nn.utils.parametrizations
    return [
        lambda: parametrizations.weight_norm(nn.Linear(8, 4)),
        lambda: parametrizations.spectral_norm(nn.Linear(8, 4)),
        lambda: old.spectral_norm(nn.Linear(8, 4)),
    ]


@pytest.mark.parametrize("make", reparametrised())
def test_parametrised_weights_are_audited_and_put_back(make: Callable[[], nn.Module]) -> None:
    layer = make()
    model = nn.Sequential(layer)
    weight = model[0].weight
    values, state = weight.detach().clone(), {n: v.clone() for n, v in model.state_dict().items()}
    report = run(model)
    assert len(set(report.loss.values)) == 3
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert torch.equal(model[0].weight, values) or model[0].weight.shape == values.shape
    if "weight" in vars(model[0]):  # an attribute that the old form computes again on each call
        assert model[0].weight is weight


def test_buffers_of_all_kinds_are_put_back() -> None:
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.BatchNorm1d(8), nn.Linear(8, 4)
            self.register_buffer("positions", torch.arange(4.0).expand(2, 4))
            self.register_buffer("cache", None)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.cache = x.detach()
            self.last = x
            self.calls += 1
            self.positions = self.positions + 1
            out: Tensor = self.linear(self.norm(x))
            return out

    model = Buffers()
    positions = model.positions
    run(model)
    assert model.cache is None
    assert not hasattr(model, "last")
    assert model.calls == 0
    assert model.positions is positions
    assert int(model.norm.num_batches_tracked) == 0
    assert torch.equal(model.norm.running_var, torch.ones(8))


def test_expanded_buffers_changed_in_place_are_put_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)
            self.register_buffer("row", torch.zeros(1, 4))
            self.register_buffer("rows", self.row.expand(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.row += 1
            out: Tensor = self.linear(x)
            return out

    model = Counts()
    run(model)
    assert torch.equal(model.rows, torch.zeros(3, 4))


def test_a_subclass_of_tensor_is_a_batch() -> None:
    class Image(Tensor):
        pass

    x, y = labelled()
    report = run(net(), (x.as_subclass(Image), y))
    assert report.loss.values == run(net()).loss.values


def test_a_gradient_penalty_is_differentiated_twice_and_recorded_once() -> None:
    class Penalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            x = x.requires_grad_()
            scores = self.body(x)
            (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
            return LOSS(scores, y) + slope.square().mean()

    x, y = labelled()
    report = run(Penalised(), (x, y), loss_fn=None)
    assert len(set(report.loss.values)) == 3
    for layer in report.layers:
        assert layer.output_gradient.count == layer.activation.count, layer.name
    assert not x.requires_grad
    assert x.grad is None
