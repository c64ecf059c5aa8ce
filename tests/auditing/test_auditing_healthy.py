"""Healthy models of many kinds raise no error."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import (
    audit,
)
from initstats.auditing.demo.model import DemoConfig
from initstats.auditing.demo.run import TORCH_DEFAULT, run_demo
from judged_models import by_rule, images, judged, mlp


@pytest.mark.parametrize("seed", range(5))
def test_the_demo_by_recipe_is_healthy_and_by_default_is_not(seed: int) -> None:
    config = DemoConfig(layers=3, width=64, batch=4, context=64)
    reports = run_demo("gpt2", steps=5, seed=seed, config=config)
    assert reports["recipe gpt2"].findings == ()
    default = reports[TORCH_DEFAULT]
    assert not default.ok
    assert {"weights-against-recipe", "initial-loss", "activation-std"} <= set(by_rule(default))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.linear = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.linear(self.norm(x)).relu()
        return out


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for width in (1, 16, 16):
        layers += [nn.Conv2d(width, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))


class Stage(nn.Module):
    """A stage of a ConvNeXt: pooling and an unscaled layer, then a branch scaled by 1e-6."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.down = nn.Identity() if first else nn.Conv2d(16, 16, 2, stride=2)
        self.branch = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        x = functional.layer_norm(x, x.shape[1:])
        out: Tensor = x + 1e-6 * self.branch(x)
        return out


def staged() -> nn.Module:
    stages = nn.Sequential(*(Stage(first=i == 0) for i in range(5)))
    stem = [nn.Unflatten(1, (1, 8, 8)), nn.Upsample(scale_factor=4), nn.Conv2d(1, 16, 1)]
    return nn.Sequential(*stem, stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(8, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])
        return out


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(6, nn.ReLU, math.sqrt(2)),
        lambda: mlp(6, nn.Tanh, 5 / 3),
        lambda: mlp(2, nn.ReLU, math.sqrt(2)),
        lambda: nn.Sequential(
            *(Residual() for _ in range(50)), nn.LayerNorm(64), nn.Linear(64, 10)
        ),
        convolutional,
        Recurrent,
        lambda: nn.Linear(64, 10),
    ],
    ids=[
        "relu",
        "tanh",
        "shallow",
        "residual-50",
        "convolutional",
        "lstm",
        "linear",
    ],
)
def test_healthy_models_of_other_kinds_have_no_error_and_at_most_one_warning(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    report = judged(make())
    assert report.ok, report.findings
    assert len(report.findings) <= 1, report.findings


def test_stages_of_different_size_and_branches_scaled_to_nothing_are_no_finding() -> None:
    torch.manual_seed(0)
    assert judged(staged()).findings == ()


def test_the_scale_of_a_normalised_residual_stream_is_free() -> None:
    # The stream starts at std 0.5 and each block adds about 10: out of the band of activation-std
    # and by more than its factor, but the next layer norm does not see it.
    torch.manual_seed(0)
    model = nn.Sequential(*(Residual() for _ in range(4)), nn.LayerNorm(64), nn.Linear(64, 10))
    with torch.no_grad():
        model[0].linear.weight.mul_(1e-3)
        model[0].linear.bias.mul_(1e-3)
        for i in (1, 2, 3):
            model[i].linear.weight.mul_(30)
    x, y = images()
    report = audit(model, (0.5 * x, y), loss_fn=functional.cross_entropy)
    stds = [report.evidence.layers[name].activation.std for name in "0123"]
    assert stds[3] > 5
    assert stds[3] > 10 * stds[0]
    # The weights are absurd all the same.
    assert {f.rule for f in report.findings if f.severity == "error"} == {"weight-peers"}
    assert "activation-std" not in by_rule(report)
