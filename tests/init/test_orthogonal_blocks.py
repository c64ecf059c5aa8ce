"""orthogonal_block_: a block is that of the whole matrix within rounding, in little memory."""

from __future__ import annotations

import math

import pytest
import torch

import initstats
from initstats.init import householder
from initstats.init.householder import Matrix, write_block, write_columns, write_rows
from orthogonality import peak_bytes

BOUNDS = {torch.float32: 1.5e-6, torch.float64: 5e-15, torch.bfloat16: 2**-8}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", [(300, 300), (330, 140), (140, 330), (20, 20), (5, 1)])
def test_a_block_is_that_of_the_whole_matrix(
    size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    m, n = size
    whole = initstats.orthogonal_(torch.empty(m, n, dtype=dtype, device=device), 1.5, seed=1)
    for top, left, rows, columns in (
        (0, 0, m, n),
        (0, 0, max(m // 3, 1), n),
        (m // 3, 0, m - m // 3, n),
        (0, n // 4, m, n - n // 4),
        (m // 5, n // 2, max(m // 7, 1), max(n // 3, 1)),
        (m - 1, 0, 1, n),
        (0, n - 1, m, 1),
        (m - 1, n - 1, 1, 1),
    ):
        block = torch.full((rows, columns), 7.0, dtype=dtype, device=device)
        assert initstats.orthogonal_block_(block, (top, left), size, 1.5, seed=1) is block
        expected = whole[top : top + rows, left : left + columns]
        error = float((block.double() - expected.double()).abs().max())
        assert error <= 1.5 * BOUNDS[dtype]


def test_ranks_put_together_an_orthogonal_matrix() -> None:
    rows = [torch.empty(75, 300) for _ in range(4)]
    for rank, shard in enumerate(rows):
        initstats.orthogonal_block_(shard, (75 * rank, 0), (300, 300), seed=2, name="w")
    q = torch.cat(rows).double()
    assert float((q.t() @ q - torch.eye(300)).norm()) / math.sqrt(300) <= 1.5e-6


def test_dimensions_after_the_first_are_flattened() -> None:
    whole = initstats.orthogonal_(torch.empty(8, 3, 5, 5), seed=3)
    part = torch.empty(2, 3, 5, 5)
    initstats.orthogonal_block_(part, (4, 0), (8, 75), seed=3)
    assert torch.allclose(part, whole[4:6], atol=1.5e-6)
    folded = torch.zeros(2, 5, 3, 5).transpose(1, 2)  # no view can flatten it
    initstats.orthogonal_block_(folded, (4, 0), (8, 75), seed=3)
    assert torch.equal(folded, part)


def test_generators_in_the_same_state_give_the_same_matrix() -> None:
    whole = initstats.orthogonal_(torch.empty(9, 9), generator=torch.Generator().manual_seed(4))
    part = torch.empty(9, 2)
    initstats.orthogonal_block_(part, (0, 7), (9, 9), generator=torch.Generator().manual_seed(4))
    assert torch.allclose(part, whole[:, 7:], atol=1.5e-6)


@pytest.mark.backends("cpu")
@pytest.mark.parametrize(
    ("shape", "dtype", "bound"),
    [
        ((1024, 1024), torch.float32, 1.1),
        ((2048, 512), torch.float32, 1.1),
        ((512, 2048), torch.float32, 1.1),
        ((1024, 1024), torch.float64, 1.1),
        ((1024, 1024), torch.bfloat16, 2 + 2 * 1.1),  # in float32: twice the bytes
    ],
)
def test_a_matrix_needs_little_more_memory_than_its_own(
    shape: tuple[int, int], dtype: torch.dtype, bound: float
) -> None:
    w = torch.empty(shape, dtype=dtype)
    assert 0 < peak_bytes(lambda: initstats.orthogonal_(w)) <= bound * w.nbytes


@pytest.mark.backends("cpu")
def test_a_block_of_a_large_matrix_needs_a_fraction_of_its_memory() -> None:
    n, rows = 2048, 16
    whole_bytes = 4 * n * n
    for shape, offset in (((rows, n), (100, 0)), ((n, rows), (0, 100))):
        w = torch.empty(shape)
        peak = peak_bytes(lambda w=w, offset=offset: initstats.orthogonal_block_(w, offset, (n, n)))
        assert 0 < peak <= whole_bytes / 4 + 8 * w.nbytes


@pytest.mark.backends("cpu")
@pytest.mark.parametrize(
    ("rows", "columns", "m", "n"),
    [
        (256, 512, 8192, 512),
        (2048, 512, 8192, 512),
        (4096, 64, 8192, 512),
        (40, 300, 8192, 512),
        (50, 70, 2500, 2048),
    ],
)
def test_a_block_of_a_tall_matrix_needs_memory_of_its_own_size(
    rows: int, columns: int, m: int, n: int
) -> None:
    w = torch.empty(rows, columns)
    peak = peak_bytes(lambda: initstats.orthogonal_block_(w, (m - rows, n - columns), (m, n)))
    assert 0 < peak <= 3 * w.nbytes + 192 * m * 4 + 4 * 128 * 128 * 4


# ---- on a GPU: wide panels


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every device."""
    monkeypatch.setattr(householder, "prefers_few_calls", lambda _: True)


BLOCKS = [
    (0, 90, 0, 700),  # rows and columns of a matrix of 1024 x 700
    (300, 1024, 13, 651),
    (0, 1024, 600, 700),
    (700, 710, 0, 700),
    (5, 300, 1, 2),
]


@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_wide_panels_make_the_blocks_of_the_whole(
    block: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, *, turned: bool
) -> None:
    top, bottom, left, right = block
    key = 3
    whole = torch.empty(1024, 700, dtype=dtype, device=device)
    write_columns(Matrix(1024, 700, key, dtype, device), 0, whole, 1.5)
    rows, columns = bottom - top, right - left
    if turned:
        part = torch.empty(columns, rows, dtype=dtype, device=device).t()
        write_block(part.t(), (left, top), (700, 1024), key, 1.5)
    else:
        part = torch.empty(rows, columns, dtype=dtype, device=device)
        write_block(part, (top, left), (1024, 700), key, 1.5)
    assert float((part - whole[top:bottom, left:right]).abs().max()) <= 1.5 * BOUNDS[dtype]


@pytest.mark.backends("cpu")
@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize(
    ("rows", "columns", "m", "n"),
    [
        *[(2048, 512, 8192, 512), (40, 300, 8192, 512), (50, 70, 2500, 2048)],
        *[(512, 4096, 4096, 4096), (4096, 512, 4096, 4096), (512, 512, 512, 512)],
        *[(1024, 1024, 1024, 1024), (300, 300, 300, 300)],
    ],
)
def test_wide_panels_need_memory_of_the_size_of_the_block(
    rows: int, columns: int, m: int, n: int
) -> None:
    w = torch.empty(rows, columns)
    peak = peak_bytes(lambda: initstats.orthogonal_block_(w, (m - rows, n - columns), (m, n)))
    assert 0 < peak <= 3 * w.nbytes + 192 * m * 4 + 4 * 512 * 512 * 4


def test_a_block_made_in_parts_is_that_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = initstats.orthogonal_(torch.empty(260, 90).double(), 2.0, seed=3)
    monkeypatch.setattr(householder, "_THINNEST", 8)
    for rows, columns in (((30, 71), (5, 90)), ((100, 260), (20, 33)), ((255, 260), (0, 90))):
        block = torch.empty(rows[1] - rows[0], columns[1] - columns[0]).double()
        offset = rows[0], columns[0]
        initstats.orthogonal_block_(block, offset, (260, 90), 2.0, seed=3)
        assert torch.allclose(block, whole[slice(*rows), slice(*columns)], rtol=0, atol=1e-14)
        turned = torch.empty(block.shape[::-1]).double()
        initstats.orthogonal_block_(turned, offset[::-1], (90, 260), 2.0, seed=3)
        assert torch.allclose(turned, block.t(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "value"), [("_NARROW", 12), ("_SHARE", 1), ("_SMALLEST_FOR_WIDE", 1)]
)
def test_panels_of_any_width_drawn_in_any_number_give_the_same_matrix(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both() -> tuple[torch.Tensor, torch.Tensor]:
        matrix = Matrix(210, 205, 7, torch.float64, torch.device("cpu"))
        columns, rows = (torch.empty(k).double() for k in ((210, 205), (100, 210)))
        write_columns(matrix, 0, columns, 1.0)
        write_rows(matrix, 110, rows, 1.0)
        return columns, rows

    expected = both()
    monkeypatch.setattr(householder, name, value)
    if name == "_SHARE":  # three panels of 64, then what is left
        panels = Matrix(210, 205, 7, torch.float64, torch.device("cpu")).panels(205, backwards=True)
        assert [panel.begin for panel in panels] == [192, 128, 64, 0]
    for mine, other in zip(both(), expected, strict=True):
        assert torch.allclose(mine, other, atol=5e-15)


@pytest.mark.parametrize(
    ("shape", "offset", "size", "arguments", "error", "message"),
    [
        ((3,), (0, 0), (3, 3), {}, ValueError, "Only tensors with 2 or more dimensions"),
        ((3, 3), (1, 0), (3, 3), {}, ValueError, "expected a block inside the matrix of size="),
        ((3, 3), (0, 1), (3, 3), {}, ValueError, "expected a block inside the matrix of size="),
        ((3, 3), (-1, 0), (3, 3), {}, ValueError, "expected a block inside the matrix of size="),
        ((3, 3), (0,), (3, 3), {}, ValueError, r"expected offset to be \(row, column\)"),
        ((3, 3), (0, 0), (3, 3, 3), {}, ValueError, r"expected size to be \(row, column\)"),
        ((3, 3), (0, 0.0), (3, 3), {}, TypeError, "expected offset to hold integers"),
        ((3, 3), (0, 0), 3, {}, TypeError, "expected size to hold integers"),
        ((3, 3), (0, 0), (3, 3), {"gain": math.inf}, ValueError, "expected gain to be finite"),
        ((3, 3), (0, 0), (3, 3), {"name": "x"}, ValueError, "expected a seed with name"),
    ],
)
def test_bad_blocks_are_refused_before_anything_is_written(
    shape: tuple[int, ...],
    offset: tuple[int, ...],
    size: tuple[int, ...],
    arguments: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    w = torch.full(shape, 7.0)
    with pytest.raises(error, match=f"initstats.orthogonal_block_: {message}"):
        initstats.orthogonal_block_(w, offset, size, **arguments)  # type: ignore[arg-type]
    assert bool((w == 7).all())


def test_shared_memory_is_refused() -> None:
    with pytest.raises(RuntimeError, match="do not share memory"):
        initstats.orthogonal_block_(torch.zeros(3, 1).expand(3, 3), (0, 0), (3, 3))


def test_empty_and_meta_blocks_are_fine() -> None:
    empty = torch.empty(0, 4)
    assert initstats.orthogonal_block_(empty, (0, 0), (4, 0)) is empty
    meta = torch.empty(3, 4, device="meta")
    assert initstats.orthogonal_block_(meta, (0, 0), (4, 4)) is meta
