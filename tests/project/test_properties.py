"""Properties for any shape, strides, cut and values, searched by hypothesis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import initstats
from initstats import _ops
from initstats.init._distributions import DISTRIBUTIONS

DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
SHAPES = st.lists(st.integers(0, 9), min_size=0, max_size=4).map(tuple)
KEYS = st.integers(0, 2**63 - 1)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 2.0**-126, 2.0**-149, 3.4e38])
VALUES = st.lists(FLOATS, min_size=0, max_size=60)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@QUICK
@given(shape=SHAPES, dtype=DTYPES, key=KEYS, data=st.data())
def test_a_fill_does_not_depend_on_strides(
    shape: tuple[int, ...], dtype: torch.dtype, key: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    steps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    whole = torch.zeros([shape[i] * steps[i] for i in order], dtype=dtype)
    view = whole[tuple(slice(None, None, steps[i]) for i in order)]
    view = view.permute(np.argsort(order).tolist()) if order else view
    assert view.shape == shape
    for family in DISTRIBUTIONS:
        fill = getattr(initstats, family.name)
        expected = fill(torch.empty(shape, dtype=dtype), seed=key)
        assert torch.equal(fill(view, seed=key), expected)


@QUICK
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), dtype=DTYPES, data=st.data())
def test_a_box_has_the_bits_of_the_whole(
    sizes: list[int], dtype: torch.dtype, data: st.DataObject
) -> None:
    low = [data.draw(st.integers(0, size)) for size in sizes]
    high = [data.draw(st.integers(a, size)) for a, size in zip(low, sizes, strict=True)]
    key = data.draw(KEYS)
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    for family in DISTRIBUTIONS:
        numbers = [[number] for number in next(iter(family.examples.values()))]
        whole, part = torch.empty(sizes, dtype=dtype), torch.empty(sizes, dtype=dtype)[cut]
        family.op([whole], [key], *numbers)
        family.op([part], [key], *numbers, _ops.flat_box([(tuple(low), tuple(sizes))]))
        assert torch.equal(part, whole[cut])


@QUICK
@given(left=VALUES, right=VALUES, dtype=DTYPES, scale=st.integers(0, 2))
def test_records_merge_like_the_values_that_they_are_of(
    left: list[float], right: list[float], dtype: torch.dtype, scale: int
) -> None:
    parts = [torch.tensor(values, dtype=torch.float64).to(dtype) for values in (left, right)]
    merged, swapped, whole = (
        record.to_dict()
        for record in (
            initstats.stats(parts[0], scale=scale).merge(initstats.stats(parts[1], scale=scale)),
            initstats.stats(parts[1], scale=scale).merge(initstats.stats(parts[0], scale=scale)),
            initstats.stats(torch.cat(parts), scale=scale),
        )
    )
    exact = ("count", "nan", "pos_inf", "neg_inf", "zero", "min", "max", "histogram")
    for name in exact:
        assert same(merged[name], whole[name])
        assert same(merged[name], swapped[name])
    finite = torch.cat(parts).double()
    finite = finite[finite.isfinite()]
    size = float(finite.abs().max()) if len(finite) else 1.0
    # Moments are sums of at most 120 values in the dtype's own precision, and merged in float64.
    assert close(merged["mean"], whole["mean"], size * 2.0**-20)


def same(a: Any, b: Any) -> bool:
    return bool(a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def close(a: float, b: float, bound: float) -> bool:
    return same(a, b) or abs(a - b) <= bound


@QUICK
@given(values=VALUES, q=st.floats(0, 1), scale=st.integers(0, 2))
def test_a_quantile_is_near_the_value_of_its_rank(
    values: list[float], q: float, scale: int
) -> None:
    numbers = sorted(v for v in values if not math.isnan(v))
    histogram = initstats.stats(torch.tensor(values), scale=scale).histogram
    if not numbers:
        assert math.isnan(histogram.quantile(q))
        return
    exact = numbers[math.floor(q * (len(numbers) - 1))]
    found = histogram.quantile(q)
    if 2.0**-126 < abs(exact) <= 2.0**127:
        assert abs(found - exact) <= histogram.relative_error * abs(exact) * (1 + 1e-12)
    elif exact == 0 or math.isinf(exact):
        assert found == exact
