"""The rules on what enters a model: its scale, its first layer, dropout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from initstats.auditing import AuditRule, DropoutShare, FirstLayer, InputScale
from judged_models import images, judged, mlp, only, silent

RELU = math.sqrt(2)


def scaled(factor: float, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    x, y = images()
    return x * factor + shift, y


@pytest.mark.parametrize(
    ("factor", "shift", "severity"),
    [(15.0, 0.0, "warning"), (100.0, 0.0, "error"), (1e-3, 0.0, "warning"), (0.1, 3.0, "warning")],
)
def test_inputs_that_are_not_normalised_are_found(
    factor: float, shift: float, severity: str
) -> None:
    finding = only(InputScale(), judged(mlp(3, nn.ReLU, RELU), batch=scaled(factor, shift)))
    assert (finding.where, finding.severity) == ("0", severity)


def test_constant_inputs_are_found() -> None:
    finding = only(InputScale(), judged(mlp(3, nn.ReLU, RELU), batch=scaled(0.0, 2.0)))
    assert (finding.where, finding.severity) == ("0", "error")
    assert finding.cause == "every value that enters 0 is 2.00"


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.3, 0.5), (5.0, 0.0), (0.05, 0.0)])
def test_usual_inputs_are_no_finding(factor: float, shift: float) -> None:
    assert silent(InputScale(), judged(mlp(3, nn.ReLU, RELU), batch=scaled(factor, shift)))


def test_large_inputs_of_a_model_with_norms_are_no_error() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10))
    assert only(InputScale(), judged(model, batch=scaled(100.0))).severity == "warning"


@pytest.mark.parametrize("first", [nn.LayerNorm(64), nn.BatchNorm1d(64)])
def test_inputs_that_a_norm_makes_are_not_judged(first: nn.Module) -> None:
    model = nn.Sequential(first, *mlp(2, nn.ReLU, RELU))
    assert silent(InputScale(), judged(model, batch=scaled(1e4)))


class TwoInputs(nn.Module):
    """A norm behind the first input; the second enters a layer as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.image = nn.LayerNorm(64), nn.Linear(64, 64)
        self.table, self.head = nn.Linear(8, 64), nn.Linear(64, 10)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        x, numbers = inputs
        mixed = self.image(self.norm(x)) + self.table(numbers.view(32, 8))
        out: Tensor = self.head(mixed.relu() * 100.0)  # what a model makes is not its input
        return out


def test_every_input_that_enters_a_layer_is_judged() -> None:
    x, y = images()
    numbers = torch.randn(32, 2, 4, generator=torch.Generator().manual_seed(1))
    assert silent(InputScale(), judged(TwoInputs(), batch=((x, numbers), y)))
    finding = only(InputScale(), judged(TwoInputs(), batch=((x, numbers * 1e3), y)))
    assert (finding.where, finding.severity) == ("table", "warning")


@pytest.mark.parametrize("gain", [20.0, 0.02])
def test_a_first_layer_that_changes_the_scale_is_found(gain: float) -> None:
    model = mlp(3, nn.ReLU, RELU)
    nn.init.normal_(model[0].weight, std=gain / 8)
    finding = only(FirstLayer(), judged(model))
    assert (finding.where, finding.severity) == ("0", "warning")
    assert finding.value == pytest.approx(gain, rel=0.1)


@pytest.mark.parametrize("gain", [RELU, 1.0, 1 / math.sqrt(3), 5.0])
def test_a_first_layer_of_a_usual_gain_is_no_finding(gain: float) -> None:
    assert silent(FirstLayer(), judged(mlp(3, nn.ReLU, gain)))


def test_a_model_of_one_layer_may_start_at_zero() -> None:
    model = nn.Linear(64, 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    assert judged(nn.Sequential(model)).findings == ()


@pytest.mark.parametrize(("share", "severity"), [(0.8, "warning"), (0.97, "error")])
def test_dropout_that_leaves_too_little_is_found(share: float, severity: str) -> None:
    model = mlp(3, nn.ReLU, RELU)
    model.insert(2, nn.Dropout(share))  # behind a ReLU, half of which is 0 already
    torch.manual_seed(0)
    finding = only(DropoutShare(), judged(model))
    assert (finding.where, finding.severity) == ("2", severity)
    # 1024 values are left by the ReLU, give or take a few.
    assert finding.value == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 900))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_usual_dropout_is_no_finding(share: float) -> None:
    model = mlp(3, nn.ReLU, RELU)
    model.insert(2, nn.Dropout(share))
    torch.manual_seed(0)
    assert silent(DropoutShare(), judged(model))


@pytest.mark.parametrize(
    "rule",
    [
        InputScale(largest=0.5),
        InputScale(smallest=2.0),
        InputScale(offset=0.0),
        FirstLayer(low=2.0),
        FirstLayer(high=1.0),
        DropoutShare(share=0.2),
    ],
)
def test_thresholds_can_be_changed(rule: AuditRule) -> None:
    model = mlp(3, nn.ReLU, RELU)
    model.insert(2, nn.Dropout(0.5))
    torch.manual_seed(0)
    report = judged(model)
    assert silent(type(rule)(), report)
    assert only(rule, report).rule == rule.id
