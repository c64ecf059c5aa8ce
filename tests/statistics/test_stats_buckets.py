"""The bucket of a value against decimals of 120 digits: powers of two are edges, and exact."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch

from initstats import _ops

SCALES = [0, 1, 2]


@cache
def edge(k: int, scale: int) -> Decimal:
    """2 ** (k * 2 ** -scale) with 120 digits."""
    with localcontext() as context:
        context.prec = 120
        return Decimal(2) ** (Decimal(k) / (1 << scale))


def place_of(x: float, scale: int) -> int:
    """The place by comparing decimals, Note [Buckets] written down a second time."""
    size = Decimal(x).copy_abs()  # abs() would round
    if size <= edge(-126 << scale, scale):
        k = (-126 << scale) - 1
    elif size > edge(128 << scale, scale):
        k = 128 << scale
    else:
        k = math.floor(math.log2(size) * (1 << scale)) - 2
        while edge(k + 1, scale) < size:
            k += 1
    return k + (127 << scale) + ((256 << scale) if x < 0 else 0)


def places(x: torch.Tensor, scale: int) -> npt.NDArray[np.int64]:
    """The place of each element: one tensor per element, so that no other count hides it."""
    rows = _ops.stats(list(x.unbind()), 2, scale)[2].cpu().numpy()
    assert (rows.sum(axis=1) == 1).all()
    found: npt.NDArray[np.int64] = rows.argmax(axis=1)
    return found


def around_edges(scale: int, dtype: type[np.floating]) -> npt.NDArray[np.floating]:
    low, high = (-126, 128) if dtype is np.float32 else (-128, 130)
    found = []
    for k in range(low << scale, (high << scale) + 1, 1 if scale < 2 else 3):
        with np.errstate(over="ignore"):
            x = dtype(float(edge(k, scale)))
        found += [np.nextafter(x, dtype(0)), x, np.nextafter(x, dtype(np.inf))]
    values = np.array(found, dtype)
    return np.concatenate([values, -values])[np.isfinite(np.concatenate([values, values]))]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_at_edges_and_one_ulp_beside_fall_where_decimals_say(
    scale: int, dtype: type[np.floating], device: torch.device
) -> None:
    values = around_edges(scale, dtype)
    expected = [place_of(float(v), scale) for v in values]
    assert places(torch.from_numpy(values).to(device), scale).tolist() == expected


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value_falls_where_decimals_say(
    scale: int, dtype: torch.dtype, device: torch.device
) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    rows = _ops.stats([every.to(device)], 2, scale)[2].cpu().numpy()[0]
    expected = np.zeros_like(rows)
    for x in every.double().tolist():
        if x != 0 and np.isfinite(x):
            expected[place_of(x, scale)] += 1
    assert np.array_equal(rows, expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zero_nan_and_infinity_are_in_no_bucket(
    scale: int, dtype: torch.dtype, device: torch.device
) -> None:
    kinds = [0.0, -0.0, torch.nan, -torch.nan, torch.inf, torch.inf, -torch.inf]  # more +inf
    x = torch.tensor(kinds, dtype=dtype).repeat(3000).to(device)
    assert (_ops.stats([x], 2, scale)[2] == 0).all()


def test_a_lower_scale_joins_pairs_of_places(device: torch.device) -> None:
    g = torch.Generator().manual_seed(1)
    x = (torch.randn(50_000, generator=g) * torch.randn(50_000, generator=g).exp() * 1e-3).to(
        device
    )
    rows = {scale: _ops.stats([x], 2, scale)[2].cpu().numpy()[0] for scale in SCALES}
    assert np.array_equal(rows[2].reshape(-1, 2).sum(1), rows[1])
    assert np.array_equal(rows[1].reshape(-1, 2).sum(1), rows[0])


def counted_by_exponent(x: torch.Tensor) -> npt.NDArray[np.int64]:
    """The histogram of scale 0 from NumPy's frexp."""
    values = x.double().numpy()
    mantissas, exponents = np.frexp(np.abs(values))
    buckets = np.maximum(exponents - np.where(mantissas == 0.5, 2, 1), -127)
    rows = np.zeros(512, np.int64)
    np.add.at(rows, (buckets + 127 + 256 * (values < 0))[values != 0], 1)
    return rows


def tiles(top: int, seed: int) -> torch.Tensor:
    """Two full tiles, the largest size near 2**top, with zeros, powers of two and far values."""
    random = np.random.default_rng(seed)
    size = 2.0 ** (top - random.integers(0, 4 + 3 * seed, 8192)) * random.uniform(0.5, 1, 8192)
    size[random.random(8192) < 0.05] = 0.0
    size[random.random(8192) < 0.05] = 2.0**top
    return torch.from_numpy(np.copysign(size, random.normal(size=8192)).astype(np.float32))


@pytest.mark.parametrize("seed", [*range(6), 9, 14])  # sizes over 4 to 46 powers of two
@pytest.mark.parametrize("top", [-140, -126, -118, -115, -114, -113, -112, -60, 0, 3, 127])
def test_full_tiles_of_any_size_and_spread_are_counted_exactly(
    top: int, seed: int, device: torch.device
) -> None:
    x = tiles(top, seed)
    rows = _ops.stats([x.to(device)], 2, 0)[2].cpu().numpy()[0]
    assert np.array_equal(rows, counted_by_exponent(x))


@pytest.mark.parametrize("place", range(0, 32, 5))
@pytest.mark.parametrize("value", [1.0, -0.75, 0.004, -0.0005, 1e-9])
def test_equal_values_at_every_32nd_place_are_counted_exactly(
    value: float, place: int, device: torch.device
) -> None:
    x = tiles(0, 1)
    x[place::32] = value  # 128 in a tile: the most that one byte of a vector counts
    rows = _ops.stats([x.to(device)], 2, 0)[2].cpu().numpy()[0]
    assert np.array_equal(rows, counted_by_exponent(x))
