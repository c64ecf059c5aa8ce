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
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(24)]
    for block in blocks:
        nn.init.normal_(block[0].weight, std=6 / 8)
    blocks[12].append(nn.BatchNorm1d(64))  # one is not enough
    model = nn.Sequential(nn.Sequential(*blocks), nn.Linear(64, 10))
    assert only(GradientGrowth(), judged(model)).severity == "error"


# --- branches that start at 0 or small


def severities(model: nn.Module, *shape: int) -> dict[str, str]:
    """Return the worst severity of each rule on random inputs of four classes."""
    batch = torch.randn(*shape), torch.randint(4, shape[:1])
    findings = judged(model, batch=batch).findings
    return {finding.rule: finding.severity for finding in reversed(findings)}


class Excited(nn.Module):
    """A convolution whose norm starts at 0, with squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(inputs, outputs, 3), nn.Conv2d(inputs, outputs, 3)
        self.norm = nn.GroupNorm(4, outputs)
        self.squeeze, self.excite = nn.Linear(outputs, 4), nn.Linear(4, outputs)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        gate = torch.sigmoid(self.excite(self.squeeze(y.mean((2, 3))).relu()))[..., None, None]
        return (y * gate + self.shortcut(x)).relu()


def pooled(*layers: nn.Module, width: int) -> nn.Sequential:
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    return nn.Sequential(*layers, *end)


def test_a_gradient_of_zero_behind_a_norm_that_starts_at_zero_has_not_vanished() -> None:
    found = severities(pooled(Excited(3, 16), Excited(16, 32), width=32), 16, 3, 12, 12)
    assert "error" not in found.values()


class Spatial(nn.Module):
    """A spatial transformer, whose transform starts as the identity: weights of 0, and a bias."""

    def __init__(self, bias: tuple[float, ...], std: float = 0.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3 * 64, 32), nn.Linear(32, 6)
        self.net = pooled(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), width=8)
        nn.init.normal_(self.outer.weight, std=std)
        with torch.no_grad():
            self.outer.bias.copy_(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        transform = self.outer(self.inner(x.flatten(1)).relu()).view(-1, 2, 3)
        grid = nn.functional.affine_grid(transform, list(x.shape), align_corners=False)
        out: Tensor = self.net(nn.functional.grid_sample(x, grid, align_corners=False))
        return out


def test_the_bias_of_weights_that_start_at_zero_is_a_choice() -> None:
    found = severities(Spatial((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)), 16, 3, 8, 8)
    assert "error" not in found.values()
    drowned = Spatial((30.0, 30.0, 30.0, 30.0, 30.0, 30.0), std=0.1)
    assert severities(drowned, 16, 3, 8, 8)["bias-scale"] == "error"


class Controlled(nn.Module):
    """A branch behind a convolution that starts at `scale`, as ControlNet's at 0."""

    def __init__(self, scale: float, *, beside: bool) -> None:
        super().__init__()
        self.stem, self.start = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)
        self.branch, self.path = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.head, self.beside = nn.Linear(16, 4), beside
        with torch.no_grad():
            for parameter in self.start.parameters():
                parameter.mul_(scale)
            self.branch.bias.zero_()
            self.path.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        branch = self.branch(nn.functional.silu(self.start(h)))
        out: Tensor = self.head(self.path(h + branch if self.beside else branch).mean((2, 3)))
        return out


@pytest.mark.parametrize("scale", [0.0, 1e-4])
def test_a_branch_that_starts_small_beside_a_path_is_no_lost_signal(scale: float) -> None:
    found = severities(Controlled(scale, beside=True), 16, 3, 12, 12)
    assert "error" not in found.values()


def test_a_signal_that_does_not_come_back_is_lost() -> None:
    assert "activation-std" in severities(Controlled(1e-4, beside=False), 16, 3, 12, 12)


class Shut(nn.Module):
    """Channels multiplied by a hard sigmoid, whose bias opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.inner, self.outer = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        nn.init.ones_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        gate = self.outer(self.inner(x.mean((2, 3), keepdim=True)).relu())
        return x * nn.functional.hardsigmoid(gate)


def test_the_bias_of_a_hard_gate_is_no_finding() -> None:
    found = severities(pooled(nn.Conv2d(3, 8, 1), Shut(), Shut(), width=8), 16, 3, 12, 12)
    assert "bias-scale" not in found


# --- gains and sinks


class Attends(nn.Module):
    """Attention with norms on queries and keys whose gains differ by head, a scale, and sinks."""

    def __init__(self, scale: float, size: float | None = None) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 3 * 64), nn.Linear(64, 64)
        self.scale, self.size = nn.Parameter(torch.ones(2, 32)), size
        self.sinks, self.factor = nn.Parameter(0.02 * torch.randn(2)), scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        if self.size is None:
            q, k = (nn.functional.rms_norm(y, (32,)) * self.scale[:, None] for y in (q, k))
        else:
            q, k = (self.size * y * self.scale[:, None] for y in (q, k))
        heads = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.factor)
        gates = (1 + self.sinks.view(1, 2, 1, 1)) * heads
        out: Tensor = x + self.out(gates.transpose(1, 2).flatten(2))
        return out


def attending(scale: float, size: float | None = None) -> nn.Sequential:
    blocks = [Attends(scale, size) for _ in range(4)]
    return nn.Sequential(nn.Linear(8, 64), *blocks, nn.Flatten(), nn.Linear(64 * 6, 4))


def test_large_logits_of_normalised_queries_and_keys_are_a_warning() -> None:
    found = severities(attending(4.0), 16, 6, 8)
    assert found["saturated-units"] == "warning"
    assert severities(attending(4.0, 20.0), 16, 6, 8)["saturated-units"] == "error"


def test_gains_of_each_head_are_no_symmetry_and_two_sinks_have_no_std() -> None:
    model = attending(0.2)
    with torch.no_grad():
        model[2].sinks.copy_(torch.tensor([0.01, 0.0101]))
    found = severities(model, 16, 6, 8)
    assert not {"symmetry", "weight-peers"} & found.keys()
