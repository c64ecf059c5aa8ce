"""The rules of the audit: one fault each, and rules as objects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing import (
    DEFAULT_RULES,
    ActivationScale,
    AuditRule,
    InitialLoss,
    UpdateRatio,
    audit,
)
from initstats.auditing.demo.data import batch as text_batch
from initstats.auditing.demo.model import DemoGPT
from judged_models import CONFIG, audited, by_rule, demo_gpt, images, judged, mlp

# --- one fault each


def test_nan_weights_are_named_first() -> None:
    model = demo_gpt()
    with torch.no_grad():
        model.h[2].mlp.c_fc.bias[0] = math.nan
    finding = audited(model, steps=1).findings[0]
    assert (finding.rule, finding.severity) == ("not-finite", "error")
    assert finding.where == "h.2.mlp.c_fc.bias"
    assert "1 NaN" in finding.cause


def test_the_first_layer_with_nan_is_named() -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    model = mlp(4, nn.ReLU, 1.4)
    model[3] = Logarithm()
    finding = by_rule(judged(model))["not-finite"]
    assert finding.where == "3"
    assert "4" in finding.also


class Scores(nn.Module):
    """Scores of 8 keys, the later ones masked; `scale` is their size."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        later = torch.ones(x.shape[-1], dtype=torch.bool).cumsum(0) > 4
        return (x * self.scale).masked_fill(later, -math.inf)


@pytest.mark.parametrize(("scale", "found"), [(1.0, False), (1e5, True)])
def test_a_mask_of_minus_infinity_is_none_beside_scores_that_did_not_overflow(
    scale: float, found: bool
) -> None:
    model = nn.Sequential(nn.Linear(12, 8), Scores(scale), nn.Softmax(-1), nn.Linear(8, 4))
    report = audit(
        model,
        (torch.randn(32, 12), torch.randint(4, (32,))),
        loss_fn=functional.cross_entropy,
        steps=1,
    )
    assert ("not-finite" in by_rule(report)) is found


def test_a_mask_that_leaves_a_row_of_nan_is_named() -> None:
    model = nn.Sequential(nn.Linear(12, 8), Scores(1.0), nn.LayerNorm(8), nn.Linear(8, 4))
    report = audit(
        model,
        (torch.randn(32, 12), torch.randint(4, (32,))),
        loss_fn=functional.cross_entropy,
        steps=1,
    )
    finding = by_rule(report)["not-finite"]
    assert finding.where == "1"
    assert "2" in finding.also


def test_a_gradient_that_is_not_finite_is_named_where_backward_meets_it_first() -> None:
    class RootOfZero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 0).sqrt()  # derivative 0 * inf at 0

    model = mlp(3, nn.ReLU, 1.4)
    model[3] = RootOfZero()
    finding = by_rule(judged(model))["not-finite"]
    assert finding.cause.startswith("gradients: ")
    assert finding.where == "2"


def test_huge_early_activations_are_found() -> None:
    model = mlp(6, nn.ReLU, math.sqrt(2))
    with torch.no_grad():
        model[0].weight.mul_(1e4)
    finding = by_rule(judged(model))["activation-scale"]
    assert finding.where in {"0", "2", "4"}
    assert finding.value > 1000


def test_a_large_scale_that_the_whole_model_shares_is_no_error() -> None:
    layers = [nn.Linear(64, 64, bias=False) for _ in range(4)]
    for layer in layers:
        nn.init.eye_(layer.weight)
    model = nn.Sequential(*layers)
    report = audit(model, images()[0] * 1e4, loss_fn=lambda out, _x: out.mean(), steps=1)
    finding = by_rule(report)["activation-scale"]
    assert finding.severity == "warning"


def test_a_signal_that_nothing_normalises_and_that_dies_is_found() -> None:
    finding = by_rule(judged(mlp(8, nn.ReLU, 0.5)))["activation-std"]
    assert finding.severity == "error"
    assert finding.where == "14"  # the last hidden layer
    assert "shrinks" in finding.cause


@pytest.mark.parametrize(("gain", "verb"), [(0.4, "shrink"), (6.0, "grow")])
def test_exponential_change_with_depth_is_found(gain: float, verb: str) -> None:
    finding = by_rule(judged(mlp(8, nn.ReLU, gain)))["activation-growth"]
    assert (finding.severity, finding.where) == ("error", "14")
    assert verb in finding.cause
    # A ReLU layer of gain g changes the rms by g / sqrt(2); width 64 leaves some noise. The
    # exponent is defined over L layers while L - 1 of them lie between the ends.
    assert finding.value == pytest.approx(7 / 8 * math.log(gain / math.sqrt(2)), rel=0.25)


def test_vanishing_gradients_are_found() -> None:
    rules = by_rule(judged(mlp(12, nn.Sigmoid, 1.0)))
    assert rules["gradient-ratio"].severity == "error"
    assert rules["gradient-ratio"].where == "0"
    assert rules["gradient-growth"].where == "0"


def test_exploding_gradients_are_found() -> None:
    # Tanh at a large gain: bounded forward, growing backward.
    rules = by_rule(judged(mlp(20, nn.Tanh, 6.0)))
    assert "grow" in rules["gradient-growth"].cause
    assert rules["gradient-ratio"].value > 70


def test_a_parameter_that_no_loss_reaches_is_named() -> None:
    model = demo_gpt()
    model.unused = nn.Linear(4, 4)
    finding = by_rule(audited(model, steps=1))["missing-gradient"]
    assert (finding.where, finding.also) == ("unused.weight", ("unused.bias",))
    model.unused.requires_grad_(False)
    assert "missing-gradient" not in by_rule(audited(model, steps=1))


def test_a_confident_head_is_found() -> None:
    model = demo_gpt()
    with torch.no_grad():
        model.wte.weight.mul_(50)  # std 1, tied to the head
    rules = by_rule(audited(model))
    assert rules["initial-loss"].severity == "error"
    assert rules["activation-std"].where == "lm_head"
    assert "wte.weight has std 1.0" in rules["activation-std"].cause


def test_a_loss_far_below_a_uniform_guess_is_a_hint_of_a_leak() -> None:
    x, y = images()
    model = nn.Linear(10, 10)
    with torch.no_grad():
        model.weight.copy_(torch.eye(10) * 8)
    shown = functional.one_hot(y, 10).float()
    report = audit(model, (shown, y), loss_fn=functional.cross_entropy, steps=1)
    assert by_rule(report)["initial-loss"].severity == "info"
    assert report.ok
    del x


def test_a_rising_loss_is_found() -> None:
    finding = by_rule(audited(demo_gpt(), steps=8, rate=1.0))["loss-trajectory"]
    assert finding.severity == "error"
    assert "rises" in finding.cause


def test_a_flat_loss_and_tiny_updates_are_found() -> None:
    rules = by_rule(audited(demo_gpt(), rate=1e-9))
    assert "stands still" in rules["loss-trajectory"].cause
    assert rules["loss-trajectory"].severity == "warning"
    assert rules["update-ratio"].value < 1e-4


def test_a_loss_that_is_not_finite_is_named_with_its_step() -> None:
    losses = iter([1.0, 2.0, math.nan, 4.0])

    def loss_fn(out: Tensor, _x: Tensor) -> Tensor:
        return out.mean() * 0 + next(losses)

    report = audit(nn.Linear(64, 4), images()[0], loss_fn=loss_fn, steps=4)
    finding = by_rule(report)["loss-trajectory"]
    assert (finding.severity, finding.where) == ("error", "step 3")


def test_updates_that_are_too_large_are_found() -> None:
    finding = by_rule(audited(demo_gpt(), rate=0.05))["update-ratio"]
    assert finding.severity == "warning"
    assert finding.value > 0.1
    assert "lower the learning rate" in finding.fix


def test_small_matrices_beside_large_ones_are_no_finding_on_their_own() -> None:
    # std 0.002 changes by 15 % at rate 3e-4, as in the residual projections of a very deep GPT-2.
    model = demo_gpt()
    with torch.no_grad():
        for block in model.h:
            block.attn.c_proj.weight.mul_(0.002 / (0.02 / math.sqrt(8)))
    report = audited(model, rate=3e-4)
    parameter = report.evidence.parameters["h.0.attn.c_proj.weight"]
    assert parameter.update_ratio is not None
    assert parameter.update_ratio > 0.1
    assert "update-ratio" not in by_rule(report)


@pytest.mark.parametrize(
    ("factor", "severity"), [(10.0, "error"), (0.1, "error"), (1.2, "warning")]
)
def test_weights_that_are_not_by_the_recipe_are_named(factor: float, severity: str) -> None:
    model = demo_gpt()
    with torch.no_grad():
        model.h[1].attn.c_attn.weight.mul_(factor)
    finding = by_rule(audited(model, recipe="gpt2"))["weights-against-recipe"]
    assert finding.severity == severity
    assert finding.where == "h.1.attn.c_attn.weight"
    assert finding.also == ()
    assert finding.value == pytest.approx(0.02 * factor, rel=0.02)
    assert finding.threshold == 0.02


# --- rules as objects


def test_thresholds_can_be_changed() -> None:
    data = text_batch(CONFIG.vocabulary, CONFIG.context, CONFIG.batch, seed=0)
    rules = [InitialLoss(excess=-5.0), UpdateRatio(high=1e-3), ActivationScale(limit=1e-3)]
    report = audit(demo_gpt(), data, steps=1, rules=rules)
    assert {finding.rule for finding in report.findings} == {
        "initial-loss",
        "update-ratio",
        "activation-scale",
    }


def test_every_rule_states_its_id_and_source_and_every_finding_its_cause_and_fix() -> None:
    assert len({rule.id for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)
    for rule in DEFAULT_RULES:
        assert isinstance(rule, AuditRule)
        assert rule.source
    report = audited(DemoGPT(CONFIG), recipe="gpt2")
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    for finding in report.findings:
        assert finding.cause
        assert finding.fix
        assert finding.source
        assert set(finding.to_dict()) == {
            "rule",
            "severity",
            "where",
            "value",
            "threshold",
            "cause",
            "fix",
            "source",
            "also",
        }
