"""Moments, distribution functions and errors of what rules promise, against scipy and samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import (
    Constant,
    LogUniform,
    Normal,
    Orthogonal,
    Part,
    Recipe,
    Rule,
    Stacked,
    TruncNormal,
    Uniform,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(
    "arguments",
    [(1, -2, 2, 0), (0.02, -2, 2, 0), (1, -1, 3, 0.5), (2, -math.inf, 1, 0), (1, 3, 5, 0)],
)
def test_truncated_moments_are_those_of_scipy(arguments: tuple[float, ...]) -> None:
    std, low, high, mean = arguments
    ours = TruncNormal(std, low, high, mean)
    theirs = stats.truncnorm((low - mean) / std, (high - mean) / std, loc=mean, scale=std)
    m, v, k = (float(x) for x in theirs.stats(moments="mvk"))
    # scipy integrates numerically where the bounds are far out.
    assert ours.mean == pytest.approx(m, rel=1e-7, abs=1e-12)
    assert ours.std == pytest.approx(math.sqrt(v), rel=1e-6)
    assert ours.kurtosis - 3 == pytest.approx(k, rel=1e-4, abs=1e-6)
    for x in (-1.0, 0.1, 0.9, 3.5):
        assert ours.cdf(x) == pytest.approx(float(theirs.cdf(x)), rel=1e-9, abs=1e-12)


def test_the_corrected_truncation_has_the_std_that_was_asked_for() -> None:
    assert TruncNormal.at(0.02, 2, corrected=True).std == pytest.approx(0.02, rel=1e-12)
    assert TruncNormal.at(1.0, 2).std == pytest.approx(0.87962566, rel=1e-8)


@pytest.mark.parametrize("sign", [1, -1])
def test_log_uniform_moments_are_those_of_a_sample(sign: int) -> None:
    ours = LogUniform(1.0, 99.0, sign)
    sample = sign * np.log(np.random.default_rng(0).uniform(1, 99, 400_000))
    # Five standard errors at a fixed seed.
    assert ours.mean == pytest.approx(sample.mean(), abs=5 * ours.std / math.sqrt(len(sample)))
    assert ours.std == pytest.approx(sample.std(), rel=0.01)
    fourth = float(np.mean((sample - sample.mean()) ** 4) / sample.var() ** 2)
    assert ours.kurtosis == pytest.approx(fourth, rel=0.03)
    assert ours.bounds == pytest.approx(sorted((0.0, sign * math.log(99))))
    for x in (sign * 0.5, sign * 3.0, sign * 5.0, -sign * 1.0):
        assert ours.cdf(x) == pytest.approx(float(np.mean(sample <= x)), abs=0.005)


def test_normal_and_uniform_distribution_functions_are_those_of_scipy() -> None:
    for x in (-9.0, -1.0, 0.3, 2.0):
        expected = float(stats.norm.cdf(x, 0.5, 2.0))
        assert Normal(2.0, 0.5).cdf(x) == pytest.approx(expected, rel=1e-12)
        expected = float(stats.uniform.cdf(x, -1.0, 3.0))
        assert Uniform(-1.0, 2.0).cdf(x) == pytest.approx(expected, rel=1e-12)


def test_an_orthogonal_fill_has_the_promised_moments() -> None:
    promised = Orthogonal(96, 64, gain=2.0)
    model = nn.Linear(64, 96, bias=False)
    init_(model, Recipe([Rule("*", promised)]), seed=0)
    weight = model.weight.detach().double()
    assert float(weight.square().mean().sqrt()) == pytest.approx(promised.std, rel=1e-5)
    gram = weight.T @ weight / 4
    assert torch.allclose(gram, torch.eye(64, dtype=gram.dtype), atol=1e-5)
    # 3 n / (n + 2) within five standard errors of the fourth moment of 6144 values, sqrt(24 / n).
    standard = weight / promised.std
    assert float(standard.pow(4).mean()) == pytest.approx(promised.kurtosis, abs=5 * 0.063)


def test_stacked_moments_are_those_of_all_parts_together() -> None:
    parts = [Part(Constant(1.0), 2, "a"), Part(Normal(0.5), 6, "b")]
    ours = Stacked(parts)
    sample = np.concatenate([np.ones(200_000), np.random.default_rng(0).normal(0, 0.5, 600_000)])
    assert ours.mean == pytest.approx(0.25)
    assert ours.std == pytest.approx(sample.std(), rel=0.005)
    assert ours.bounds == (-math.inf, math.inf)
    assert str(ours) == "1 | N(0, 0.5)"


def test_parts_are_written_where_they_belong() -> None:
    model = nn.Linear(6, 4, bias=False)
    parts = [Part(Constant(2.0), 1, "a"), Part(Uniform(5, 6), 3, "b"), Part(Constant(0), 2, "c")]
    init_(model, Recipe([Rule("*", Stacked(parts, 1))]), seed=0)
    weight = model.weight.detach()
    assert bool((weight[:, 0] == 2).all())
    assert bool(((weight[:, 1:4] >= 5) & (weight[:, 1:4] < 6)).all())
    assert not weight[:, 4:].any()


def test_parts_with_one_key_hold_the_same_numbers() -> None:
    fills = (LogUniform(1.0, 50.0), LogUniform(1.0, 50.0, sign=-1))
    parts = [Part(fill, 8, label, "same") for fill, label in zip(fills, "ab", strict=True)]
    model = nn.Module()
    model.gates = nn.Parameter(torch.zeros(16))
    init_(model, Recipe([Rule("*", Stacked(parts))]), seed=0)
    gates = model.gates.detach()
    assert torch.equal(gates[:8], -gates[8:])
    assert float(gates[:8].std()) > 0.1


def test_parts_must_add_up() -> None:
    recipe = Recipe([Rule("*", Stacked([Part(Constant(0.0), 3, "a")]), "mine")])
    with pytest.raises(
        ValueError, match=r"expected the parts of rule 'mine' to add up to 4, got \[3\] for name='"
    ):
        plan(nn.Linear(2, 4, bias=False), recipe)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncNormal(0.0), "TruncNormal: expected parent_std finite and > 0, got parent"),
        (lambda: TruncNormal(1.0, 2.0, 1.0), "TruncNormal: expected bounds low < high with a sh"),
        (lambda: TruncNormal(0.01, 1.0, 2.0), "TruncNormal: expected bounds low < high with a sh"),
        (lambda: TruncNormal(1.0, parent_mean=math.nan), "TruncNormal: expected parent_mean fini"),
        (lambda: Orthogonal(0, 3), "Orthogonal: expected rows and columns >= 1, got rows=0"),
        (lambda: Orthogonal(2, 3, 0.0), "Orthogonal: expected gain finite and > 0, got gain=0.0"),
        (lambda: LogUniform(0.0, 3.0), "LogUniform: expected 0 < low < high, got low=0.0"),
        (lambda: LogUniform(1.0, math.inf), "LogUniform: expected high finite, got high=inf"),
        (lambda: LogUniform(1.0, 3.0, 2), "LogUniform: expected sign 1 or -1, got sign=2"),
        (lambda: Stacked([]), r"Stacked: expected parts of size >= 1, got parts=\[\]"),
        (
            lambda: Stacked([Part(Constant(0.0), 0, "a")]),
            r"Stacked: expected parts of size >= 1, got parts=\[0\]",
        ),
    ],
)
def test_bad_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^initstats.{message}"):
        make()
