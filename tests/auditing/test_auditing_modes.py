"""The audit works in the modes, wrappers, optimizers and generators that people train with."""

from __future__ import annotations

import random
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audited_models import LOSS, classifier, labelled, net, run


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
