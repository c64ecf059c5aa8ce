"""Cosines of momentum and gradient from the sums of shards."""

from __future__ import annotations

import math

import numpy as np
import torch

from initstats import _ops
from initstats.monitoring.momentum import cosines_of, sums_of
from initstats.monitoring.window import PRODUCTS
from initstats.statistics.record_array import Groups, Records


def records_of(numbers: list[list[float]]) -> Records:
    """The records of one number per rank, merged: `[1, n]` of `[n, ranks]`."""
    tensors = [torch.tensor(each, dtype=torch.float64) for each in numbers]
    moments, counts, _ = _ops.stats(tensors, Groups.MOMENTS, 0)
    return Records(moments.numpy()[None], counts.numpy()[None])


def test_sums_over_ranks_give_the_cosine_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(30, generator=generator, dtype=torch.float64) for _ in range(2))
    parts = list(zip(a.split([7, 20, 3]), b.split([7, 20, 3]), strict=True))
    products = [
        [[float(x @ y) for x, y in parts], [-1.0]],
        [[float(x @ x) for x, _ in parts], [1.0]],
        [[float(y @ y) for _, y in parts], [0.0]],
    ]
    sums = sums_of(dict(zip(PRODUCTS, map(records_of, products), strict=True)))
    found = cosines_of(["whole", "nothing"], [4], sums)
    assert found is not None
    expected = torch.nn.functional.cosine_similarity(a, b, 0)
    np.testing.assert_allclose(found.table["whole"].mean, float(expected), rtol=1e-12)
    assert found.table["nothing"].mean == 0
    assert found.table["whole"].histogram.total == 1
    assert found.steps == (4,)


def test_cosines_that_are_not_known_are_absent_and_those_of_nan_are_nan() -> None:
    nothing: list[float] = []
    rows = [[math.nan], nothing, [1.0, math.inf]]
    products = dict.fromkeys(PRODUCTS, records_of(rows))
    found = cosines_of(["nan", "absent", "infinite"], [1], sums_of(products))
    assert found is not None
    assert list(found.table) == ["nan", "infinite"]
    assert [found.table[name].nan for name in found.table] == [1, 1]
    products = dict.fromkeys(PRODUCTS, records_of([nothing]))
    assert cosines_of(["absent"], [1], sums_of(products)) is None
