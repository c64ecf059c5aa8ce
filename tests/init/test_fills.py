"""Distributions of the fills against exact ones: moments, Kolmogorov-Smirnov, tails, bounds and
ulps.

All seeds are fixed, so a test either passes for good or fails for good. The false-alarm rate that a
fresh seed would have is stated beside each bound: about 1e-6 per check, that is 4.9 standard
errors, and KS distances beyond 2.7 / sqrt(n) (Kolmogorov's limit law: 2 exp(-2 * 2.7**2) = 9e-7).
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from scipy.special import ndtr, ndtri

import initstats
import stream_model as model
from exact_distributions import CDFS, trunc_cdf
from initstats.init._distributions import DISTRIBUTIONS, Family

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
N = 400_000
INF = math.inf


def cells(values: npt.NDArray[np.float64], dtype: torch.dtype) -> npt.NDArray[np.float64]:
    """Upper ends of the rounding cells of values: the midpoints to the next values."""
    t = torch.from_numpy(values).to(dtype)
    following = torch.nextafter(t, torch.full_like(t, INF)).double().numpy()
    return (values + following) / 2


def ks_distance(sample: torch.Tensor, cdf: stats.rv_continuous, dtype: torch.dtype) -> float:
    """Largest gap between the sample's distribution and the rounded exact one."""
    points, counts = np.unique(sample.double().cpu().numpy(), return_counts=True)
    return float(np.abs(np.cumsum(counts) / counts.sum() - cdf(cells(points, dtype))).max())


@pytest.mark.parametrize("family", DISTRIBUTIONS, ids=lambda family: family.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fill_has_its_distribution_in_every_dtype(
    family: Family, dtype: torch.dtype, device: torch.device
) -> None:
    for numbers in family.examples.values():
        x = torch.empty(N, dtype=dtype, device=device)
        getattr(initstats, family.name)(x, *numbers, seed=10)
        values, counts = np.unique(x.double().cpu().numpy(), return_counts=True)
        expected = CDFS[family.name](*numbers)(cells(values, dtype))
        expected[-1] = 1.0  # the last cell takes what would have been rounded to a bound
        assert np.abs(np.cumsum(counts) / N - expected).max() < 2.7 / math.sqrt(N)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("a", "b"), [(0.0, 1.0), (-3.0, 5.0), (-0.25, 0.3), (100.0, 101.0)])
def test_uniform_has_its_distribution_in_every_dtype(
    a: float, b: float, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.empty(N, dtype=dtype, device=device)
    initstats.uniform_(x, a, b, seed=11)
    assert float(x.min()) >= a
    assert float(x.max()) < b
    # The last cell below b also takes what would have rounded up to b.
    values, counts = np.unique(x.double().cpu().numpy(), return_counts=True)
    expected = np.clip((cells(values, dtype) - a) / (b - a), 0, 1)
    expected[-1] = 1.0
    assert np.abs(np.cumsum(counts) / N - expected).max() < 2.7 / math.sqrt(N)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normal_has_its_distribution_in_every_dtype(
    dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.empty(N, dtype=dtype, device=device)
    initstats.normal_(x, 0.5, 0.02, seed=12)
    assert ks_distance(x, stats.norm(0.5, 0.02).cdf, dtype) < 2.7 / math.sqrt(N)
    z = (x.double() - 0.5) / 0.02
    assert abs(float(z.mean())) < 4.9 / math.sqrt(N) + 1e-4 * (dtype is not torch.float64)
    if dtype in (torch.float32, torch.float64):
        assert abs(float(z.var()) - 1) < 4.9 * math.sqrt(2 / N)
        assert abs(float((z**3).mean())) < 4.9 * math.sqrt(15 / N)
        assert abs(float((z**4).mean()) - 3) < 4.9 * math.sqrt(96 / N)


def test_normal_tails_have_the_right_mass(device: torch.device) -> None:
    n = 1 << 22
    x = torch.empty(n, device=device)
    initstats.normal_(x, seed=13)
    for edge in (2.0, 3.0, 4.0, 4.5):
        for count in (int((x > edge).sum()), int((x < -edge).sum())):
            expected = n * ndtr(-edge)
            assert abs(count - expected) < 4.9 * math.sqrt(expected)


CASES = [
    (0.0, 1.0, -2.0, 2.0),
    (0.0, 0.02, -2.0, 2.0),
    (1.0, 2.0, -1.0, 1.5),
    (0.0, 1.0, 0.0, INF),
    (0.0, 1.0, -INF, INF),
    (0.0, 1.0, 5.0, INF),
    (0.0, 1.0, -INF, -5.0),
    (0.0, 1.0, 4.4, 4.6),
    (0.0, 1.0, 5.0, 5.2),
    (0.0, 1.0, 30.0, INF),
    (-8.0, 1.0, 0.0, INF),
    (0.0, 1.0, 0.5, 0.625),
    (0.0, 1.0, -0.01, 0.02),
    (0.0, 1.0, -2.02, -2.0),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("mean", "std", "a", "b"), CASES)
def test_trunc_normal_has_its_distribution_in_every_dtype(
    mean: float, std: float, a: float, b: float, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.empty(N, dtype=dtype, device=device)
    initstats.trunc_normal_(x, mean, std, a, b, seed=14)
    assert float(x.min()) >= a
    assert float(x.max()) <= b
    values, counts = np.unique(x.double().cpu().numpy(), return_counts=True)
    expected = trunc_cdf(mean, std, a, b)(cells(values, dtype))
    expected[-1] = 1.0  # bounds are kept after rounding: the last cell takes what rounds beyond b
    assert np.abs(np.cumsum(counts) / N - expected).max() < 2.7 / math.sqrt(N)


@pytest.mark.parametrize("low", [0.1, 1.0, -3.0])
def test_narrow_interval_uses_all_float32_values_in_it(low: float, device: torch.device) -> None:
    b = low + 64 * float(torch.finfo(torch.float32).eps) * abs(low)
    x = torch.empty(100_000, device=device)
    initstats.trunc_normal_(x, 0.0, 1.0, low, b, seed=15)
    a32, b32 = np.float32(low), np.float32(b)
    steps = round((float(b32) - float(a32)) / float(np.spacing(a32)))
    assert len(torch.unique(x)) >= steps - 1


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 0.3), (-0.3, -0.1), (0.3, 1.0), (1 / 3, 2 / 3), (-7.1, 9.3)]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_value_leaves_the_bounds_in_any_dtype(
    low: float, high: float, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.empty(100_000, dtype=dtype, device=device)
    for tensor in (
        initstats.uniform_(x.clone(), low, high, seed=1),
        initstats.trunc_normal_(x.clone(), 0.0, 1.0, low, high, seed=1),
    ):
        assert float(tensor.double().min()) >= low
        assert float(tensor.double().max()) <= high


def test_normal_is_within_5_ulp_of_the_exact_inverse_cdf() -> None:
    # 50-digit arithmetic on a sample, and scipy's double ndtri (about 1e-15) on many.
    n = 1 << 20
    index = np.arange(n, dtype=np.uint64)
    key = model.key_of(16, None)
    x = initstats.normal_(torch.empty(n), seed=16).double().numpy()
    exact = model.normal(key, index)
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(x - exact) / ulp).max() < 5.0
    mpmath.mp.dps = 50
    word = model.words(key, index[:2000])
    for i in range(2000):
        p = (mpmath.mpf(int(word[i] & 0x7FFFFFFF)) + 0.5) / 2**32
        z = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * p) * (-1 if word[i] >> 31 else 1)
        assert abs(z - exact[i]) < 1e-14 * abs(z)


def test_float64_normal_is_within_4e_15_of_the_exact_inverse_cdf() -> None:
    n = 2000
    words = model.wide_words(model.key_of(17, None), np.arange(n, dtype=np.uint64))
    x = initstats.normal_(torch.empty(n, dtype=torch.float64), seed=17).numpy()
    mpmath.mp.dps = 50
    for i in range(n):
        word = int(words[i])
        p = (mpmath.mpf((word & (2**63 - 1)) >> 10) + 0.5) / 2**54
        z = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * p) * (-1 if word >> 63 else 1)
        assert abs(z - x[i]) < 4e-15 * abs(z)


@pytest.mark.parametrize(("mean", "std", "a", "b"), CASES)
def test_trunc_normal_is_the_inverse_cdf_of_its_word(
    mean: float, std: float, a: float, b: float
) -> None:
    # Within 6 ulp of float32 of the largest of value, bound and mean, or 3e-7 standard deviations:
    # what one rounding of the mapped probability costs. mpmath inverts the distribution function at
    # 60 digits.
    n = 300
    u = model.uniform31(model.key_of(18, None), np.arange(n, dtype=np.uint64))
    x = initstats.trunc_normal_(torch.empty(n), mean, std, a, b, seed=18).double().numpy()
    mpmath.mp.dps = 60
    alpha, beta = (mpmath.mpf(v) for v in ((a - mean) / std, (b - mean) / std))
    flip = alpha > 0
    low, high = (
        (mpmath.ncdf(-beta), mpmath.ncdf(-alpha))
        if flip
        else (mpmath.ncdf(alpha), mpmath.ncdf(beta))
    )
    for i in range(n):
        below = (
            (high - mpmath.mpf(float(u[i])) * (high - low))
            if flip
            else low + mpmath.mpf(float(u[i])) * (high - low)
        )
        z = mpmath.sqrt(2) * mpmath.erfinv(2 * below - 1)
        if below < mpmath.mpf("1e-20"):
            start = -mpmath.sqrt(-2 * mpmath.log(below))
            z = mpmath.findroot(
                lambda t, p=below: mpmath.log(mpmath.ncdf(t)) - mpmath.log(p), (start, start * 0.95)
            )
        exact = mean + std * float(-z if flip else z)
        scale = max(
            abs(exact),
            abs(mean),
            *(abs(v) for v in (a, b) if math.isfinite(v) and abs(v) < abs(exact) + 1),
        )
        assert abs(x[i] - exact) < 6 * float(np.spacing(np.float32(scale))) + 3e-7 * std


def test_neighbouring_elements_and_tensors_are_uncorrelated(device: torch.device) -> None:
    n = 1 << 20
    a = initstats.normal_(torch.empty(n, device=device), seed=19, name="a").double()
    b = initstats.normal_(torch.empty(n, device=device), seed=19, name="b").double()
    bound = 4.9 / math.sqrt(n)
    assert abs(float((a * b).mean())) < bound
    for lag in (1, 2, 3, 4, 5, 64):
        assert abs(float((a[lag:] * a[:-lag]).mean())) < bound * 1.01


def test_trunc_normal_std_is_that_of_the_truncated_distribution(device: torch.device) -> None:
    x = initstats.trunc_normal_(torch.empty(N, device=device), seed=20).double()
    expected = stats.truncnorm(-2, 2).std()
    assert expected == pytest.approx(0.87962566, abs=1e-8)
    assert abs(float(x.std()) - expected) < 4.9 * expected / math.sqrt(2 * N)


def test_one_value_intervals_fill_with_the_value(device: torch.device) -> None:
    for dtype in DTYPES:
        x = torch.zeros(9, dtype=dtype, device=device)
        assert torch.equal(initstats.uniform_(x, 0.1, 0.1), torch.full_like(x, 0.1))
        assert torch.equal(initstats.trunc_normal_(x, 0, 1, 0.1, 0.1), torch.full_like(x, 0.1))
        assert torch.equal(initstats.trunc_normal_(x, 0.5, 0.0), torch.full_like(x, 0.5))
        assert torch.equal(initstats.normal_(x, 0.3, 0.0), torch.full_like(x, 0.3))


def test_ndtri_oracle_agrees_with_itself() -> None:
    # The oracle of this file against its own inverse, so that a broken scipy would show here.
    p = np.array([1e-9, 1e-5, 0.1, 0.5])
    assert np.allclose(ndtr(ndtri(p)), p, rtol=1e-12)


def test_a_truncated_normal_of_huge_std_is_uniform_between_its_bounds() -> None:
    cases = [
        (std, a, b)
        for std in (1e25, 1e30, 1e37, 1e38, 3.4e38, 1e39, 1e200, 1.7e308)
        for a, b in ((-1.0, 1.0), (0.0, 1.0), (1.0, 2.0), (-3.0, -1.0), (-6e4, 6e4))
    ]
    cases += [(std, -3e38, 3e38) for std in (1e41, 1e300)]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for std, a, b in cases:
            if b > torch.finfo(dtype).max:
                continue
            x = initstats.trunc_normal_(torch.empty(10_000, dtype=dtype), 0, std, a, b, seed=0)
            share = (x.double() - a) / (b - a)
            assert share.min() >= 0, (dtype, std, a, b)
            assert share.max() <= 1, (dtype, std, a, b)
            distance = stats.kstest(share.numpy(), stats.uniform.cdf).statistic
            assert distance < 2.7 / 100, (dtype, std, a, b, distance)


def test_a_truncated_normal_whose_std_float32_cannot_hold() -> None:
    std, bound = 1e39, 3e38  # the density at the bounds is 4 percent below that in the middle
    x = initstats.trunc_normal_(torch.empty(200_000), 0, std, -bound, bound, seed=0).double()
    wanted = stats.truncnorm(-bound / std, bound / std, scale=std)
    assert stats.kstest(x.numpy(), wanted.cdf).pvalue > 1e-3
    twin = initstats.trunc_normal_(torch.empty(200_000), 0, 0.1, -0.03, 0.03, seed=0).double()
    assert torch.allclose(x / std, twin / 0.1, atol=1e-6)
