"""The audit: exceptions of the model are explained and passed on, and bad input is refused."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from audited_models import classifier, labelled
from initstats.auditing import audit


class BrokenError(ArithmeticError):
    """An exception of the model's own."""


class Fragile(nn.Module):
    """Raises in one of its passes."""

    def __init__(self, where: str, call: int = 1) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.where = where
        self.call = call
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.second(self.first(x))
        if self.where == "itself" and self.calls == self.call:
            raise BrokenError("no way")
        if self.where == "last":
            return self.last(x[:, :3])  # type: ignore[no-any-return]
        if self.where == "backward":
            x = x.exp()
            y = x * x
            x.add_(1)
            return self.last(y)  # type: ignore[no-any-return]
        return self.last(x)  # type: ignore[no-any-return]


def note_of(model: nn.Module, error: type[Exception], **options: Any) -> str:
    options = {"loss_fn": functional.cross_entropy, "steps": 3, **options}
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(error) as caught:
        audit(model, labelled(), **options)
    assert type(caught.value) is error
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    (note,) = caught.value.__notes__
    return str(note)


def test_the_layers_seen_so_far_are_shown_with_an_exception() -> None:
    note = note_of(Fragile("itself"), BrokenError)
    assert note.startswith(
        "initstats.audit: raised in the model itself (Fragile) of step 1; layers"
    )
    rows = [line.split()[0] for line in note.splitlines()[3:]]
    assert rows == ["first", "second"]
    assert "output std" in note


def test_the_module_that_raised_is_named() -> None:
    note = note_of(Fragile("last"), RuntimeError)
    assert "raised in last (Linear) of step 1" in note


def test_an_exception_before_any_layer_says_so() -> None:
    note = note_of(nn.Linear(9, 4), RuntimeError)
    assert "raised in the model itself (Linear) of step 1, before any layer had finished" in note


def test_an_exception_in_a_later_step_shows_the_recorded_one() -> None:
    model = Fragile("itself", call=3)
    note = note_of(model, BrokenError)
    assert (
        "raised in the model itself (Fragile) of step 3; layers that had finished in step 1" in note
    )
    assert "last" in note
    assert model.calls == 0


def test_the_pass_that_raised_is_named() -> None:
    assert "raised in the backward pass of step 1" in note_of(Fragile("backward"), RuntimeError)

    def loss(_out: Tensor, _y: Tensor) -> Tensor:
        raise BrokenError

    assert "raised in the loss of step 1" in note_of(Fragile("-"), BrokenError, loss_fn=loss)
    wrong = nn.CrossEntropyLoss(weight=torch.ones(9))
    assert "raised in the loss (CrossEntropyLoss) of" in note_of(
        Fragile("-"), RuntimeError, loss_fn=wrong
    )

    class Steps(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # noqa: ARG002
            raise BrokenError

    assert "raised in" in note_of(Fragile("-"), BrokenError, optimizer=Steps)


def test_a_long_list_of_layers_is_cut() -> None:
    layers = [nn.Linear(8, 8) for _ in range(40)]
    note = note_of(nn.Sequential(*layers, nn.Linear(9, 4)), RuntimeError)
    assert "(the last 30, 10 more before them)" in note
    assert "raised in 40 (Linear)" in note


def test_the_note_is_part_of_the_traceback() -> None:
    with pytest.raises(BrokenError) as caught:
        audit(Fragile("itself"), labelled(), loss_fn=functional.cross_entropy)
    text = "".join(traceback.format_exception(caught.value))
    assert "no way" in text
    if hasattr(caught.value, "add_note"):  # Python 3.11
        assert "raised in the model itself" in text


def test_errors_of_initstats_get_no_note() -> None:
    with pytest.raises(ValueError, match="expected a scalar loss") as caught:
        audit(nn.Linear(8, 4), labelled(), loss_fn=lambda out, _y: out)
    assert not hasattr(caught.value, "__notes__")


# --- refused before anything runs


def inference(shape: tuple[int, ...]) -> Tensor:
    with torch.inference_mode():
        return torch.randn(shape)


def inference_model() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(8, 4)


LOADER = DataLoader(TensorDataset(*labelled()), batch_size=4)


def a_batch() -> Any:
    return labelled()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"batch": LOADER},
            TypeError,
            r"expected one batch, got batch=DataLoader; pass next\(ite",
        ),
        ({"batch": iter(LOADER)}, TypeError, r"expected one batch, got .*; pass next\(loader\)"),
        ({"batch": TensorDataset(*labelled())}, TypeError, "expected one batch, got batch=TensorD"),
        ({"batch": (x for x in [1])}, TypeError, "expected one batch, got batch=generator; pass n"),
        ({"batch": a_batch}, TypeError, "got batch=function 'a_batch'; call it and pass what it"),
        ({"batch": ()}, ValueError, r"at least one example, got batch=tuple with shapes \[\]"),
        ({"batch": {}}, ValueError, "expected a batch of at least one example, got batch=dict"),
        (
            {"batch": (torch.empty(0, 8), torch.empty(0, dtype=torch.int64))},
            ValueError,
            r"at least one example, got batch=tuple with shapes \[\(0, 8\), \(0,\)\]",
        ),
        ({"batch": inference((2, 8))}, ValueError, "autograd can use, got an inference tensor; ma"),
        (
            {"batch": torch.randn(2, 8, requires_grad=True) * 1},
            ValueError,
            "expected a batch without a graph, .* got a tensor with a grad_fn; detach it",
        ),
        ({"model": inference_model()}, ValueError, "got inference tensor 'weight'; build the mode"),
        ({"model": nn.LazyLinear(4)}, ValueError, "got UninitializedParameter 'weight' of a lazy "),
        (
            {"model": nn.BatchNorm1d(4, affine=False)},
            ValueError,
            "expected a model with trainable parameters, got model=BatchNorm1d with none",
        ),
        ({"loss_fn": "mse"}, TypeError, "expected loss_fn to be callable, got loss_fn='mse'"),
        ({"steps": 2.0}, TypeError, "expected steps to be an int, got steps=2.0"),
        ({"seeds": True}, TypeError, "expected seeds to be an int, got seeds=True"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": nn.Linear(8, 4),
        "batch": labelled(),
        "loss_fn": functional.cross_entropy,
        **options,
    }
    with pytest.raises(error, match=message) as caught:
        audit(arguments.pop("model"), arguments.pop("batch"), **arguments)
    assert str(caught.value).startswith("initstats.audit: ")
    assert not hasattr(caught.value, "__notes__")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="got name='resnett'; the nearest is 'resnet'"):
        audit(classifier(), labelled(), loss_fn=functional.cross_entropy, recipe="resnett")
