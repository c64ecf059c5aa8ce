"""The op `stats` against independent oracles: NumPy in long double and exact rationals."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capabilities import output_with_capability
from initstats import _ops

HERE = Path(__file__).parent
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OTHERS = [
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.uint8, torch.int8),
    *(torch.int16, torch.int32, torch.int64),
]
SIZES = [0, 1, 3, 4, 5, 127, 128, 129, 4095, 4096, 4097, 12_289]
ALL = 7
MEAN, M2, M3, M4, L1, MIN, MAX, MIN_ABS = range(8)
COUNT, NAN, POS_INF, NEG_INF, ZERO, FINGERPRINT = range(6)

Rows = tuple[Any, Any, Any]


def take(*tensors: torch.Tensor, groups: int = ALL, scale: int = 0, box: Any = ()) -> Rows:
    """Call the op; return its three results as NumPy arrays."""
    moments, counts, histogram = _ops.stats(list(tensors), groups, scale, box)
    return moments.cpu().numpy(), counts.cpu().numpy(), histogram.cpu().numpy()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(a: Rows, b: Rows) -> bool:
    """Whether two results have the same bits, NaN included."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def check_against_long_double(x: torch.Tensor, row: Any, tolerance: float) -> None:
    """Compare one row of moments with sums in long double.

    `tolerance` is relative to the sum of absolute terms: what summation can promise.
    """
    v = x.double().numpy().ravel().astype(np.longdouble)
    v = v[np.isfinite(v)]
    if v.size == 0:
        assert np.isnan(row[[MEAN, MIN, MAX, MIN_ABS]]).all()
        assert (row[[M2, M3, M4, L1]] == 0).all()
        return
    mean = v.mean()
    d = v - mean
    assert abs(row[MEAN] - mean) <= tolerance * np.abs(v).mean()
    d2 = d * d
    for column, power, terms in ((M2, 2, d2), (M3, 3, d2 * d), (M4, 4, d2 * d2)):
        assert abs(row[column] - terms.sum()) <= power * tolerance * np.abs(terms).sum()
    assert abs(row[L1] - np.abs(v).sum()) <= tolerance * np.abs(v).sum()
    assert row[MIN] == v.min()
    assert row[MAX] == v.max()
    assert np.signbit(row[MIN]) == (v.min() < 0)  # zero is +0
    nonzero = np.abs(v[v != 0])
    assert row[MIN_ABS] == nonzero.min() if nonzero.size else np.isnan(row[MIN_ABS])


def tolerance_of(dtype: torch.dtype) -> float:
    """A float32 sum of 16 columns, 8 steps and a tree of 9 levels rounds at most 17 times."""
    wide = dtype in {torch.float64, torch.int32, torch.int64}
    return 17 * 2.0**-53 if wide else 17 * 2.0**-24


@pytest.mark.parametrize("dtype", FLOATS + OTHERS, ids=str)
def test_moments_extrema_and_counts_are_those_of_long_double(
    dtype: torch.dtype, device: torch.device
) -> None:
    for n in SIZES:
        x = (normal(n, seed=n) * 3).to(dtype)
        moments, counts, _ = take(x.to(device))
        check_against_long_double(x, moments[0], tolerance_of(dtype))
        v = x.double().numpy()
        expected = [n, np.isnan(v).sum(), (v == np.inf).sum(), (v == -np.inf).sum(), (v == 0).sum()]
        assert counts[0, :FINGERPRINT].tolist() == expected


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_means_and_variances_are_those_of_exact_rationals(
    dtype: torch.dtype, device: torch.device
) -> None:
    x = (normal(5000, seed=1) * 0.02 + 1).to(dtype)
    exact = [Fraction(float(v)) for v in x.double()]
    mean = sum(exact) / len(exact)
    m2 = sum((v - mean) ** 2 for v in exact)
    row = take(x.to(device))[0][0]
    # The pivot removes the mean, so that errors are relative to the spread, not to the mean.
    spread = Fraction(float(m2 / len(exact)) ** 0.5)
    assert abs(Fraction(float(row[MEAN])) - mean) <= tolerance_of(dtype) * spread + mean * 2**-53
    assert abs(Fraction(float(row[M2])) - m2) <= 2 * tolerance_of(dtype) * m2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", ["huge", "tiny", "denormal"])
def test_moments_of_huge_and_denormal_values_neither_overflow_nor_vanish(
    size: str, dtype: torch.dtype, device: torch.device
) -> None:
    limits = torch.finfo(dtype)
    factor = {"huge": limits.max / 8, "tiny": limits.tiny, "denormal": limits.smallest_normal / 64}
    x = (normal(9000, seed=2).clamp(-7.5, 7.5) * factor[size]).to(dtype)
    assert torch.isfinite(x).all()
    check_against_long_double(x, take(x.to(device))[0][0], tolerance_of(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [4096, 9000])
def test_extrema_of_one_sign(n: int, dtype: torch.dtype, device: torch.device) -> None:
    x = normal(n, seed=5).abs().clamp(min=2**-10).to(dtype)
    minus_zeros = torch.where(x > 1, -0.0, -x)
    for values in (x, -x, minus_zeros, -minus_zeros, 0 * x, -0.0 * x):
        check_against_long_double(values, take(values.to(device))[0][0], tolerance_of(dtype))


@pytest.mark.parametrize("n", [5, 4096, 4097, 9000])
def test_values_that_are_not_finite_are_counted_and_left_out(n: int, device: torch.device) -> None:
    x = normal(n, seed=3, dtype=torch.float32)
    x[0], x[n // 2], x[n - 1] = torch.inf, torch.nan, -torch.inf
    x[1] = -torch.nan
    x[2] = 0.0
    moments, counts, histogram = take(x.to(device))
    check_against_long_double(x, moments[0], tolerance_of(x.dtype))
    assert counts[0, :FINGERPRINT].tolist() == [n, int(x.isnan().sum()), 1, 1, 1]
    assert histogram.sum() == int(torch.isfinite(x).sum()) - 1


def test_a_sum_that_overflows_float32_has_a_finite_mean(device: torch.device) -> None:
    x = torch.full((8192,), torch.finfo(torch.float32).max)
    x[::2] *= 0.5
    check_against_long_double(x, take(x.to(device))[0][0], tolerance_of(x.dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [0.1, -3.3, 0.0, 6e-8])
def test_a_constant_has_no_spread_at_all(
    value: float, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.full((70_001,), value, dtype=dtype)
    row = take(x.to(device))[0][0]
    assert row[MEAN] == row[MIN] == row[MAX] == float(x[0])
    assert (row[[M2, M3, M4]] == 0).all()


def test_an_all_nan_tensor_says_so(device: torch.device) -> None:
    moments, counts, histogram = take(torch.full((5000,), torch.nan, device=device))
    assert np.isnan(moments[0, [MEAN, MIN, MAX, MIN_ABS]]).all()
    assert counts[0, :FINGERPRINT].tolist() == [5000, 5000, 0, 0, 0]
    assert histogram.sum() == 0


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sliced": lambda x: x[5:71, 3:90],
    "stepped": lambda x: x[::3, ::2],
    "unaligned": lambda x: x.flatten()[1:],
    "expanded": lambda x: x[None, :40].expand(5, 40, x.shape[1]),
    "scalar": lambda x: x[3, 4],
    "column": lambda x: x[:, 7],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int64], ids=str)
def test_a_view_has_the_bits_of_its_contiguous_copy(
    view: str, dtype: torch.dtype, device: torch.device
) -> None:
    x = VIEWS[view]((normal(132, 97, seed=4) * 5).to(dtype)).to(device)
    base = (normal(132, 97, seed=4) * 5).to(dtype).to(device)
    strided = VIEWS[view](base)
    assert same(take(strided), take(x.contiguous().clone()))


# Each with the same elements in the order of memory, Note [Memory order].
REORDERED: dict[str, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "transposed": lambda x: (x.t(), x),
    "permuted": lambda x: (x.reshape(11, 12, -1).permute(1, 2, 0), x),
    "channels_last": lambda x: (x.reshape(3, 44, 97, 1).permute(0, 2, 1, 3), x),
    "transposed slice": lambda x: (x[5:71, 3:90].t(), x[5:71, 3:90]),
    "stepped": lambda x: (
        x.reshape(11, 12, -1).permute(1, 2, 0)[::2, :, 1:],
        x.reshape(11, 12, -1)[1:, ::2],
    ),
}


@pytest.mark.parametrize("fingerprint", [False, True])
@pytest.mark.parametrize("view", REORDERED)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int64], ids=str)
def test_a_reordered_view_has_the_moments_of_its_elements_in_memory_order(
    view: str, dtype: torch.dtype, fingerprint: bool, device: torch.device
) -> None:
    base = (normal(132, 97, seed=4) * 5).to(dtype).to(device)
    reordered, in_memory = REORDERED[view](base)
    groups = 7 if fingerprint else 3
    moments, counts, histogram = (rows.cpu() for rows in _ops.stats([reordered], groups, 1))
    theirs = [rows.cpu() for rows in _ops.stats([in_memory], groups, 1)]
    assert torch.equal(moments, theirs[0])
    copied = [rows.cpu() for rows in _ops.stats([reordered.contiguous().clone()], groups, 1)]
    assert torch.equal(counts, copied[1])  # the fingerprint too, of logical indices
    assert torch.equal(histogram, copied[2])
    assert torch.equal(moments[0, MIN : MIN_ABS + 1], copied[0][0, MIN : MIN_ABS + 1])
    n, l1 = reordered.numel(), float(moments[0, L1])
    rounding = 2 * 17 * 2.0**-24  # each order rounds a sum at most 17 times
    assert abs(moments[0, MEAN] - copied[0][0, MEAN]) <= rounding * l1 / n
    assert float(moments[0, M2]) == pytest.approx(float(copied[0][0, M2]), rel=rounding)


def test_a_tensor_has_the_same_bits_alone_and_among_others(device: torch.device) -> None:
    tensors = [
        (normal(n, seed=n) * 2).to(dtype).to(device)
        for n in (0, 1, 300, 4097)
        for dtype in FLOATS + OTHERS
    ]
    together = take(*tensors, scale=1)
    for i, tensor in enumerate(tensors):
        alone = take(tensor, scale=1)
        assert same(alone, tuple(rows[i : i + 1] for rows in together))  # type: ignore[arg-type]


def test_more_tensors_than_one_launch_holds_keep_their_rows(device: torch.device) -> None:
    tensors = [torch.full((3,), float(i), device=device) for i in range(1500)]
    moments, counts, _ = take(*tensors)
    assert moments[:, MEAN].tolist() == [float(i) for i in range(1500)]
    assert (counts[:, COUNT] == 3).all()


def test_groups_that_were_not_asked_for_cost_no_bits_of_the_others(device: torch.device) -> None:
    x = normal(9001, seed=5, dtype=torch.float32).to(device)
    everything = take(x)
    moments = take(x, groups=1)
    assert moments[0].tobytes() == everything[0].tobytes()
    assert moments[2].shape == (0, 0)
    only_fingerprint = take(x, groups=4)
    assert (
        only_fingerprint[1][0, [COUNT, FINGERPRINT]].tolist()
        == everything[1][0, [COUNT, FINGERPRINT]].tolist()
    )
    with_histogram = take(x, groups=2)
    assert with_histogram[0].tobytes() == everything[0].tobytes()
    assert with_histogram[2].tobytes() == everything[2].tobytes()


def test_tensors_of_several_merge_levels_agree_with_long_double(device: torch.device) -> None:
    x = normal(2_200_000, seed=6, dtype=torch.float32)  # 538 tiles: two levels of merges on CUDA
    check_against_long_double(x, take(x.to(device), groups=1)[0][0], tolerance_of(x.dtype))


@pytest.mark.backends("cpu")
def test_more_than_two_to_the_31_elements_are_all_counted() -> None:
    n = 2**31 + 5000
    x = torch.tensor([3], dtype=torch.uint8).expand(n)  # one byte of memory
    moments, counts, _ = take(x, groups=1)
    assert counts[0, COUNT] == n
    assert moments[0, MEAN] == 3
    assert moments[0, L1] == 3 * n
    assert moments[0, M2] == 0


CAPABILITY_PROGRAM = """
import hashlib, torch
from initstats import _ops
torch.set_num_threads(THREADS)
g = torch.Generator().manual_seed(1)
dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]
dtypes += [torch.float8_e5m2, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32]
sizes = (1, 5, 4097, 300_007)
x = [torch.randn(n, generator=g, dtype=torch.float64) * 3 for n in sizes]
x = [v.to(d) for d in [*dtypes, torch.int64] for v in x]
f = torch.randn(50_000, generator=g)
x += [f.relu(), f * 1e38, f * 1e-41, f.masked_fill(f > 2, torch.inf), f.double() * 1e300]
x += [f.masked_fill(f < 0, torch.nan), f.view(100, 500).t(), torch.full((9000,), 0.3)]
for k in (8, 2):  # many and some values far below the largest; torch's exp2 has no fixed bits
    x.append((f.view(torch.int32) + ((k * f).int() << 23)).view(torch.float32))
for scale in (0, 1, 2):
    for rows in _ops.stats(x, 7, scale):
        print(*(hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in rows))
"""


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_bits_do_not_depend_on_capability_or_thread_count(capability: str) -> None:
    one = output_with_capability(CAPABILITY_PROGRAM.replace("THREADS", "1"), capability, HERE)
    two = output_with_capability(CAPABILITY_PROGRAM.replace("THREADS", "2"), capability, HERE)
    assert one == two
    assert one == output_with_capability(
        CAPABILITY_PROGRAM.replace("THREADS", "1"), "baseline", HERE
    )
    assert len(set(one.split())) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([torch.ones(2)], 0, 0, [], []),
            r"initstats.stats: expected groups to be a sum of 1, 2 and 4",
        ),
        (
            ([torch.ones(2)], 8, 0, [], []),
            r"initstats.stats: expected groups to be a sum of 1, 2 and 4",
        ),
        (
            ([torch.ones(2)], 1, 3, [], []),
            r"initstats.stats: expected scale to be 0, 1 or 2, got scale=3",
        ),
        (([torch.ones(2)], 1, 0, [0], []), r"initstats.stats: expected box to hold"),
        (
            ([torch.ones(2)], 1, 0, [3, 4], []),
            r"initstats.stats: expected a box inside its full sizes",
        ),
        (
            ([torch.ones(2, dtype=torch.complex64)], 1, 0, [], []),
            r"initstats.stats: expected a tensor of dtype",
        ),
    ],
)
def test_the_op_refuses_what_it_cannot_do(arguments: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.initstats.stats(*arguments)
