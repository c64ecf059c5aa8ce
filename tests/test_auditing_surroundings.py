"""The audit works on what people train: batches, modules, modes and wrappers of all kinds."""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from audited_models import classifier, demo_batch, demo_gpt, labelled
from initstats.auditing import AuditReport, audit

LOSS = functional.cross_entropy


def run(model: nn.Module, batch: Any = None, **options: Any) -> AuditReport:
    options = {"loss_fn": LOSS, "steps": 3, **options}
    return audit(model, labelled() if batch is None else batch, **options)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )


# --- batches


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Example:
    x: Tensor
    y: Tensor


class TakesExample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, example: Example) -> Tensor:
        return LOSS(self.body(example.x), example.y)


class TakesNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        scores = self.body(x)
        return {"scores": scores, "loss": LOSS(scores, y)}


class TakesSeveral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = net()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.body(a + b)
        return out


def test_batches_of_all_kinds_give_the_same_losses() -> None:
    x, y = labelled()
    expected = run(net()).loss.values
    assert run(net(), Pair(x, y)).loss.values == expected
    assert run(net(), [x, y]).loss.values == expected
    assert run(TakesExample(), Example(x, y), loss_fn=None).loss.values == expected
    for mapping in ({"x": x, "y": y}, UserDict(x=x, y=y)):  # HF's BatchEncoding is a UserDict
        assert run(TakesNames(), mapping, loss_fn=None).loss.values == expected
    assert run(TakesSeveral(), (x / 2, x / 2, y)).loss.values == pytest.approx(expected)


def test_a_dataclass_on_another_device_is_refused() -> None:
    x, y = labelled()
    with pytest.raises(ValueError, match="expected the batch on the device of the model"):
        run(TakesExample(), Example(x.to("meta"), y), loss_fn=None)


def test_a_batch_encoding_and_a_model_output_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16, loss_type="ForCausalLM"
    )
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    batch = transformers.BatchEncoding({"input_ids": tokens, "labels": tokens})
    report = run(model, batch, loss_fn=None, recipe="gpt2")
    assert report.loss.expected is not None
    assert any(layer.name == "transformer.h.1" for layer in report.layers)


# --- modules


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


# --- modes and wrappers


def test_an_outer_no_grad_and_inference_mode_do_not_matter() -> None:
    batch, expected = labelled(), run(net()).loss.values
    model = net()
    with torch.no_grad():
        assert run(model, batch).loss.values == expected
    with torch.inference_mode():
        assert run(model, batch).loss.values == expected


def test_a_model_in_eval_mode_is_trained_and_put_back() -> None:
    model = classifier().eval()
    report = run(model)
    assert not any(module.training for module in model.modules())
    assert report.loss.values == run(classifier()).loss.values


def test_autocast_around_the_audit_sees_the_weights_of_every_step() -> None:
    fast = {"optimizer": lambda ps: torch.optim.SGD(ps, lr=1.0), "steps": 6}
    expected = run(net(), **fast).loss.values
    model, batch = net(), labelled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = run(model, batch, **fast)
        after = model(batch[0])
    # bfloat16 keeps 8 bits: the losses agree to 2^-8 per operation, of which five follow.
    assert report.loss.values == pytest.approx(expected, rel=5 * 2**-8)
    assert report.loss.values[-1] < 0.9 * report.loss.values[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(after, model(batch[0]))


def test_a_forward_wrapped_by_accelerate_is_audited() -> None:
    model = net()
    plain = model.forward

    def forward(_self: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(x).float()

    model.forward = MethodType(forward, model)
    wrapped = model.forward
    report = run(model)
    assert [layer.name for layer in report.layers] == ["0", "1", "2", "3", "4"]
    assert report.loss.values == pytest.approx(run(net()).loss.values, rel=5 * 2**-8)
    assert model.forward is wrapped


def test_data_parallel_is_taken_off() -> None:
    report = run(nn.DataParallel(net()))
    assert report.settings["model"] == "Sequential"
    assert report.loss.values == run(net()).loss.values


def test_a_compiled_model_and_compiled_parts_are_recorded_uncompiled() -> None:
    expected = run(net())
    whole = torch.compile(net(), backend="eager")
    in_place = net()
    in_place.compile(backend="eager")
    part = net()
    part[2] = torch.compile(part[2], backend="eager")
    with torch.no_grad():
        in_place(labelled()[0])
        part(labelled()[0])
    for model, name in ((whole, "2"), (in_place, "2"), (part, "2._orig_mod")):
        report = run(model)
        assert report.loss.values == pytest.approx(expected.loss.values, rel=1e-6)
        layers = {layer.name: layer for layer in report.layers}
        assert layers[name].activation.rms == pytest.approx(
            expected.evidence.layers["2"].activation.rms, rel=1e-6
        )


# --- optimizers and random generators


def test_an_optimizer_with_groups_and_its_scheduler_are_as_before() -> None:
    model = net()
    other = nn.Parameter(torch.ones(3))
    groups = [{"params": [*model[0].parameters(), other], "lr": 0.1}, {"params": model[2].weight}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    (LOSS(model(labelled()[0]), labelled()[1]) + other.sum()).backward()
    optimizer.step()
    scheduler.step()
    held = optimizer.param_groups[0]
    moment = optimizer.state[model[0].weight]["momentum_buffer"]
    values, gradient = moment.clone(), other.grad
    kept = other.detach().clone()
    rates, state = [g["lr"] for g in optimizer.param_groups], scheduler.state_dict()

    run(model, optimizer=optimizer)

    assert optimizer.param_groups[0] is held
    assert [g["lr"] for g in optimizer.param_groups] == rates == [0.05, 0.005]
    assert optimizer.state[model[0].weight]["momentum_buffer"] is moment
    assert torch.equal(moment, values)
    assert scheduler.state_dict() == state
    assert torch.equal(other, kept)
    assert other.grad is gradient
    assert set(optimizer.state) == {*model[0].parameters(), other, model[2].weight}


def test_an_audit_before_training_does_not_hide_a_wrong_order_of_scheduler_and_optimizer() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    run(model, optimizer=optimizer)
    with pytest.warns(UserWarning, match="lr_scheduler.step.* before .*optimizer.step"):
        scheduler.step()


def test_the_parameters_of_a_loss_are_as_before() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return LOSS(out * self.scale, y)

    loss, model = Scaled(), net()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=1.0)
    run(model, loss_fn=loss, optimizer=optimizer)
    assert float(loss.scale.detach()) == 1.0
    assert loss.scale.grad is None


def test_the_random_generators_of_numpy_and_python_are_as_before() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> Tensor:
            noise = random.random() + float(np.random.rand())  # noqa: NPY002
            out: Tensor = self.body(x + noise + torch.rand(()))
            return out

    def states() -> tuple[Any, ...]:
        numbers = np.random.get_state()  # noqa: NPY002
        return random.getstate(), numbers[1].tolist(), numbers[2:], torch.get_rng_state().tolist()

    before, model = states(), Noisy()
    before = states()
    run(model)
    assert states() == before
