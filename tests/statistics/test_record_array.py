"""Arrays of records: the numbers of `Stats`, bit for bit, in NumPy and in torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import initstats
from initstats import _ops
from initstats.statistics.histogram import shifted_places
from initstats.statistics.record import FIELDS
from initstats.statistics.record_array import MEAN, Records

# math.hypot, numpy.hypot and torch.hypot are each within a unit in the last place of the exact
# value, and l2 rounds once more.
BY_HYPOT = {"rms": 2 * 2.0**-52, "l2": 3 * 2.0**-52}


def tensors() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(5000),
        torch.zeros(3),
        torch.empty(0),
        torch.tensor([math.nan, math.inf, -math.inf, -2.0]),
        torch.full((4,), math.nan),
        torch.rand(7) - 3.0,
        torch.full((9,), 3.3),
        torch.randn(400, dtype=torch.float64) * 1e300 + 1e301,  # its square overflows
        torch.randn(50, dtype=torch.float64) * 1e-310,
    ]


def taken(values: list[torch.Tensor]) -> tuple[Records, np.ndarray]:
    moments, counts, places = _ops.stats(values, 3, 0)
    return Records(moments.numpy(), counts.numpy()), places.numpy()


def as_torch(records: Records) -> Records:
    return Records(torch.from_numpy(records.moments), torch.from_numpy(records.counts))


def assert_fields_are(records: Records, expected: list[initstats.Stats]) -> None:
    for name in ("count", *FIELDS):
        found = np.asarray(records.column(name))
        assert found.dtype == np.float64
        numbers = np.array([float(getattr(record, name)) for record in expected])
        np.testing.assert_allclose(found, numbers, rtol=BY_HYPOT.get(name, 0), atol=0, err_msg=name)


def test_columns_are_the_properties_of_stats() -> None:
    records, _ = taken(tensors())
    expected = [initstats.stats(x) for x in tensors()]
    for one in (records, as_torch(records)):
        assert_fields_are(one, expected)
        assert one.column("finite").tolist() == one.finite.tolist()
        with pytest.raises(ValueError, match="expected a field of Stats, got name='size'"):
            one.column("size")


@pytest.mark.parametrize("shift", range(9))
def test_merging_arrays_is_merging_stats(shift: int) -> None:
    values = tensors()
    others = values[shift:] + values[:shift]
    a, b = taken(values)[0], taken(others)[0]
    pairs = zip(values, others, strict=True)
    expected = [initstats.stats(a).merge(initstats.stats(b)) for a, b in pairs]
    merged = a.merge(b)
    assert_fields_are(merged, expected)
    in_torch = as_torch(a).merge(as_torch(b))
    assert np.array_equal(merged.moments, in_torch.moments.numpy(), equal_nan=True)
    assert np.array_equal(merged.counts, in_torch.counts.numpy())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_merging_over_an_axis_is_merging_all(count: int) -> None:
    parts = [taken([torch.randn(100 + i) * (i + 1)])[0] for i in range(count)]
    stacked = Records(np.stack([p.moments for p in parts]), np.stack([p.counts for p in parts]))
    expected = parts[0]
    for part in parts[1:]:
        expected = expected.merge(part)
    for merged in (stacked.merge_first_axis(), as_torch(stacked).merge_first_axis()):
        assert merged.counts.tolist() == expected.counts.tolist()
        for name in FIELDS:
            assert merged.column(name).tolist() == pytest.approx(
                expected.column(name).tolist(), rel=1e-9
            )


def test_an_empty_record_changes_nothing() -> None:
    records, _ = taken(tensors())
    records.moments[0, MEAN] = -0.0
    empty = Records.empty(len(records.moments))
    for merged in (
        records.merge(empty),
        empty.merge(records),
        as_torch(empty).merge(as_torch(records)),
    ):
        moments = np.asarray(merged.moments)
        assert np.array_equal(moments, records.moments, equal_nan=True)
        assert np.array_equal(np.signbit(moments[0]), np.signbit(records.moments[0]))
        assert np.array_equal(np.asarray(merged.counts)[:, :5], records.counts[:, :5])


@pytest.mark.parametrize("power", [-140, -10, 0, 3, 140])
def test_a_power_of_two_moves_records_and_histograms_exactly(power: int) -> None:
    values = [x.double() for x in tensors()[:7]]
    records, places = taken(values)
    expected, expected_places = taken([x * 2.0**power for x in values])
    one_step = Records(records.moments[None], records.counts[None])
    mine = one_step.scaled(np.array([2.0**power]))
    for name in ("mean", "std", "rms", "l1", "min", "max", "min_abs", "skewness"):
        assert mine[0].column(name) == pytest.approx(
            expected.column(name), nan_ok=True, rel=1e-9, abs=0.0
        )
    assert np.array_equal(shifted_places(places, power, 0), expected_places)
