"""Records in Python: fields, laziness, merging, tables, and what is refused."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch

from initstats import _ops
from initstats.statistics.compute import stats
from initstats.statistics.record import Stats
from initstats.statistics.record_array import M2

FIELDS = [
    *("count", "nan", "pos_inf", "neg_inf", "zero", "min", "max", "min_abs", "abs_max", "mean"),
    *("std", "var", "rms", "l1", "l2", "skewness", "kurtosis"),
]


def skewed(n: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g).exp() - 1.5


def test_fields_are_those_of_torch_and_scipy(device: torch.device) -> None:
    x = skewed(20_000)
    x[7] = 0.0
    record = stats(x.to(device))
    v = x.double()
    expected = {
        "count": 20_000,
        "nan": 0,
        "pos_inf": 0,
        "neg_inf": 0,
        "zero": 1,
        "min": v.min(),
        "max": v.max(),
        "min_abs": v[v != 0].abs().min(),
        "abs_max": v.max(),
        "mean": v.mean(),
        "std": v.std(),
        "var": v.var(),
        "rms": v.square().mean().sqrt(),
        "l1": v.abs().sum(),
        "l2": v.norm(),
        "skewness": scipy.stats.skew(v),
        "kurtosis": scipy.stats.kurtosis(v),
    }
    for name in FIELDS:
        assert getattr(record, name) == pytest.approx(float(expected[name]), rel=2e-6), name


@pytest.mark.parametrize(
    ("values", "undefined"),
    [
        ([], ["min", "max", "min_abs", "abs_max", "mean", "std", "rms", "skewness", "kurtosis"]),
        ([3.0], ["std", "var", "skewness", "kurtosis"]),
        ([2.0, 2.0], ["skewness", "kurtosis"]),
        ([0.0, 0.0], ["min_abs", "skewness", "kurtosis"]),
        ([math.nan, math.inf], ["min", "max", "mean", "std", "rms"]),
    ],
)
def test_what_is_undefined_is_nan_and_none_in_json(
    values: list[float], undefined: list[str], device: torch.device
) -> None:
    record = stats(torch.tensor(values, device=device))
    for name in undefined:
        assert math.isnan(getattr(record, name)), name
        assert record.to_dict()[name] is None
    json.dumps(record.to_dict(), allow_nan=False)
    repr(record)


def test_nothing_is_read_until_a_property_is_and_then_all_rows_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transfers = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(1) or cpu(self))
    monkeypatch.setattr(_ops, "stats_directly", lambda *_: None)  # as for another device
    table = stats([torch.ones(5), torch.zeros(7)], fingerprint=True)
    assert not transfers
    assert table["0"].mean == 1.0
    assert len(transfers) == 3  # moments, counts, histogram
    assert table["1"].zero == 7
    assert table["0"].fingerprint != table["1"].fingerprint
    assert len(transfers) == 3


def exact_moments(values: list[float]) -> tuple[Fraction, ...]:
    v = [Fraction(value) for value in values]
    mean = sum(v) / len(v)
    return (mean, *(sum((x - mean) ** power for x in v) for power in (2, 3, 4)))


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 500), (3, 2), (700, 801), (0, 5), (5, 0)])
def test_merged_moments_are_those_of_exact_rationals(left: int, right: int) -> None:
    g = torch.Generator().manual_seed(left)
    a = torch.randn(left, generator=g, dtype=torch.float64) * 3 + 1000
    b = torch.randn(right, generator=g, dtype=torch.float64) - 5
    merged = stats(a).merge(stats(b))
    for value, exact in zip(
        merged._read().moments[:4],
        exact_moments([*a.tolist(), *b.tolist()]),
        strict=True,
    ):
        assert abs(Fraction(value) - exact) <= abs(exact) * Fraction(1, 10**13) + Fraction(1, 10**9)


def test_two_halves_with_means_of_plus_and_minus_two_have_variance_five() -> None:
    half = torch.tensor([-1.0, 1.0], dtype=torch.float64)  # population variance 1
    merged = stats(half + 2).merge(stats(half - 2))
    assert merged.mean == 0.0
    assert merged._read().moments[M2] / merged.count == 5.0
    assert merged.var == torch.cat([half + 2, half - 2]).var().item()


def test_merging_has_the_bits_of_the_whole_where_the_cut_is_a_node_of_the_tree(
    device: torch.device,
) -> None:
    x = skewed(8192).to(device)
    whole, merged = stats(x), stats(x[:4096]).merge(stats(x[4096:]))
    assert merged.to_dict() == whole.to_dict()


def test_every_field_merges(device: torch.device) -> None:
    x = skewed(9000)
    x[::7] = 0
    x[1], x[5000], x[8999], x[3] = torch.nan, torch.inf, -torch.inf, -1e-30
    x = x.to(device)
    whole = stats(x, scale=1)
    parts = [stats(part, scale=1) for part in x.split([1, 2999, 0, 6000])]
    merged = parts[0].merge(parts[1]).merge(parts[2]).merge(parts[3])
    for name in FIELDS:
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-5), name
    assert merged.histogram == whole.histogram


def test_merging_lowers_the_scale_of_the_finer_record_exactly() -> None:
    x, y = skewed(5000), skewed(5000, seed=1)
    merged = stats(x, scale=2).merge(stats(y, scale=0))
    assert merged.histogram == stats(torch.cat([x, y]), scale=0).histogram


def test_records_of_different_groups_do_not_merge() -> None:
    x = torch.ones(3)
    message = r"expected records with the same groups, got moments and moments \+ histogram"
    with pytest.raises(ValueError, match=message):
        stats(x, histogram=False).merge(stats(x))


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"histogram": False}, "histogram", "stats(..., histogram=True)"),
        ({}, "fingerprint", "stats(..., fingerprint=True)"),
        (
            {"moments": False, "histogram": False, "fingerprint": True},
            "mean",
            "stats(..., moments=True)",
        ),
    ],
)
def test_a_group_that_was_not_asked_for_says_how_to_get_it(
    options: dict[str, bool], name: str, message: str
) -> None:
    record = stats(torch.ones(3), **options)
    with pytest.raises(
        ValueError, match=f"initstats.Stats.{name}: expected a record taken with"
    ) as caught:
        getattr(record, name)
    assert message in str(caught.value)
    assert record.count == 3
    repr(record)


def test_moments_come_with_the_histogram() -> None:
    assert stats(torch.ones(3), moments=False).mean == 1.0


def test_fingerprint_is_an_unsigned_number_and_tells_tensors_apart() -> None:
    x = skewed(1000)
    y = x.clone()
    y[999] = torch.nextafter(y[999], torch.tensor(torch.inf))
    prints = [stats(t, fingerprint=True).fingerprint for t in (x, x.clone(), y)]
    assert 0 <= prints[0] < 2**64
    assert prints[0] == prints[1] != prints[2]
    assert stats(x, fingerprint=True).to_dict()["fingerprint"] == f"{prints[0]:016x}"


def test_taking_statistics_leaves_autograd_alone() -> None:
    x = torch.randn(10, requires_grad=True)
    y = x * 2
    assert stats(y).count == 10
    y.sum().backward()
    assert (x.grad == 2).all()


def test_host_merge_has_the_bits_of_the_native_one(device: torch.device) -> None:
    tiles = [skewed(4096, seed=i) * (i + 1) for i in range(7)]
    records: list[Stats] = [stats(tile) for tile in tiles]
    while len(records) > 1:  # the tree of adjacent pairs
        pairs = [records[i : i + 2] for i in range(0, len(records), 2)]
        records = [pair[0].merge(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    assert records[0].to_dict() == stats(torch.cat(tiles).to(device)).to_dict()


def test_integers_bools_and_float8_have_records(device: torch.device) -> None:
    x = torch.tensor([0, 1, 1, 3], device=device)
    for dtype in (
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float8_e5m2,
    ):
        record = stats(x.to(dtype))
        assert (record.mean, record.max, record.zero) == (1.25, 3.0, 1)
    assert stats(x.bool()).mean == 0.75
    assert np.isclose(stats(x).std, x.double().std().item())
