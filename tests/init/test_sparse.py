"""sparse_: which elements are zero, against an exact model; values; keys, boxes, strides, errors.

Seeds are fixed. The false-alarm rate that a fresh seed would have is 1e-6 per check.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

import initstats
import stream_model as model
from initstats import _ops
from initstats.init._distributions import NORMAL

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
KEY = 0x0123456789ABCDEF


def zeros_of_the_model(key: int, rows: int, columns: int, zeros: int) -> npt.NDArray[np.bool_]:
    """Algorithm S on exact integers, with the words of Note [Sparse columns]."""
    index = np.arange(rows)[:, None] * (4 * -(-columns // 4)) + np.arange(columns)
    high, low = (
        model.words(key, index.ravel().astype(np.uint64), purpose).reshape(rows, columns)
        for purpose in (2, 3)
    )
    found = np.zeros((rows, columns), dtype=bool)
    for j in range(columns):
        left = zeros
        for i in range(rows):
            u = int(high[i, j]) << 32 | int(low[i, j])
            found[i, j] = u * (rows - i) >> 64 < left
            left -= int(found[i, j])
    return found


@pytest.mark.parametrize(
    ("rows", "columns", "zeros"),
    [(1, 1, 0), (1, 5, 1), (7, 3, 4), (64, 130, 58), (5, 1030, 2), (33, 4, 33), (40, 67, 1)],
)
def test_zeros_are_those_of_selection_sampling_on_the_words_of_the_stream(
    rows: int, columns: int, zeros: int, device: torch.device
) -> None:
    x = torch.full((rows, columns), 7.0, device=device)
    _ops.sparse_([x], [KEY], [1.0], [zeros])
    expected = zeros_of_the_model(KEY, rows, columns, zeros)
    assert np.array_equal((x == 0).cpu().numpy(), expected)
    values = NORMAL.op([y := torch.empty_like(x)], [KEY], [0.0], [1.0]) or y
    assert torch.equal(x, values.masked_fill(torch.from_numpy(expected).to(device), 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.9, 1.0])
def test_every_column_has_exactly_so_many_zeros_and_normals_elsewhere(
    dtype: torch.dtype, sparsity: float, device: torch.device
) -> None:
    x = torch.full((300, 201), 7, dtype=dtype, device=device)
    assert initstats.sparse_(x, sparsity, 0.5, seed=3) is x
    zeros = (x == 0).sum(0)
    assert (zeros == math.ceil(sparsity * 300)).all()
    values = x[x != 0].double().cpu().numpy()
    n = len(values)
    assert n == 201 * (300 - math.ceil(sparsity * 300))
    if n:
        assert abs(values.mean()) < 4.9 * 0.5 / math.sqrt(n)
        assert abs(values.std() / 0.5 - 1) < 4.9 / math.sqrt(2 * n)
        # The grid of bfloat16 moves the distribution function by up to half a step, 2**-9.
        step = {torch.bfloat16: 2**-9, torch.float16: 2**-12}.get(dtype, 0.0)
        assert stats.kstest(values, stats.norm(0, 0.5).cdf).statistic < 2.7 / math.sqrt(n) + step


def test_every_subset_of_rows_is_equally_likely() -> None:
    rows, zeros, columns = 6, 3, 200_000
    x = torch.empty(rows, columns)
    initstats.sparse_(x, zeros / rows, 1.0, seed=4)
    weights = torch.tensor([1 << i for i in range(rows)])[:, None]
    counts = torch.bincount(((x == 0) * weights).sum(0), minlength=1 << rows)
    subsets = [sum(1 << i for i in chosen) for chosen in itertools.combinations(range(rows), zeros)]
    assert int(counts[subsets].sum()) == columns
    expected = columns / math.comb(rows, zeros)
    chi_square = float(((counts[subsets] - expected) ** 2 / expected).sum())
    assert stats.chi2.sf(chi_square, len(subsets) - 1) > 1e-6


def test_zeros_do_not_depend_on_the_values_or_on_other_columns() -> None:
    x = initstats.sparse_(torch.empty(2, 100_000), 0.5, seed=5)
    first = (x[0] == 0).double() - 0.5
    n = len(first)
    magnitude = x.sum(0).abs().double()
    for other in (first.roll(1), first.roll(4), magnitude - magnitude.mean()):
        correlation = float((first * other).mean() / (first.std() * other.std()))
        assert abs(correlation) < 4.9 / math.sqrt(n)


def test_bits_depend_neither_on_threads_nor_on_strides(set_thread_count, device) -> None:  # type: ignore[no-untyped-def]
    expected = initstats.sparse_(torch.empty(70, 1500, device=device), 0.8, seed=6)
    for threads in (1, 2, 3):
        set_thread_count(threads)
        assert torch.equal(initstats.sparse_(torch.zeros_like(expected), 0.8, seed=6), expected)
    for memory in (
        torch.zeros(1500, 70, device=device).t(),
        torch.zeros(140, 3000, device=device)[::2, ::2],
        torch.zeros(70, 1600, device=device)[:, 50:1550],
    ):
        assert torch.equal(initstats.sparse_(memory, 0.8, seed=6), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pieces_of_a_matrix_have_the_bits_of_the_whole(
    dtype: torch.dtype, device: torch.device
) -> None:
    rows, columns = 50, 203
    whole = torch.empty(rows, columns, dtype=dtype, device=device)
    _ops.sparse_([whole], [KEY], [1.0], [41])
    for top, bottom, left, right in ((0, 50, 3, 77), (13, 29, 0, 203), (49, 50, 202, 203)):
        piece = torch.zeros(bottom - top, right - left, dtype=dtype, device=device)
        _ops.sparse_([piece], [KEY], [1.0], [41], [top, left, rows, columns])
        assert torch.equal(piece, whole[top:bottom, left:right])


# The high word of this element is 0x55555555: three times that is 1 short of 2**32, so the low word
# decides whether the first of three rows becomes the zero. It was found by a search.
DECIDED_BY_THE_LOW_WORD = (1, 760_635_893)


def test_the_low_word_decides_where_the_high_one_cannot(device: torch.device) -> None:
    key, column = DECIDED_BY_THE_LOW_WORD
    index = np.array([column], dtype=np.uint64)
    high, low = (int(model.words(key, index, purpose)[0]) for purpose in (2, 3))
    assert high * 3 >> 32 == 0  # alone it would make the row a zero
    assert (high << 32 | low) * 3 >> 64 == 1
    x = torch.zeros(3, 1, device=device)
    _ops.sparse_([x], [key], [1.0], [1], [0, column, 3, column + 1])
    assert x[0, 0] != 0
    assert int((x == 0).sum()) == 1


def test_the_generator_decides_everything_and_moves_on(device: torch.device) -> None:
    def filled(generator: torch.Generator | None = None) -> torch.Tensor:
        return initstats.sparse_(torch.empty(20, 30, device=device), 0.5, generator=generator)

    generator = torch.Generator().manual_seed(7)
    state = torch.get_rng_state()
    first, second = filled(generator), filled(generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first == 0, second == 0)
    assert torch.equal(filled(generator.manual_seed(7)), first)
    torch.manual_seed(7)
    assert torch.equal(filled(), first)


def test_names_and_seeds_give_other_zeros(device: torch.device) -> None:
    def zeros(**key: object) -> torch.Tensor:
        return initstats.sparse_(torch.empty(20, 30, device=device), 0.5, **key) == 0  # type: ignore[arg-type]

    found = [zeros(seed=1), zeros(seed=2), zeros(seed=1, name="a"), zeros(seed=1, name="b")]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))
    assert torch.equal(zeros(seed=1, name="a"), found[2])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_and_meta_matrices_are_fine(shape: tuple[int, int], device: torch.device) -> None:
    x = torch.empty(shape, device=device)
    assert initstats.sparse_(x, 0.5) is x
    y = torch.empty(3, 4, device="meta")
    assert initstats.sparse_(y, 0.5) is y


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: initstats.sparse_(x[0], 0.5), ValueError, "Only tensors with 2 dimensions are"),
        (
            lambda x: initstats.sparse_(x, 1.1),
            ValueError,
            r"sparsity in \[0, 1\], got sparsity=1.1",
        ),
        (lambda x: initstats.sparse_(x, -0.1), ValueError, r"got sparsity=-0.1"),
        (lambda x: initstats.sparse_(x, math.nan), ValueError, r"got sparsity=nan"),
        (
            lambda x: initstats.sparse_(x, "a"),
            TypeError,
            r"sparsity to be a number, got sparsity='a'",
        ),
        (
            lambda x: initstats.sparse_(x, 0.5, -1),
            ValueError,
            r"std to be finite and >= 0, got std=-1",
        ),
        (lambda x: initstats.sparse_(x, 0.5, -1), RuntimeError, r"normal expects std >= 0.0, but"),
        (lambda x: initstats.sparse_(x.int(), 0.5), TypeError, r"got dtype=torch.int32"),
        (lambda x: initstats.sparse_(x[:1].expand(3, 4), 0.5), RuntimeError, r"share memory"),
        (lambda x: _ops.sparse_([x], [1], [1.0], [4]), RuntimeError, "zeros from 0 to the rows, 3"),
        (lambda x: _ops.sparse_([x], [1], [1.0], [-1]), RuntimeError, "to the rows, 3, got -1"),
        (
            lambda x: _ops.sparse_([x[0]], [1], [1.0], [0]),
            RuntimeError,
            "expected 2 dimensions, got 1",
        ),
        (
            lambda x: _ops.sparse_([x], [], [1.0], [0]),
            RuntimeError,
            "one key, std and number of zeros",
        ),
        (
            lambda x: _ops.sparse_([x], [1], [1.0], [0], [0, 0, 2**32, 4]),
            RuntimeError,
            r"less than 2\^32 rows, got 4294967296",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(  # type: ignore[no-untyped-def]
    call, error, message, device: torch.device
) -> None:
    x = torch.zeros(3, 4, device=device)
    with pytest.raises(error, match=message):
        call(x)
    assert not x.any()
