"""Arithmetic on arrays of records against the records themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import initstats
from initstats import _ops
from initstats.monitoring import arrays
from initstats.monitoring.arrays import Records
from initstats.statistics.record import FIELDS

# Merging in another order moves the last bits of float64 moments; kurtosis takes fourth powers.
CLOSE = 1e-12


def tensors() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(5000),
        torch.zeros(3),
        torch.empty(0),
        torch.tensor([math.nan, math.inf, -math.inf, -2.0]),
        torch.full((4,), math.nan),
        torch.rand(7) - 3.0,
    ]


def taken(values: list[torch.Tensor]) -> tuple[Records, np.ndarray]:
    moments, counts, places = _ops.stats(values, 3, 0)
    return Records(moments.numpy(), counts.numpy()), places.numpy()


def test_columns_are_the_properties_of_stats() -> None:
    records, _ = taken(tensors())
    for name in ("count", *FIELDS):
        expected = [float(getattr(initstats.stats(x), name)) for x in tensors()]
        assert records.column(name).tolist() == pytest.approx(expected, nan_ok=True, rel=CLOSE)
    with pytest.raises(ValueError, match="expected a field of Stats, got name='size'"):
        records.column("size")


@pytest.mark.parametrize("shift", range(6))
def test_merging_arrays_is_merging_stats(shift: int) -> None:
    values = tensors()
    others = values[shift:] + values[:shift]
    merged = arrays.merge(taken(values)[0], taken(others)[0])
    for name in ("count", *FIELDS):
        expected = [
            float(getattr(initstats.stats(a).merge(initstats.stats(b)), name))
            for a, b in zip(values, others, strict=True)
        ]
        assert merged.column(name).tolist() == pytest.approx(expected, nan_ok=True, rel=CLOSE)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_merging_over_an_axis_is_merging_all(count: int) -> None:
    parts = [taken([torch.randn(100 + i) * (i + 1)])[0] for i in range(count)]
    stacked = Records(np.stack([p.moments for p in parts]), np.stack([p.counts for p in parts]))
    expected = parts[0]
    for part in parts[1:]:
        expected = arrays.merge(expected, part)
    merged = arrays.merge_first_axis(stacked)
    for name in FIELDS:
        assert merged.column(name) == pytest.approx(expected.column(name), rel=1e-9)


def test_an_empty_record_changes_nothing() -> None:
    records, _ = taken(tensors())
    for merged in (
        arrays.merge(records, arrays.empty(6)),
        arrays.merge(arrays.empty(6), records),
    ):
        assert np.array_equal(merged.moments, records.moments, equal_nan=True)
        assert np.array_equal(merged.counts[:, :5], records.counts[:, :5])


@pytest.mark.parametrize("power", [-140, -10, 0, 3, 140])
def test_a_power_of_two_moves_histograms_exactly(power: int) -> None:
    values = [x.double() for x in tensors()]
    records, places = taken(values)
    expected, expected_places = taken([x * 2.0**power for x in values])
    one_step = Records(records.moments[None], records.counts[None])
    mine = arrays.scaled(one_step, np.array([2.0**power]))
    for name in ("mean", "std", "rms", "l1", "min", "max", "min_abs", "skewness"):
        assert mine[0].column(name) == pytest.approx(
            expected.column(name), nan_ok=True, rel=1e-9, abs=0.0
        )
    assert np.array_equal(arrays.shifted_places(places, power, 0), expected_places)
