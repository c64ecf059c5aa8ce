"""The rules on weights, norms among them: the fault is found, the nearest healthy start is not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initstats.auditing import AuditRule, NormIdentity, Symmetry, WeightPeers
from initstats.auditing.demo.model import DemoGPT
from judged_models import CONFIG, audited, by_rule, demo_gpt, images, judged, mlp, only, silent

Fault = Callable[[DemoGPT], object]


def weights_of(model: DemoGPT, name: str) -> list[nn.Parameter]:
    return [p for path, p in model.named_parameters() if name in path]


def changed(fault: Fault) -> DemoGPT:
    torch.manual_seed(0)
    model = demo_gpt()
    with torch.no_grad():
        fault(model)
    return model


# --- symmetry


@pytest.mark.parametrize(
    ("fault", "where", "severity", "words"),
    [
        (lambda m: m[2].weight.fill_(0.1), "2.weight", "error", "every value of 2.weight is 0.1"),
        (lambda m: m[2].weight[:40].copy_(m[2].weight[40]), "2.weight", "error", "24 different"),
        (lambda m: m[2].weight[:10].copy_(m[2].weight[40]), "2.weight", "warning", "54 different"),
        (lambda m: m[-1].weight.fill_(1), "6.weight", "error", "every value of 6.weight is 1"),
    ],
)
def test_equal_rows_are_found(
    fault: Callable[[nn.Module], object], where: str, severity: str, words: str
) -> None:
    model = mlp(3, nn.ReLU, math.sqrt(2))
    with torch.no_grad():
        fault(model)
    finding = only(Symmetry(), judged(model))
    assert (finding.where, finding.severity) == (where, severity)
    assert words in finding.cause


def test_a_layer_that_is_a_copy_of_another_is_found() -> None:
    model = demo_gpt()
    model.h[2] = copy.deepcopy(model.h[0])
    finding = only(Symmetry(), audited(model))
    assert (finding.severity, finding.where) == ("warning", "h.2.attn.c_attn.weight")
    assert "the values of h.0.attn.c_attn.weight" in finding.cause
    assert {"h.2.mlp.c_proj.weight", "h.0.attn.c_attn.weight"} <= set(finding.also)


def healthy_rows() -> dict[str, Callable[[nn.Sequential], object]]:
    return {
        "identity": lambda m: nn.init.eye_(m[2].weight),
        "orthogonal": lambda m: nn.init.orthogonal_(m[2].weight),
        "a head at 0": lambda m: m[-1].weight.zero_(),
        "few equal rows": lambda m: m[2].weight[:5].zero_(),
        "frozen": lambda m: m[2].requires_grad_(requires_grad=False).weight.fill_(0.1),
    }


@pytest.mark.parametrize("case", healthy_rows())
def test_different_rows_heads_at_zero_and_frozen_weights_are_no_symmetry(case: str) -> None:
    model = mlp(3, nn.ReLU, math.sqrt(2))
    with torch.no_grad():
        healthy_rows()[case](model)
    assert silent(Symmetry(), judged(model))


def test_a_padding_row_of_an_embedding_is_no_symmetry() -> None:
    model = nn.Sequential(nn.Embedding(16, 8, padding_idx=0), nn.Flatten(), nn.Linear(32, 4))
    tokens = torch.randint(16, (8, 4), generator=torch.Generator().manual_seed(0))
    report = judged(model, batch=(tokens, tokens[:, 0] % 4))
    assert silent(Symmetry(), report)


# --- peers


@pytest.mark.parametrize(
    ("fault", "where", "severity"),
    [
        (lambda m: m.h[1].mlp.c_fc.weight.mul_(10), "h.1.mlp.c_fc.weight", "error"),
        (lambda m: m.h[2].attn.c_attn.weight.mul_(0.1), "h.2.attn.c_attn.weight", "error"),
        (lambda m: m.h[0].mlp.c_proj.weight.mul_(3), "h.0.mlp.c_proj.weight", "warning"),
        (lambda m: m.h[3].mlp.c_proj.weight.mul_(3), "h.3.mlp.c_proj.weight", "warning"),
        (lambda m: m.h[1].mlp.c_fc.weight.zero_(), "h.1.mlp.c_fc.weight", "error"),
        (lambda m: m.wpe.weight.normal_(std=5), "wpe.weight", "warning"),
    ],
)
def test_a_weight_unlike_its_peers_is_found(fault: Fault, where: str, severity: str) -> None:
    finding = only(WeightPeers(), audited(changed(fault)))
    assert (finding.where, finding.severity, finding.also) == (where, severity, ())


def test_a_gain_that_no_initialiser_gives_is_compared_with_the_limit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 36), nn.ReLU(), nn.Linear(36, 10))
    nn.init.normal_(model[0].weight)
    finding = only(WeightPeers(), judged(model))
    assert (finding.where, finding.severity, finding.threshold) == ("0.weight", "warning", 5.0)
    assert finding.value == pytest.approx(6, rel=0.05)  # 1 * sqrt(36)
    assert "no initialiser gives more than 5" in finding.cause


class Unlike(nn.Module):
    """Layers without peers: every name and shape is another one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.grow = nn.Linear(64, 96), nn.Linear(96, 128)
        self.shrink, self.leave = nn.Linear(128, 80), nn.Linear(80, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(self.shrink(self.grow(self.enter(x).relu()).relu()).relu())
        return out


@pytest.mark.parametrize(
    ("name", "factor", "found"),
    [
        *(("grow", 10.0, True), ("shrink", 0.1, True), ("grow", 3.0, False)),
        *(("grow", 0.4, False), ("leave", 0.1, False)),  # heads start small
    ],
)
def test_a_weight_without_peers_is_compared_with_all(name: str, factor: float, found: bool) -> None:
    model = Unlike()
    assert silent(WeightPeers(), judged(model))
    with torch.no_grad():
        model.get_submodule(name).weight.mul_(factor)  # type: ignore[operator]
    report = judged(model)
    if found:
        finding = only(WeightPeers(), report)
        assert (finding.where, finding.severity) == (f"{name}.weight", "warning")
    else:
        assert silent(WeightPeers(), report)


def scaled_by_depth(power: float) -> Fault:
    def scale(model: DemoGPT) -> None:
        for depth, block in enumerate(model.h, 1):
            block.mlp.c_proj.weight.mul_(depth**power)

    return scale


@pytest.mark.parametrize(
    "start",
    [
        lambda _m: None,  # residual projections smaller by sqrt(2 L)
        scaled_by_depth(-0.5),  # 1/sqrt(l)
        scaled_by_depth(-1.0),
        lambda m: [p.zero_() for p in weights_of(m, "c_proj.weight")],
        lambda m: [p.normal_(std=0.02) for p in weights_of(m, "weight") if p.dim() > 1],
    ],
)
def test_scales_that_follow_depth_or_are_shared_are_no_finding(start: Fault) -> None:
    assert silent(WeightPeers(), audited(changed(start)))


# --- norms


class Norms(nn.Module):
    """Residual blocks with a norm before and a norm behind the branch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 64), nn.ReLU(), nn.BatchNorm1d(64))
            for _ in range(3)
        )
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.head(self.norm(x))
        return out


Start = Callable[[Norms], object]


def norms(start: Start) -> Norms:
    model = Norms()
    with torch.no_grad():
        start(model)
    return model


@pytest.mark.parametrize(
    ("fault", "where", "severity"),
    [
        (lambda m: m.norm.weight.normal_(), "norm.weight", "error"),
        (lambda m: m.norm.weight.fill_(8), "norm.weight", "error"),
        (lambda m: m.norm.weight.fill_(2), "norm.weight", "warning"),
        (lambda m: m.norm.weight.zero_(), "norm.weight", "error"),
        (lambda m: m.norm.bias.fill_(3), "norm.bias", "error"),
        (lambda m: m.blocks[1][0].bias.normal_(std=0.1), "blocks.1.0.bias", "warning"),
        (lambda m: m.blocks[1][0].weight.normal_(std=0.02), "blocks.1.0.weight", "error"),
    ],
)
def test_a_norm_that_is_no_identity_is_found(fault: Start, where: str, severity: str) -> None:
    finding = only(NormIdentity(), judged(norms(fault)))
    assert (finding.where, finding.severity, finding.also) == (where, severity, ())


def all_norms(model: Norms) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.LayerNorm))]


@pytest.mark.parametrize(
    "start",
    [
        lambda _m: None,
        lambda m: [block[3].weight.zero_() for block in m.blocks],  # the last norm of a branch
        lambda m: [norm.weight.normal_(1.0, 0.02) for norm in all_norms(m)],  # DCGAN
        lambda m: m.norm.requires_grad_(requires_grad=False).weight.normal_(),
    ],
)
def test_zero_gammas_of_branches_and_gains_near_one_are_no_finding(start: Start) -> None:
    assert silent(NormIdentity(), judged(norms(start)))


def test_norms_that_were_trained_are_told_and_no_error() -> None:
    def train(model: Norms) -> None:
        for norm in all_norms(model):
            norm.weight.normal_(0.8, 0.15)
            norm.bias.normal_(std=0.1)

    assert only(NormIdentity(), judged(norms(train))).severity == "info"


# --- thresholds


@pytest.mark.parametrize(
    "rule",
    [
        Symmetry(share=-1.0),
        WeightPeers(apart=1.5),
        WeightPeers(vectors=0.001),
        NormIdentity(output=0.5),
    ],
)
def test_a_changed_threshold_makes_a_finding_of_a_healthy_model(rule: AuditRule) -> None:
    report = audited(changed(scaled_by_depth(-1.0)))
    assert silent(type(rule)(), report)
    assert only(rule, report).rule == rule.id


def test_the_models_of_these_tests_have_the_size_that_they_state() -> None:
    assert (CONFIG.layers, images()[0].shape[1]) == (4, 64)
    assert by_rule(judged(mlp(3, nn.ReLU, math.sqrt(2)))) == {}
