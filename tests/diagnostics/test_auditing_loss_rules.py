"""The rules on how a loss is made, and the loss calls and halves of a batch that they read."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import DoubleSoftmax, LossReduction, LossSign, audit
from initstats.auditing.batch import halves
from initstats.auditing.loss_mode import LossCall, LossWatch
from judged_models import images, judged, mlp, only, silent

Loss = Callable[[Any, Any], Tensor]


def net() -> nn.Sequential:
    return mlp(2, nn.ReLU, math.sqrt(2))


def by_hand(out: Tensor, y: Tensor) -> Tensor:
    return -out.log_softmax(1).gather(1, y[:, None]).squeeze(1)


# --- reduction


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: functional.cross_entropy(out, y, reduction="sum"),
        nn.CrossEntropyLoss(reduction="sum"),
        lambda out, y: functional.mse_loss(out, functional.one_hot(y, 10).float(), reduction="sum"),
        lambda out, y: by_hand(out, y).sum(),  # no function of torch: the halves tell
    ],
)
def test_a_loss_that_sums_over_examples_is_found(loss: Loss) -> None:
    finding = only(LossReduction(), judged(net(), loss_fn=loss))
    assert (finding.where, finding.severity) == ("loss", "error")


@pytest.mark.parametrize(
    "loss",
    [
        functional.cross_entropy,
        lambda out, y: functional.cross_entropy(out, y, reduction="sum") / len(y),
        lambda out, y: by_hand(out, y).mean(),
    ],
)
def test_a_loss_that_averages_is_no_finding(loss: Loss) -> None:
    assert silent(LossReduction(), judged(net(), loss_fn=loss))


def test_a_contrastive_loss_of_four_pairs_is_no_sum() -> None:
    # Twice ln 2 is ln 4: the halves of the batch have half the loss, though it is a mean.
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(64, 8), nn.Linear(64, 8)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            scores = 0.01 * self.first(x) @ self.second(y).T
            places = torch.arange(len(x))
            one = functional.cross_entropy(scores, places)
            return (one + functional.cross_entropy(scores.T, places) * 1.01) / 2.01

    x, _ = images()
    report = judged(Pairs(), batch=(x[:4], x[4:8]), loss_fn=None, steps=1)
    whole, first, second = report.loss.halves
    assert first + second == pytest.approx(whole, rel=0.01)
    assert silent(LossReduction(), report)


# --- sign


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: -functional.cross_entropy(out, y),
        lambda out, y: -functional.mse_loss(out, functional.one_hot(y, 10).float()),
        lambda out, y: -by_hand(out, y).mean(),
    ],
)
def test_a_loss_with_the_wrong_sign_is_found(loss: Loss) -> None:
    finding = only(LossSign(), judged(net(), loss_fn=loss))
    assert (finding.where, finding.severity) == ("loss", "error")
    assert finding.value < 0


@pytest.mark.parametrize("maximize", [True, False])
def test_an_optimizer_that_climbs_a_loss_is_found_and_one_that_climbs_a_reward_is_not(
    maximize: bool,
) -> None:
    def climb(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, 1e-3, maximize=maximize)

    for loss, is_healthy in (
        (functional.cross_entropy, not maximize),
        (lambda out, _y: -out.square().mean(), True),  # a reward
    ):
        report = audit(net(), images(), loss_fn=loss, optimizer=climb, steps=2)
        assert silent(LossSign(), report) == is_healthy


@pytest.mark.parametrize(
    "loss", [functional.cross_entropy, lambda out, y: out.mean() - y.float().mean()]
)
def test_negative_losses_that_are_no_likelihood_are_no_finding(loss: Loss) -> None:
    assert silent(LossSign(), judged(net(), loss_fn=loss))


# --- softmax twice


def binary(function: Callable[[Tensor], Tensor]) -> Loss:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        target = (y > 4).float()
        return functional.binary_cross_entropy_with_logits(function(out[:, 0]), target)

    return loss


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: functional.cross_entropy(out.softmax(1), y),
        lambda out, y: functional.cross_entropy(functional.softmax(out, dim=-1), y),
        binary(torch.sigmoid),
    ],
)
def test_probabilities_where_scores_are_expected_are_found(loss: Loss) -> None:
    finding = only(DoubleSoftmax(), judged(net(), loss_fn=loss))
    assert (finding.where, finding.severity) == ("loss", "error")


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Sequential(nn.Softmax(-1), nn.Identity())])
def test_a_softmax_at_the_end_of_a_model_is_found(last: nn.Module) -> None:
    assert not silent(DoubleSoftmax(), judged(net().append(last)))


@pytest.mark.parametrize(
    "loss",
    [
        functional.cross_entropy,
        lambda out, y: functional.cross_entropy(out.sigmoid(), y),  # odd, but no softmax
        lambda out, y: functional.nll_loss(out.log_softmax(1), y),
        binary(lambda x: x),
    ],
)
def test_scores_are_no_finding(loss: Loss) -> None:
    assert silent(DoubleSoftmax(), judged(net(), loss_fn=loss))


# --- thresholds


def test_thresholds_can_be_changed() -> None:
    softmax = judged(net(), loss_fn=lambda out, y: functional.cross_entropy(out.softmax(1), y))
    assert silent(DoubleSoftmax(tolerance=0.0), softmax)
    mean = judged(net(), loss_fn=lambda out, y: by_hand(out, y).mean())
    assert not silent(LossReduction(tolerance=2.0), mean)
    climbs = judged(net(), loss_fn=lambda out, y: -by_hand(out, y).mean())
    assert silent(LossSign(near=0.0), climbs)


# --- the calls


def noted(function: Callable[..., Tensor], *args: Any, **options: Any) -> LossCall:
    with LossWatch(with_scores=True) as watch:
        function(*args, **options)
    (call,) = watch.calls
    return call


SCORES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
PLACES = torch.tensor([0, 1, -100, 3, 4, 1])


@pytest.mark.parametrize(
    ("args", "options", "targets", "reduction"),
    [
        ((), {}, 5, "mean"),
        ((), {"ignore_index": 1}, 4, "mean"),
        ((), {"reduction": "sum"}, 5, "sum"),
        ((None, None, 1), {}, 4, "mean"),  # by place
        ((None, None, -100, None, "sum"), {}, 5, "sum"),
    ],
)
def test_the_reduction_and_the_targets_of_a_cross_entropy_are_noted(
    args: tuple[Any, ...], options: dict[str, Any], targets: int, reduction: str
) -> None:
    ignored = 1 in args or 1 in options.values()
    places = PLACES.clamp(min=0) if ignored else PLACES
    targets = int((places != 1).sum()) if ignored else targets
    call = noted(functional.cross_entropy, SCORES, places, *args, **options)
    assert (call.name, call.classes, call.reduction) == ("cross_entropy", 5, reduction)
    assert int(call.targets) == targets
    direct = functional.cross_entropy(SCORES, places, *args, **options)
    assert float(call.value) == float(direct)
    assert call.scores is not None
    assert call.scores.mean == pytest.approx(float(SCORES.mean()), rel=1e-5)


def test_other_losses_are_noted_by_name_and_elementwise_ones_are_not() -> None:
    target = torch.zeros(6, 5)
    call = noted(functional.mse_loss, SCORES, target, reduction="sum")
    assert (call.name, call.reduction, call.classes, int(call.targets)) == (
        ("mse_loss", "sum", None, 30)
    )
    soft = noted(functional.cross_entropy, SCORES, SCORES.softmax(1))
    assert int(soft.targets) == 6
    two = noted(functional.binary_cross_entropy_with_logits, SCORES, target)
    assert (two.classes, int(two.targets)) == (2, 30)
    with LossWatch(with_scores=True) as watch:
        functional.cross_entropy(SCORES, PLACES, reduction="none")
    assert watch.calls == []


def test_the_old_way_to_ask_for_a_sum_is_understood() -> None:
    with pytest.warns(UserWarning, match="size_average"):
        assert noted(functional.mse_loss, SCORES, SCORES, size_average=False).reduction == "sum"


# --- halves


def test_halves_are_copies() -> None:
    batch = torch.arange(8.0)
    first, second = halves(batch)  # type: ignore[misc]
    batch.zero_()
    assert (first.tolist(), second.tolist()) == ([0, 1, 2, 3], [4, 5, 6, 7])


class Named(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Example:
    x: Tensor
    y: Tensor
    kind: str = "train"


@pytest.mark.parametrize("kind", [tuple, list, dict, UserDict, Named, Example])
def test_batches_of_all_kinds_are_cut_in_two(kind: type) -> None:
    x, y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    if kind in {dict, UserDict}:
        batch: Any = kind({"x": x, "y": y, "flag": True})
    else:
        batch = kind((x, y)) if kind in {tuple, list} else kind(x, y)

    def both(part: Any) -> tuple[Tensor, Tensor]:
        if hasattr(part, "x"):
            return part.x, part.y
        return (part["x"], part["y"]) if isinstance(part, dict) else tuple(part)  # type: ignore[return-value]

    cut = halves(batch)
    assert cut is not None
    for half, rows in zip(cut, (slice(0, 3), slice(3, 6)), strict=True):
        assert isinstance(half, dict if kind is UserDict else kind)
        assert torch.equal(both(half)[0], x[rows])
        assert torch.equal(both(half)[1], y[rows])


@pytest.mark.parametrize("sizes", [(6, 5), (5, 5), (2, 2), (0, 0)])
def test_a_batch_without_two_equal_halves_is_not_cut(sizes: tuple[int, int]) -> None:
    assert halves(tuple(torch.zeros(n, 2) for n in sizes)) is None
    assert halves((torch.zeros(8), torch.tensor(1.0))) is None
