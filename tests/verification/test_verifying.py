"""Weights against a recipe: alarms on faults, none on correct models, and the sampling bands."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Constant, Normal, Recipe, Rule, Uniform
from initstats.statistics.compute import stats
from initstats.verification.confidence import mean_band, std_band
from initstats.verification.verifier import compare, verify


def demo_gpt(layers: int = 3, device: str = "cpu") -> DemoGPT:
    with torch.device(device):
        return DemoGPT(DemoConfig(vocabulary=64, context=16, layers=layers, width=32, heads=2))


def everything(std: float) -> Recipe:
    return Recipe([Rule("*", Normal(std), "everything")], name="everything")


def test_two_hundred_correct_models_raise_no_alarm() -> None:
    # Chance of an alarm 200 * 1e-4 = 2 %; seeds are fixed.
    model = demo_gpt(layers=1)
    for seed in range(200):
        init_(model, "gpt2", seed=seed)
        report = verify(model, "gpt2")
        assert report.ok, (seed, [entry.problem for entry in report.failures])


def test_measured_moments_are_those_of_numpy() -> None:
    model = demo_gpt()
    init_(model, "gpt2", seed=0)
    for entry in verify(model, "gpt2").entries:
        values = model.get_parameter(entry.name).detach().numpy().astype(np.float64)
        assert entry.mean == pytest.approx(values.mean(), rel=1e-5, abs=1e-9)
        assert entry.std == pytest.approx(values.std(ddof=1), rel=1e-5, abs=1e-9)


def test_missing_residual_scaling_is_found_and_named() -> None:
    model = demo_gpt()
    init_(model, "gpt2", seed=0)
    init_(model, Recipe([Rule("*c_proj.weight", Normal(0.02))]), seed=0, allow_unmatched=True)
    report = verify(model, "gpt2")
    names = {name for name, _ in model.named_parameters() if name.endswith("c_proj.weight")}
    assert {entry.name for entry in report.failures} == names
    assert "expected 0.008165 (x 2.4" in report.failures[0].problem


def test_a_deviation_beyond_the_sampling_band_is_found() -> None:
    model = nn.Linear(256, 256, bias=False)
    init_(model, everything(1.0), seed=0)
    # 65,536 values: a band of 4.05 standard errors is 1.1 %.
    assert verify(model, everything(1.0)).ok
    with torch.no_grad():
        model.weight.mul_(1.03)
    assert verify(model, everything(1.0)).failures[0].problem.startswith("std 1.0")
    with torch.no_grad():
        model.weight.div_(1.03).add_(0.05)
    assert verify(model, everything(1.0)).failures[0].problem.startswith("mean 0.0")


def test_constants_must_be_exact() -> None:
    model = demo_gpt()
    init_(model, "gpt2", seed=0)
    with torch.no_grad():
        model.h[1].ln_1.bias[3] = 1e-6
    problems = {entry.name: entry.problem for entry in verify(model, "gpt2").failures}
    assert problems == {"h.1.ln_1.bias": "expected 0 everywhere"}


def test_not_finite_values_are_counted() -> None:
    model = nn.Linear(4, 4, bias=False)
    init_(model, everything(1.0), seed=0)
    with torch.no_grad():
        model.weight[0, 0] = math.nan
        model.weight[0, 1] = math.inf
    assert verify(model, everything(1.0)).failures[0].problem == "1 NaN and 1 infinite values"
    with torch.no_grad():
        model.weight.fill_(math.nan)
    assert verify(model, everything(1.0)).failures[0].problem == "16 NaN and 0 infinite values"


def test_values_outside_the_bounds_are_found() -> None:
    model = nn.Linear(8, 8, bias=False)
    recipe = Recipe([Rule("*", Uniform(-0.1, 0.1))])
    init_(model, recipe, seed=0)
    assert verify(model, recipe).ok
    for value in (0.101, -0.101):
        with torch.no_grad():
            model.weight[0, 0] = value
        assert "values outside [-0.1, 0.1]" in verify(model, recipe).failures[0].problem


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_keeps_its_promise(dtype: torch.dtype) -> None:
    rules = [Rule("*.weight", Normal(0.02)), Rule("*.bias", Constant(0.1))]
    model = nn.Sequential(nn.Linear(64, 64)).to(dtype)
    init_(model, Recipe(rules), seed=0)
    report = verify(model, Recipe(rules))
    assert report.ok, [entry.problem for entry in report.failures]


def test_a_single_value_is_judged_by_its_size_only() -> None:
    model = nn.PReLU()
    init_(model, everything(1.0), seed=0)
    assert verify(model, everything(1.0)).ok
    with torch.no_grad():
        model.weight.fill_(50.0)
    assert not verify(model, everything(1.0)).ok


def test_a_verify_report_is_json_with_a_schema_and_prints_its_verdicts() -> None:
    model = demo_gpt()
    report = verify(model, "gpt2")
    values = json.loads(json.dumps(report.to_dict()))
    assert values["schema"] == "initstats.verify/1"
    assert values["ok"] is False
    assert values["false_alarm_rate"] == 1e-4
    assert "break their promise" in str(report)
    assert "expected 0 everywhere" in str(report)


def test_verify_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(
        ValueError, match=r"^initstats.verify: expected parameters with values, got"
    ):
        verify(demo_gpt(device="meta"), "gpt2")
    with pytest.raises(ValueError, match=r"expected false_alarm_rate in \(0, 1\), got"):
        verify(demo_gpt(), "gpt2", false_alarm_rate=0.0)
    with pytest.raises(ValueError, match=r"^initstats.verify: expected a rule for every parameter"):
        verify(nn.Linear(2, 2), Recipe([Rule("weight", Normal(1.0))]))
    report = verify(nn.Linear(2, 2), Recipe([Rule("weight", Normal(1.0))]), allow_unmatched=True)
    assert report.unmatched == ("bias",)


# --- bands


@pytest.mark.parametrize("count", [2, 3, 4, 5, 16, 256, 4096, 10**6])
@pytest.mark.parametrize("z", [3.0, 4.0, 5.0, 6.0])
def test_the_std_band_holds_at_most_the_nominal_false_alarms(count: int, z: float) -> None:
    stats = pytest.importorskip("scipy.stats")  # the oracle: exact chi-square tails
    band = std_band(Normal(1.0), count, z)
    nominal = stats.norm.sf(z)
    upper = stats.chi2.sf((count - 1) * band.high**2, count - 1)
    lower = stats.chi2.cdf((count - 1) * band.low**2, count - 1)
    assert upper <= 1.02 * nominal
    assert lower <= 1.02 * nominal
    if count >= 4096:  # sharp where it matters: the half width is z / sqrt(2 n)
        assert upper >= 0.9 * nominal
        assert lower >= 0.9 * nominal
        assert band.high - 1 == pytest.approx(z / math.sqrt(2 * count), rel=0.1)


def test_the_std_band_of_a_uniform_is_that_of_its_kurtosis() -> None:
    # Monte Carlo oracle: 20,000 samples of 200 values; z = 3 is left by 0.27 %, here at most 0.5 %.
    samples = np.random.default_rng(0).uniform(-1.0, 1.0, (20_000, 200))
    band = std_band(Uniform(-1.0, 1.0), 200, 3.0)
    stds = samples.std(axis=1, ddof=1)
    outside = np.mean((stds < band.low) | (stds > band.high))
    assert 0.001 < outside < 0.005


def test_the_mean_band_is_z_standard_errors() -> None:
    band = mean_band(Normal(2.0, mean=1.0), 100, 3.0)
    assert (band.low, band.high) == pytest.approx((0.4, 1.6))
    assert not band.holds(math.nan)


def test_records_are_compared_without_looking_at_the_parameters_again() -> None:
    # The audit compares records of before its steps, when the parameters have moved on.
    model = nn.LSTM(16, 16)
    init_(model, "lstm", seed=0)
    records = {name: stats(p.detach()) for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.ones_like(parameter))
    report = compare(plan(model, "lstm"), records)
    assert report.ok, [(entry.name, entry.problem) for entry in report.failures]
    # A parameter of several parts has no record of its parts, and is left out.
    assert "bias_ih_l0[forget]" not in {entry.name for entry in report.entries}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_bound_that_a_dtype_does_not_reach_is_no_cut(dtype: torch.dtype) -> None:
    # bfloat16 has 0.9966e-4 and 1.0014e-4, and nothing between.
    model = nn.Embedding(320, 256, dtype=dtype)
    for bound in (1e-4, 0.03, 0.7):
        recipe = Recipe([Rule("*", Uniform(-bound, bound))], name="bounded")
        init_(model, recipe, seed=0)
        report = verify(model, recipe)
        assert report.ok, [entry.problem for entry in report.failures]
        with torch.no_grad():
            model.weight.clamp_(-0.97 * bound, 0.97 * bound)
        assert not verify(model, recipe).ok
