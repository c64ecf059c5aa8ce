"""The rules on units: dead and saturated ones, and biases that drown the signal."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import AuditRule, BiasScale, DeadUnits, SaturatedUnits
from judged_models import images, judged, mlp, only, silent

Change = Callable[[nn.Sequential], object]


def plain(act: type[nn.Module], gain: float, change: Change | None = None) -> nn.Sequential:
    model = mlp(3, act, gain)
    with torch.no_grad():
        if change is not None:
            change(model)
    return model


# --- dead units


@pytest.mark.parametrize(("dead", "severity"), [(64, "error"), (45, "warning")])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU])
def test_units_that_are_zero_on_the_whole_batch_are_found_at_the_layer_that_makes_them(
    act: type[nn.Module], dead: int, severity: str
) -> None:
    model = plain(act, math.sqrt(2), lambda m: m[2].bias[:dead].fill_(-30))
    finding = only(DeadUnits(), judged(model))
    assert (finding.where, finding.severity) == ("2", severity)
    assert finding.value >= dead / 64
    assert "3" in finding.also


@pytest.mark.parametrize("in_place", [True, False])
def test_dead_units_behind_a_function_are_found(in_place: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
            nn.init.constant_(self.first.bias, -30)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(functional.relu(self.first(x), inplace=in_place))
            return out

    finding = only(DeadUnits(), judged(Net()))
    assert (finding.where, finding.severity, finding.also) == ("first", "error", ("relu()",))
    assert "first hands it values of mean -30" in finding.cause


@pytest.mark.parametrize(
    ("act", "start"),
    [
        (nn.ReLU, lambda _m: None),
        (nn.GELU, lambda _m: None),
        (nn.ReLU, lambda m: m[2].bias[:30].fill_(-30)),  # fewer than the share
        (nn.LeakyReLU, lambda m: m[2].bias.fill_(-30)),  # passes gradients on
        (nn.ReLU, lambda m: m[2].bias.fill_(30)),  # none is 0
    ],
)
def test_healthy_rectifiers_have_no_dead_units(act: type[nn.Module], start: Change) -> None:
    assert silent(DeadUnits(), judged(plain(act, math.sqrt(2), start)))


# --- saturated units


@pytest.mark.parametrize(
    ("act", "gain", "severity"),
    [(nn.Tanh, 20.0, "error"), (nn.Tanh, 5.0, "warning"), (nn.Sigmoid, 60.0, "error")],
)
def test_saturated_units_are_found(act: type[nn.Module], gain: float, severity: str) -> None:
    finding = only(SaturatedUnits(), judged(plain(act, gain)))
    assert finding.severity == severity
    assert finding.where in {"1", "3", "5"}
    assert finding.value > 0.5


def orthogonal(model: nn.Sequential) -> None:
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=5 / 3)


@pytest.mark.parametrize(
    ("act", "start"),
    [
        (nn.Tanh, orthogonal),
        (nn.Tanh, lambda _m: None),
        (nn.Sigmoid, lambda _m: None),
        (nn.ReLU, lambda m: m[0].weight.mul_(20)),
    ],
)
def test_tanh_and_sigmoid_at_their_gains_are_not_saturated(
    act: type[nn.Module], start: Change
) -> None:
    assert silent(SaturatedUnits(), judged(plain(act, 1.0, start)))


class Attention(nn.Module):
    """Attention over 8 places of width 8, by hand or by the function of torch."""

    def __init__(self, scale: float, *, by_hand: bool, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(64, 10)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=math.sqrt(scale / 8))
        self.by_hand, self.causal = by_hand, causal

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (8, 8))
        q, k = self.query(x), self.key(x)
        if self.by_hand:
            logits = q @ k.transpose(1, 2) / math.sqrt(8)
            if self.causal:
                logits = logits + torch.full((8, 8), -math.inf).triu(1)
            mixed = logits.softmax(-1) @ x
        else:
            mixed = functional.scaled_dot_product_attention(q, k, x, is_causal=self.causal)
        out: Tensor = self.head(mixed.flatten(1))
        return out


@pytest.mark.parametrize(
    ("scale", "by_hand", "where", "severity"),
    [
        (12.0, False, "scaled_dot_product_attention()", "warning"),
        (60.0, False, "scaled_dot_product_attention()", "error"),
        (60.0, True, "softmax()", "warning"),
    ],
)
def test_attention_that_looks_at_single_places_is_found(
    scale: float, by_hand: bool, where: str, severity: str
) -> None:
    finding = only(SaturatedUnits(), judged(Attention(scale, by_hand=by_hand)))
    assert (finding.where, finding.severity) == (where, severity)


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_at_its_usual_scale_is_not_saturated(by_hand: bool, causal: bool) -> None:
    assert silent(SaturatedUnits(), judged(Attention(1.0, by_hand=by_hand, causal=causal)))


# --- biases


@pytest.mark.parametrize(("size", "severity"), [(4.0, "warning"), (30.0, "error")])
def test_a_bias_that_drowns_the_signal_is_found(size: float, severity: str) -> None:
    model = plain(nn.ReLU, math.sqrt(2), lambda m: m[2].bias.fill_(size))
    finding = only(BiasScale(), judged(model))
    assert (finding.where, finding.severity, finding.also) == ("2.bias", severity, ())


@pytest.mark.parametrize(
    "start",
    [
        lambda _m: None,
        lambda m: m[2].bias.uniform_(-0.125, 0.125),  # torch.nn.Linear
        lambda m: m[2].bias.fill_(0.1),
        lambda m: m[-1].bias.copy_(torch.linspace(-9, 0, 10)),  # frequencies of classes
    ],
)
def test_small_biases_and_frequencies_of_classes_are_no_finding(start: Change) -> None:
    assert silent(BiasScale(), judged(plain(nn.ReLU, math.sqrt(2), start)))


class Recurrent(nn.Module):
    def __init__(self, forget: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)
        with torch.no_grad():
            self.lstm.bias_hh_l0.zero_()
            self.lstm.bias_ih_l0.zero_()
            self.lstm.bias_ih_l0[16:32] = forget
            self.lstm.bias_ih_l0[:16] = -forget

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x.unflatten(1, (8, 8)))[0][:, -1])
        return out


def test_a_gate_that_a_bias_shuts_for_good_is_found() -> None:
    finding = only(BiasScale(), judged(Recurrent(torch.full((16,), 12.0))))
    assert (finding.where, finding.severity) == ("lstm.bias_ih_l0", "warning")
    assert (finding.value, finding.threshold) == (12.0, 8.0)


@pytest.mark.parametrize("longest", [math.e + 1, 784, 2900])
def test_forget_biases_of_one_and_of_chrono_are_no_finding(longest: float) -> None:
    assert silent(BiasScale(), judged(Recurrent(torch.linspace(1, longest - 1, 16).log())))


# --- thresholds


@pytest.mark.parametrize(
    ("rule", "act"),
    [
        (DeadUnits(share=-0.1), nn.ReLU),
        (DeadUnits(share=-0.1, fewest=33), nn.ReLU),
        (SaturatedUnits(share=1e-3), nn.Tanh),
        (BiasScale(ratio=0.05, least=0.01), nn.ReLU),
    ],
)
def test_thresholds_can_be_changed(rule: AuditRule, act: type[nn.Module]) -> None:
    report = judged(plain(act, 1.4, lambda m: m[2].bias.fill_(0.1)))
    assert silent(type(rule)(), report)
    few = isinstance(rule, DeadUnits) and rule.fewest > len(images()[0])
    assert silent(rule, report) == few


@pytest.mark.parametrize("rule", [SaturatedUnits(logits=0.1), SaturatedUnits(peak=0.1)])
def test_limits_of_attention_can_be_changed(rule: AuditRule) -> None:
    by_hand = rule == SaturatedUnits(peak=0.1)
    report = judged(Attention(1.0, by_hand=by_hand))
    assert silent(SaturatedUnits(), report)
    assert only(rule, report).rule == rule.id
