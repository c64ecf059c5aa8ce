"""Starts of published models that stand apart by design: no error, and the fault beside them is."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from initstats.auditing import (
    ActivationStd,
    GradientGrowth,
    GradientRatio,
    InitialLoss,
    WeightPeers,
)
from initstats.diagnostics.batch_norms import GROWTH
from judged_models import judged, only, silent


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# --- weights by fan_out


def inverted(*widths: tuple[int, int]) -> nn.Sequential:
    """Blocks of pointwise convolutions whose std is sqrt(2 / outputs), as in EfficientNets."""
    layers: list[nn.Module] = [nn.Unflatten(1, (64, 1, 1))]
    blocks = []
    for inputs, outputs in widths:
        point = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.normal_(point.weight, std=math.sqrt(2 / outputs))
        parts = {"conv_pw": point, "bn": nn.BatchNorm2d(outputs), "act": nn.ReLU()}
        blocks.append(nn.Sequential(OrderedDict(parts)))
    layers += [nn.Sequential(*blocks), nn.Flatten(), nn.Linear(widths[-1][1], 10)]
    return nn.Sequential(*layers)


TINYNET = ((64, 4), (4, 16), (16, 64), (64, 96), (96, 128), (128, 160))


def test_a_narrow_layer_drawn_by_its_outputs_is_no_odd_peer() -> None:
    report = judged(inverted(*TINYNET))
    first = report.evidence.parameters["1.0.conv_pw.weight"]
    assert first.gain > 5  # the others have 0.7 to 1.4
    assert silent(WeightPeers(), report)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_layer_that_no_law_explains_is_an_odd_peer(factor: float) -> None:
    model = inverted(*TINYNET)
    with torch.no_grad():
        model[1][3].conv_pw.weight.mul_(factor)
    finding = only(WeightPeers(), judged(model))
    assert (finding.where, finding.severity) == ("1.3.conv_pw.weight", "error")


# --- heads by fan_out


def headed(std: float) -> nn.Sequential:
    """A model whose head of ten classes sees 1280 features, as MnasNet."""
    model = nn.Sequential(nn.Linear(64, 1280), nn.LayerNorm(1280), nn.ReLU(), nn.Linear(1280, 10))
    nn.init.normal_(model[3].weight, std=std)
    return model


@pytest.mark.parametrize("law", [2.0, 1.0, 1 / 3], ids=["DLA", "MnasNet", "EfficientNet"])
def test_a_head_drawn_by_its_classes_is_never_an_error(law: float) -> None:
    report = judged(headed(math.sqrt(law / 10)))
    loss = only(InitialLoss(), report)
    assert (loss.severity, loss.where) == ("warning", "step 1")
    assert "draw 3.weight by its number of inputs" in loss.fix
    found = list(ActivationStd().check(report.evidence))
    assert {finding.severity for finding in found} <= {"warning"}


def test_a_head_of_another_size_is_an_error() -> None:
    report = judged(headed(0.6))
    assert only(InitialLoss(), report).severity == "error"
    assert only(ActivationStd(), report).severity == "error"
    assert "number of inputs" not in only(InitialLoss(), report).fix


class Tied(nn.Module):
    """A head that shares the weight of its embedding of two ids and a std of 1, sqrt(2 / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(2, 256), nn.LayerNorm(256)
        self.head = nn.Linear(256, 2, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.words(ids) + self.words(1 - ids).flip(0)))
        return out.mean(1)


def test_the_law_of_a_head_does_not_excuse_a_tied_embedding() -> None:
    ids = torch.randint(2, (16, 4))
    report = judged(Tied(), batch=(ids, 1 - ids[:, 0]))
    assert only(ActivationStd(), report).severity == "error"


# --- gradients that batch norms let grow


def normed(depth: int, norm: type[nn.Module], act: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(64, 64), norm(64), act()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def test_batch_norms_let_gradients_grow_by_the_rate_of_theory() -> None:
    depth, width = 20, 512
    x = torch.randn(256, width)
    sizes = []
    for _ in range(depth):
        x = torch.relu(nn.BatchNorm1d(width)(nn.Linear(width, width)(x)))
        x.retain_grad()
        sizes.append(x)
    (x * torch.randn_like(x)).sum().backward()
    norms = [float(y.grad.norm()) for y in sizes if y.grad is not None]
    assert math.log(norms[0] / norms[-1]) / (depth - 1) == pytest.approx(GROWTH, rel=0.1)


def test_the_growth_of_gradients_through_batch_norms_is_no_error() -> None:
    batch = torch.randn(512, 64), torch.randint(10, (512,))
    report = judged(normed(48, nn.BatchNorm1d, nn.ReLU), batch=batch, steps=1)
    growth = only(GradientGrowth(), report)
    assert growth.severity == "warning"
    assert growth.value * 48 > math.log(1000)  # beyond the limit of others
    assert only(GradientRatio(), report).severity == "warning"


def test_growth_that_no_batch_norm_explains_is_an_error() -> None:
    model = normed(24, nn.Identity, nn.Tanh)
    model.append(nn.BatchNorm1d(10))  # one is not enough
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(std=6 / 8)
    assert only(GradientGrowth(), judged(model)).severity == "error"
