"""orthogonal_: orthonormal to rounding, and Haar, at fixed seeds.

A fresh seed would raise a false alarm in a moment test with a rate of about 1e-6 (4.9 standard
errors), in a Kolmogorov-Smirnov test of 9e-7 (2.7 / sqrt(n), as in test_fills.py).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

import initstats
from orthogonality import defect, product_of_reflections, signed_key

COUNT = 4000


@cache
def sample(n: int) -> torch.Tensor:
    """Return COUNT independent n x n matrices, float64."""
    matrices = torch.empty(COUNT, n, n, dtype=torch.float64)
    for i, matrix in enumerate(matrices):
        initstats.orthogonal_(matrix, seed=i)
    return matrices


@pytest.mark.parametrize("n", [1, 2, 3, 127, 128, 129, 300])
def test_float32_columns_are_orthonormal_to_rounding(n: int) -> None:
    # DESIGN asks for 1.5e-6 up to 4096; rounding in products of n reflections, seen 1.0e-6.
    assert defect(initstats.orthogonal_(torch.empty(n, n), seed=1)) <= 1.5e-6


def test_float64_columns_are_orthonormal_to_rounding() -> None:
    assert defect(initstats.orthogonal_(torch.empty(300, 300).double(), seed=1)) <= 5e-15


@pytest.mark.parametrize(
    "shape", [(300, 40), (40, 300), (1, 7), (7, 1), (8, 3, 5, 5), (100, 4, 3), (2, 2, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_shorter_side_is_orthonormal(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    q = initstats.orthogonal_(torch.empty(shape, dtype=dtype), seed=2)
    # 16-bit types: each element is rounded by up to half an eps.
    eps = torch.finfo(dtype).eps
    bound = {torch.float32: 1.5e-6, torch.float64: 5e-15}.get(dtype, 2 * eps)
    assert defect(q) <= bound


@pytest.mark.parametrize(
    ("m", "n"), [(1, 1), (5, 5), (64, 30), (128, 128), (129, 3), (200, 200), (301, 257), (390, 385)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_is_the_product_of_the_reflections(
    m: int, n: int, dtype: torch.dtype, device: torch.device
) -> None:
    key = signed_key(8)
    expected = product_of_reflections(key, m, n, dtype)
    tall = initstats.orthogonal_(torch.empty(m, n, dtype=dtype, device=device), seed=8).cpu()
    # Columns of unit length: the error of an element after n reflections, seen 3e-7 and 6e-16.
    bound = 1.5e-6 if dtype is torch.float32 else 5e-15
    assert float((tall.double() - expected).abs().max()) < bound
    if m > n:
        wide = initstats.orthogonal_(torch.empty(n, m, dtype=dtype, device=device), seed=8).cpu()
        assert float((wide.double().t() - expected).abs().max()) < bound


def test_long_rows_of_a_wide_matrix_are_orthonormal() -> None:
    assert defect(initstats.orthogonal_(torch.empty(100, 3000), seed=1)) <= 1.5e-6


@pytest.mark.parametrize("gain", [0.0, 1.0, -2.0, math.sqrt(2)])
@pytest.mark.parametrize("shape", [(160, 150), (150, 160)])
def test_gain_scales_a_matrix_of_panels(gain: float, shape: tuple[int, int]) -> None:
    q = initstats.orthogonal_(torch.empty(shape).double(), seed=3)
    scaled = initstats.orthogonal_(torch.empty(shape).double(), gain, seed=3)
    assert torch.allclose(scaled, gain * q, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("gain", [0.0, 1.0, -2.0, math.sqrt(2)])
def test_gain_scales_the_matrix(gain: float) -> None:
    q = initstats.orthogonal_(torch.empty(50, 30).double(), seed=3)
    scaled = initstats.orthogonal_(torch.empty(50, 30).double(), gain, seed=3)
    assert torch.allclose(scaled, gain * q, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(70, 50), (150, 140), (140, 150)])
def test_halves_are_the_rounded_float32_matrix(shape: tuple[int, int]) -> None:
    exact = initstats.orthogonal_(torch.empty(shape), seed=4)
    for dtype in (torch.float16, torch.bfloat16):
        half = initstats.orthogonal_(torch.empty(shape, dtype=dtype), seed=4)
        assert torch.equal(half, exact.to(dtype))


@pytest.mark.parametrize(("rows", "columns"), [(40, 30), (150, 140)])
def test_strides_change_nothing(rows: int, columns: int) -> None:
    expected = initstats.orthogonal_(torch.empty(rows, columns).double(), seed=5)
    view = torch.zeros(columns, rows, dtype=torch.float64).t()
    assert torch.allclose(initstats.orthogonal_(view, seed=5), expected, atol=1e-14)
    gaps = torch.full((rows, 3 * columns), 7.0, dtype=torch.float64)
    assert torch.allclose(initstats.orthogonal_(gaps[:, ::3], seed=5), expected, atol=1e-14)
    assert bool((gaps[:, 1::3] == 7.0).all())
    # Dimensions that no view can flatten.
    folded = torch.zeros(rows, 10, columns // 10, dtype=torch.float64).transpose(1, 2).contiguous()
    folded = folded.transpose(1, 2)
    initstats.orthogonal_(folded, seed=5)
    assert torch.allclose(folded.reshape(rows, columns), expected, atol=1e-14)


def test_autograd_notices_a_fill() -> None:
    for n in (3, 200):
        w = torch.zeros(n, n, requires_grad=True)
        before = w._version
        initstats.orthogonal_(w)
        assert w._version > before


def test_seeds_names_and_generators_decide_the_matrix() -> None:
    def q(**arguments: object) -> torch.Tensor:
        return initstats.orthogonal_(torch.empty(9, 9), **arguments)  # type: ignore[arg-type]

    assert torch.equal(q(seed=1, name="a"), q(seed=1, name="a"))
    assert not torch.equal(q(seed=1, name="a"), q(seed=1, name="b"))
    torch.manual_seed(0)
    first = q()
    assert not torch.equal(first, q())
    torch.manual_seed(0)
    assert torch.equal(first, q())
    assert torch.equal(first, q(generator=torch.Generator().manual_seed(0)))


def test_determinant_is_plus_or_minus_one_equally_often() -> None:
    determinants = torch.linalg.det(sample(4))
    assert torch.allclose(determinants.abs(), torch.ones(COUNT).double(), atol=1e-12)
    assert abs(float((determinants > 0).double().mean()) - 0.5) < 4.9 * 0.5 / math.sqrt(COUNT)


@pytest.mark.parametrize("n", [4, 7])
def test_moments_of_traces_are_those_of_the_orthogonal_group(n: int) -> None:
    # Diaconis and Evans 2001: for n >= 4, tr Q has the moments 0, 1, 0, 3 of a standard normal up
    # to the fourth, E tr Q^2 = 1, E (tr Q^2)^2 = 3.
    q = sample(n)
    trace = q.diagonal(dim1=1, dim2=2).sum(1)
    square = (q @ q).diagonal(dim1=1, dim2=2).sum(1)
    for values, expected in (
        (trace, 0.0),
        (trace**2, 1.0),
        (trace**3, 0.0),
        (trace**4, 3.0),
        (square, 1.0),
        (square**2, 3.0),
    ):
        error = float(values.std()) / math.sqrt(COUNT)
        assert abs(float(values.mean()) - expected) < 4.9 * error


def test_every_entry_has_the_moments_of_a_sphere_coordinate() -> None:
    n = 5
    q = sample(n)
    second, fourth = (q**2).mean(0), (q**4).mean(0)
    exact = 3 / (n * (n + 2))
    second_error = math.sqrt((exact - 1 / n**2) / COUNT)
    assert float((second - 1 / n).abs().max()) < 5.5 * second_error  # the worst of 25
    eighth = 105 / (n * (n + 2) * (n + 4) * (n + 6))
    assert float((fourth - exact).abs().max()) < 5.5 * math.sqrt((eighth - exact**2) / COUNT)
    assert float(q.mean(0).abs().max()) < 5.5 / math.sqrt(n * COUNT)


def test_first_column_is_uniform_on_the_sphere() -> None:
    # In R^3 a coordinate of a uniform point of the sphere is uniform on [-1, 1] (Archimedes).
    for i in range(3):
        distance = stats.kstest(sample(3)[:, i, 0].numpy(), stats.uniform(-1, 2).cdf).statistic
        assert distance < 2.7 / math.sqrt(COUNT)


def test_distribution_does_not_change_under_a_fixed_rotation() -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turned = (rotation.double() @ sample(3))[:, 0, 2].numpy()
    assert stats.kstest(turned, stats.uniform(-1, 2).cdf).statistic < 2.7 / math.sqrt(COUNT)


def test_eigenvalue_phases_are_those_of_scipys_ortho_group() -> None:
    def phases(matrices: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.abs(np.angle(np.linalg.eigvals(matrices)))[:, 0]

    theirs = stats.ortho_group.rvs(5, size=COUNT, random_state=0)
    distance = stats.ks_2samp(phases(sample(5).numpy()), phases(theirs)).statistic
    assert distance < 2.7 * math.sqrt(2 / COUNT)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (lambda: torch.zeros(3), {}, ValueError, "Only tensors with 2 or more dimensions"),
        (lambda: torch.zeros(()), {}, ValueError, "Only tensors with 2 or more dimensions"),
        (lambda: torch.zeros(3, 3), {"gain": math.inf}, ValueError, "expected gain to be finite"),
        (lambda: torch.zeros(3, 3), {"gain": math.nan}, ValueError, "expected gain to be finite"),
        (lambda: torch.zeros(3, 3), {"gain": "x"}, TypeError, "expected gain to be a number"),
        (lambda: torch.zeros(3, 3).int(), {}, TypeError, "expected dtype float16"),
        (lambda: torch.zeros(3, 1).expand(3, 3), {}, RuntimeError, "do not share memory"),
        (lambda: torch.zeros(3, 3), {"seed": 1.5}, TypeError, "expected seed to be an integer"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(make, arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    tensor = make()
    with pytest.raises(error, match=message):
        initstats.orthogonal_(tensor, **arguments)
    assert not tensor.any()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_empty_and_meta_tensors_are_fine(shape: tuple[int, int]) -> None:
    empty = torch.empty(shape)
    assert initstats.orthogonal_(empty) is empty
    meta = torch.empty(3, 4, device="meta")
    assert initstats.orthogonal_(meta) is meta
