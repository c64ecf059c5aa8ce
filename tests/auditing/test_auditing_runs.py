"""The audit: batches and losses, that it changes nothing, and bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from audited_models import classifier, demo_batch, demo_gpt, labelled
from initstats.auditing import audit

# --- batches and losses


class WithLoss(nn.Module):
    """Returns its loss in the ways that libraries do."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        scores = self.linear(x)
        loss = functional.cross_entropy(scores, y)
        forms: dict[str, Any] = {
            "tensor": loss,
            "tuple": (scores, loss),
            "mapping": {"scores": scores, "penalty": scores.mean(), "loss": loss},
        }
        if self.form == "attribute":
            return type("Output", (), {"loss": loss, "scores": scores})()
        return forms[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping", "attribute"])
def test_the_loss_is_found_in_the_output(form: str) -> None:
    x, y = labelled()
    by_order = audit(WithLoss(form), (x, y), steps=2)
    assert by_order.loss.expected == pytest.approx(math.log(4))
    assert by_order.loss.values[0] == pytest.approx(by_order.loss.cross_entropies[0].value)
    by_name = audit(WithLoss(form), {"x": x, "y": y}, steps=2)
    assert len(by_name.loss.values) == 2


def test_a_loss_function_gets_the_last_item_or_the_whole_batch() -> None:
    x, y = labelled()
    scores = audit(nn.Linear(8, 4), (x, y), loss_fn=nn.CrossEntropyLoss(), steps=1)
    assert scores.loss.cross_entropies[0].classes == 4
    rebuilt = audit(nn.Linear(8, 8), x, loss_fn=functional.mse_loss, steps=1)
    assert rebuilt.loss.expected is None
    named = audit(
        nn.Linear(8, 4),
        {"input": x},
        loss_fn=lambda out, batch: (out.mean() - batch["input"].mean()) ** 2,
        steps=1,
    )
    assert math.isfinite(named.loss.values[0])


def test_only_means_of_cross_entropies_are_compared_with_a_uniform_guess() -> None:
    def losses(out: Tensor, y: Tensor) -> Tensor:
        total = functional.cross_entropy(out, y, reduction="sum")
        mean = functional.nll_loss(functional.log_softmax(out, dim=1), y)
        return total + mean + functional.cross_entropy(out, y)

    calls = audit(nn.Linear(8, 4), labelled(), loss_fn=losses, steps=1).loss.cross_entropies
    assert [call.classes for call in calls] == [4, 4]


# --- that it changes nothing


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_everything_is_as_before() -> None:
    model, data = classifier(), labelled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    functional.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()
    model[1].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    moments = {k: {n: v.clone() for n, v in s.items()} for k, s in optimizer.state.items()}
    random = torch.get_rng_state()

    audit(model, data, loss_fn=functional.cross_entropy, optimizer=optimizer, steps=3)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    for parameter, (gradient, values) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, values)
    for parameter, kept in moments.items():
        for name, value in kept.items():
            assert torch.equal(optimizer.state[parameter][name], value), name
    assert torch.equal(torch.get_rng_state(), random)


def test_everything_is_as_before_also_after_an_exception() -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1  # another tensor, not in place
            if self.calls > self.limit:
                raise RuntimeError("broken layer")
            out: Tensor = self.linear(x).square().mean()
            return out

    for limit in (0, 2):
        model = Fragile().eval()
        model.limit = limit
        before, random = state(model), torch.get_rng_state()
        with pytest.raises(RuntimeError, match="broken layer"):
            audit(model, torch.randn(2, 8))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not model.training
        assert all(p.grad is None for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())
        del random


def test_no_hook_stays() -> None:
    model = demo_gpt()
    audit(model, demo_batch(), steps=1)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_audit_can_be_repeated_with_the_same_result() -> None:
    model, data = demo_gpt(), demo_batch()
    first, second = audit(model, data, steps=3), audit(model, data, steps=3)
    assert first.loss == second.loss


def test_on_step_is_told_of_every_step() -> None:
    told: list[int] = []
    audit(demo_gpt(), demo_batch(), steps=3, on_step=told.append)
    assert told == [1, 2, 3]


# --- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "expected steps >= 1, got steps=0"),
        ({"seeds": 0}, ValueError, "expected seeds >= 1, got seeds=0"),
        ({"batch": None}, TypeError, "expected a batch, got batch=None"),
        (
            {"model": 3},
            TypeError,
            "expected model to be a torch.nn.Module or a function that builds one, got model=int",
        ),
        ({"optimizer": 3}, TypeError, "expected optimizer to be a torch optimizer or a function"),
        (
            {"loss_fn": lambda out, _y: out},
            ValueError,
            r"expected a scalar loss, got shape=\(32, 4\)",
        ),
        ({"loss_fn": lambda _out, _y: 1.0}, TypeError, "expected loss_fn to return a tensor, got"),
        (
            {"loss_fn": lambda out, _y: out.detach().mean()},
            ValueError,
            "expected a loss that depends on the parameters, got loss.requires_grad=False",
        ),
        (
            {"model": WithLoss("nothing").requires_grad_(False)},
            ValueError,
            "expected a model with tr",
        ),
        (
            {"model": nn.Linear(8, 4, device="meta")},
            ValueError,
            "expected parameters with values, got device=meta",
        ),
        (
            {"batch": (torch.empty(2, 8, device="meta"), torch.zeros(2))},
            ValueError,
            "expected the batch on the device of the model, cpu, got device=meta; move it",
        ),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())},
            ValueError,
            "expected an optimizer over parameters of the model, got optimizer=SGD over others",
        ),
    ],
)
def test_bad_arguments_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": nn.Linear(8, 4),
        "batch": labelled(),
        "loss_fn": functional.cross_entropy,
        **options,
    }
    with pytest.raises(error, match=f"^initstats.audit: {message}"):
        audit(arguments.pop("model"), arguments.pop("batch"), **arguments)


def test_a_model_that_returns_no_loss_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected a scalar loss, got shape=\(2, 4\); .* pass loss_fn"
    ):
        audit(nn.Linear(8, 4), torch.randn(2, 8))

    class TwoScores(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), super().forward(x)

    with pytest.raises(
        TypeError, match=r"expected a loss in the output of the model, got output=tup"
    ):
        audit(TwoScores(8, 4), torch.randn(2, 8))
