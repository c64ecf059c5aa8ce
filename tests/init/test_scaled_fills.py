"""Xavier, Kaiming, LeCun, variance scaling, bounds in stds: distributions against definitions.

All seeds are fixed, so a test either passes for good or fails for good. The false-alarm rate that a
fresh seed would have is about 1e-6 per check: 4.9 standard errors, and KS distances beyond
2.7 / sqrt(n) (Kolmogorov's limit law: 2 exp(-2 * 2.7**2) = 9e-7).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from initstats.init import variance_scaling, xavier_kaiming
from initstats.init.random import normal_, trunc_normal_, uniform_

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPE = (256, 40, 3, 5)  # fan_in 600, fan_out 3840, 153600 elements
FAN_IN, FAN_OUT = 600, 3840
N = math.prod(SHAPE)
KEYED = {"seed": 5, "name": "w"}

# Every fill: function, arguments, distribution, variance. The variances are those of the papers.
CASES: list[tuple[Callable[..., torch.Tensor], dict[str, Any], str, float]] = [
    (xavier_kaiming.xavier_uniform_, {}, "uniform", 2 / (FAN_IN + FAN_OUT)),
    (xavier_kaiming.xavier_uniform_, {"gain": 5 / 3}, "uniform", 50 / 9 / (FAN_IN + FAN_OUT)),
    (xavier_kaiming.xavier_normal_, {}, "normal", 2 / (FAN_IN + FAN_OUT)),
    (xavier_kaiming.xavier_normal_, {"gain": 0.5}, "normal", 0.5 / (FAN_IN + FAN_OUT)),
    (xavier_kaiming.kaiming_uniform_, {}, "uniform", 2 / FAN_IN),
    (xavier_kaiming.kaiming_uniform_, {"a": math.sqrt(5)}, "uniform", 1 / 3 / FAN_IN),
    (xavier_kaiming.kaiming_uniform_, {"mode": "FAN_OUT"}, "uniform", 2 / FAN_OUT),
    (
        xavier_kaiming.kaiming_normal_,
        {"mode": "fan_out", "nonlinearity": "relu"},
        "normal",
        2 / FAN_OUT,
    ),
    (xavier_kaiming.kaiming_normal_, {"nonlinearity": "tanh"}, "normal", 25 / 9 / FAN_IN),
    (xavier_kaiming.kaiming_normal_, {"nonlinearity": torch.exp}, "normal", math.exp(-2) / FAN_IN),
    (xavier_kaiming.kaiming_normal_, {"nonlinearity": "relu_squared"}, "normal", 2 / 3 / FAN_IN),
    (
        xavier_kaiming.kaiming_normal_,
        {"mode": "fan_out", "nonlinearity": "linear", "groups": 8},
        "normal",
        8 / FAN_OUT,
    ),
    (
        xavier_kaiming.kaiming_uniform_,
        {"nonlinearity": "linear", "transposed": True},
        "uniform",
        1 / FAN_OUT,
    ),
    (xavier_kaiming.xavier_normal_, {"packed": 4}, "normal", 2 / (FAN_IN + FAN_OUT / 4)),
    (xavier_kaiming.xavier_uniform_, {"groups": 2}, "uniform", 2 / (FAN_IN + FAN_OUT / 2)),
    (variance_scaling.lecun_normal_, {}, "truncated_normal", 1 / FAN_IN),
    (variance_scaling.lecun_normal_, {"transposed": True}, "truncated_normal", 1 / FAN_OUT),
    (variance_scaling.lecun_uniform_, {}, "uniform", 1 / FAN_IN),
    (variance_scaling.variance_scaling_, {}, "normal", 1 / FAN_IN),
    *(
        (
            variance_scaling.variance_scaling_,
            {"scale": 3.0, "mode": mode, "distribution": distribution},
            distribution,
            3 / fan,
        )
        for distribution in ("normal", "truncated_normal", "uniform")
        for mode, fan in (
            ("fan_in", FAN_IN),
            ("fan_out", FAN_OUT),
            ("fan_avg", (FAN_IN + FAN_OUT) / 2),
            ("fan_geo_avg", math.sqrt(FAN_IN * FAN_OUT)),
        )
    ),
    (
        variance_scaling.variance_scaling_,
        {"mode": "fan_out", "distribution": "uniform", "packed": 2},
        "uniform",
        2 / FAN_OUT,
    ),
]


def exact(distribution: str, std: float) -> Any:
    """The distribution of mean 0 and the std, from scipy."""
    if distribution == "uniform":
        bound = math.sqrt(3) * std
        return stats.uniform(-bound, 2 * bound)
    if distribution == "normal":
        return stats.norm(0, std)
    return stats.truncnorm(-2, 2, scale=std / stats.truncnorm(-2, 2).std())


def ks_distance(sample: torch.Tensor, cdf: Callable[..., Any]) -> float:
    """Largest gap between the sample's distribution and the exact one rounded to its dtype."""
    points, counts = np.unique(sample.double().cpu().numpy(), return_counts=True)
    values = torch.from_numpy(points).to(sample.dtype)
    above = torch.nextafter(values, torch.full_like(values, math.inf)).double().numpy()
    expected = cdf((points + above) / 2)
    expected[-1] = 1.0  # the last value takes what would round to the bound or beyond
    return float(np.abs(np.cumsum(counts) / counts.sum() - expected).max())


@pytest.mark.backends("cpu", "cuda")  # the kernels below are those of test_fills.py
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("fill", "arguments", "distribution", "variance"), CASES)
def test_fill_has_its_distribution_in_every_dtype(  # type: ignore[no-untyped-def]
    fill, arguments, distribution, variance, dtype, device: torch.device
) -> None:
    x = torch.empty(SHAPE, dtype=dtype, device=device)
    assert fill(x, **arguments, seed=31) is x
    std = math.sqrt(variance)
    law = exact(distribution, std)
    assert ks_distance(x, law.cdf) < 2.7 / math.sqrt(N)
    z = x.double().flatten() / std
    # Rounding to bfloat16 changes a value by up to 2**-9 of it, evenly: 1e-4 is left of it.
    assert abs(float(z.mean())) < 4.9 / math.sqrt(N) + 1e-4
    kurtosis = float(law.stats(moments="k")) + 3
    assert abs(float(z.std()) - 1) < 4.9 * math.sqrt((kurtosis - 1) / 4 / N) + 1e-4
    if distribution == "uniform":
        assert float(z.abs().max()) <= math.sqrt(3) * (1 + torch.finfo(dtype).eps)
    if distribution == "truncated_normal":
        limit = 2 / stats.truncnorm(-2, 2).std()
        assert float(z.abs().max()) <= limit * (1 + torch.finfo(torch.float32).eps)
        assert float(z.abs().max()) > 0.99 * limit


@pytest.mark.backends("cpu", "cuda")  # the kernels below are those of test_fills.py
@pytest.mark.parametrize(
    ("mean", "std", "low", "high"),
    [
        (0.0, 0.02, -2.0, 2.0),
        (0.5, 0.1, -3.0, 1.0),
        (0.0, 1.0, -2.0, math.inf),
        (-1.0, 2.0, -math.inf, 0.0),
        (0.0, 1.0, 3.0, 4.0),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_truncated_normal_has_its_bounds_in_stds(
    mean: float, std: float, low: float, high: float, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.empty(N, dtype=dtype, device=device)
    assert variance_scaling.truncated_normal_(x, mean, std, low, high, seed=32) is x
    assert ks_distance(x, stats.truncnorm(low, high, mean, std).cdf) < 2.7 / math.sqrt(N)
    assert float(x.double().min()) >= mean + low * std
    assert float(x.double().max()) <= mean + high * std
    absolute = (mean + low * std, mean + high * std)
    assert torch.equal(x, trunc_normal_(torch.empty_like(x), mean, std, *absolute, seed=32))


def test_default_truncation_is_two_stds_where_trunc_normal_is_absolute(
    device: torch.device,
) -> None:
    x = torch.empty(N, device=device)
    assert float(variance_scaling.truncated_normal_(x, 0.0, 0.02, seed=1).abs().max()) <= 0.04
    assert float(trunc_normal_(x, 0.0, 0.02, seed=1).abs().max()) > 0.06


def test_std_after_truncation_is_the_published_constant() -> None:
    constant = xavier_kaiming.STD_OF_TRUNCATED_NORMAL
    assert constant == pytest.approx(stats.truncnorm(-2, 2).std(), rel=1e-14)
    assert str(constant).startswith("0.87962566")


def test_bits_are_those_of_the_fill_below(device: torch.device) -> None:
    w = torch.empty(SHAPE, device=device)
    std = math.sqrt(2.0 / (FAN_IN + FAN_OUT))
    bound = math.sqrt(3.0) * math.sqrt(2.0) / math.sqrt(FAN_IN)
    wide = 1 / math.sqrt(FAN_IN) / xavier_kaiming.STD_OF_TRUNCATED_NORMAL
    for ours, below in (
        (xavier_kaiming.xavier_normal_, lambda x: normal_(x, 0.0, std, **KEYED)),
        (xavier_kaiming.kaiming_uniform_, lambda x: uniform_(x, -bound, bound, **KEYED)),
        (
            variance_scaling.lecun_normal_,
            lambda x: trunc_normal_(x, 0.0, wide, -2 * wide, 2 * wide, **KEYED),
        ),
    ):
        assert torch.equal(ours(w.clone(), **KEYED), below(w.clone()))


def test_a_generator_or_the_default_one_decides_and_moves_on(device: torch.device) -> None:
    for fill in (
        xavier_kaiming.xavier_uniform_,
        xavier_kaiming.xavier_normal_,
        xavier_kaiming.kaiming_uniform_,
        xavier_kaiming.kaiming_normal_,
        variance_scaling.lecun_normal_,
        variance_scaling.lecun_uniform_,
        variance_scaling.variance_scaling_,
        variance_scaling.truncated_normal_,
    ):
        x = torch.empty(20, 30, device=device)
        first = fill(x.clone(), generator=torch.Generator().manual_seed(9))
        torch.manual_seed(9)
        second, third = fill(x.clone()), fill(x.clone())
        assert torch.equal(first, second), fill.__name__
        assert not torch.equal(second, third), fill.__name__
        assert not torch.equal(fill(x.clone(), seed=9, name="a"), fill(x.clone(), seed=9, name="b"))


def test_parameters_strides_and_meta_tensors_are_fine(device: torch.device) -> None:
    for fill in (
        xavier_kaiming.xavier_normal_,
        xavier_kaiming.kaiming_uniform_,
        variance_scaling.lecun_normal_,
        variance_scaling.variance_scaling_,
        variance_scaling.truncated_normal_,
    ):
        w = nn.Parameter(torch.zeros(6, 4, device=device))
        assert fill(w, **KEYED) is w
        assert w.is_leaf
        assert w.grad_fn is None
        strided = torch.zeros(4, 6, device=device).t()
        assert torch.equal(fill(strided, **KEYED), w)
        x = torch.empty(6, 4, device="meta")
        assert fill(x) is x


def test_a_scale_of_zero_gives_zeros(device: torch.device) -> None:
    x = torch.ones(4, 5, device=device)
    assert not xavier_kaiming.xavier_uniform_(x.clone(), 0.0).any()
    assert not xavier_kaiming.xavier_normal_(x.clone(), 0.0).any()
    for distribution in ("normal", "truncated_normal", "uniform"):
        y = x.clone()
        variance_scaling.variance_scaling_(y, 0.0, distribution=distribution)  # type: ignore[arg-type]
        assert not y.any()
    mean = variance_scaling.truncated_normal_(x.clone(), 0.5, 0.0, -math.inf, math.inf)
    assert torch.equal(mean, torch.full_like(x, 0.5))
