"""The reflections under orthogonal_: which bits they have, and the ops that make them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import stream_model as model
from capabilities import output_with_capability
from initstats import _ops
from initstats.init._distributions import NORMAL

HERE = Path(__file__).parent
ROOT = Path(__file__).resolve().parents[2]
VECTORS = Path(__file__).parents[1] / "vectors"
KEY = 0x0123456789ABCDEF
REALS = [torch.float32, torch.float64]

Reflectors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def reflectors(
    rows: int,
    size: int,
    *,
    first: int = 0,
    stream_row: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Reflectors:
    """Return vectors [rows, size - first padded], squares [rows] and diagonal [rows]."""
    width = -(-(size - first) // 4) * 4
    made = (
        torch.full((rows, width), 7.0, dtype=dtype, device=device),
        torch.full((rows,), 7.0, dtype=torch.float64, device=device),
        torch.full((rows,), 7.0, dtype=dtype, device=device),
    )
    _ops.reflectors_(*(each[None] for each in made), [KEY], [stream_row], first, size, size)
    return made


def normals(rows: int, size: int, stream_row: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the x of Note [Reflectors], [rows, size], from the normal fill."""
    pitch = -(-size // 4) * 4
    x = torch.empty(rows, pitch, dtype=dtype)
    NORMAL.op([x], [KEY], [0.0], [1.0], [stream_row, 0, 1 << 40, pitch])
    return x[:, :size]


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize(
    ("rows", "size", "first", "stream_row"),
    [(1, 1, 0, 0), (5, 5, 0, 0), (3, 66, 60, 0), (66, 67, 0, 5), (4, 1100, 4, 1), (2, 5001, 8, 0)],
)
def test_reflectors_are_made_of_the_normals_of_the_stream(
    dtype: torch.dtype, rows: int, size: int, first: int, stream_row: int, device: torch.device
) -> None:
    made = reflectors(rows, size, first=first, stream_row=stream_row, dtype=dtype, device=device)
    vectors, squares, diagonal = (each.cpu() for each in made)
    x = normals(rows, size, stream_row + first, dtype)
    for i in range(rows):
        r = first + i
        # x starts at its own coordinate; the sum is independent: numpy's, pairwise.
        own, later = float(x[i, r]), x[i, r + 1 :].double().numpy()
        length = np.sqrt(own**2 + np.sum(later**2))
        expected = np.zeros(vectors.shape[1])
        expected[i + 1 : size - first] = later
        v = own + np.copysign(length, own)
        expected[i] = v
        assert np.array_equal(np.delete(vectors[i].double().numpy(), i), np.delete(expected, i))
        # One rounding to float32; in float64 that of the sum, far below 1e-15 times its length.
        assert float(vectors[i, i]) == pytest.approx(v, rel=6e-8 if dtype == REALS[0] else 1e-14)
        stored = float(vectors[i].double().square().sum())
        assert float(squares[i]) == pytest.approx(stored, rel=1e-13)
        assert float(diagonal[i]) == (1.0 if own < 0 else -1.0)


def test_normals_of_reflectors_follow_the_numpy_model() -> None:
    rows, size, stream_row = 3, 21, 11
    vectors = reflectors(rows, size, stream_row=stream_row)[0]
    for i in range(rows):
        index = np.arange(size, dtype=np.uint64) + np.uint64((stream_row + i) * 24)
        z = model.normal(KEY, index)[i + 1 :]
        # The normal fill promises 5 ulp of float32.
        assert np.allclose(vectors[i, i + 1 : size].numpy(), z, rtol=5 * 2.0**-23, atol=0)


def test_rows_beyond_the_end_of_a_32_bit_index_are_like_others(device: torch.device) -> None:
    stream_row = 2**33 + 3  # with a pitch of 8, the counter passes 2**32
    vectors = reflectors(1, 7, stream_row=stream_row, device=device)[0].cpu()
    index = np.arange(7, dtype=np.uint64) + np.uint64(stream_row * 8)
    assert np.allclose(vectors[0, 1:7].numpy(), model.normal(KEY, index)[1:], rtol=5 * 2.0**-23)


@pytest.mark.parametrize("dtype", REALS, ids=str)
def test_a_panel_has_the_bits_of_the_whole(dtype: torch.dtype, device: torch.device) -> None:
    whole = reflectors(300, 301, dtype=dtype, device=device)
    part = reflectors(50, 301, first=128, dtype=dtype, device=device)
    assert torch.equal(part[0][:, : 301 - 128], whole[0][128:178, 128:301])
    for mine, all_rows in zip(part[1:], whole[1:], strict=True):
        assert torch.equal(mine, all_rows[128:178])


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize(("matrices", "rows", "first"), [(3, 8, 4), (70, 12, 0), (2, 6, 8)])
def test_reflectors_of_many_matrices_are_those_of_each_and_rows_beyond_reflect_nothing(
    matrices: int, rows: int, first: int, dtype: torch.dtype, device: torch.device
) -> None:
    size, count = 13, 10
    keys, stream_rows = [KEY + i for i in range(matrices)], [count * i for i in range(matrices)]
    shape, kind = (matrices, rows), {"dtype": dtype, "device": device}
    vectors, diagonal = torch.full((*shape, 16), 7.0, **kind), torch.full(shape, 7.0, **kind)
    squares = torch.full(shape, 7.0, dtype=torch.float64, device=device)
    _ops.reflectors_(vectors, squares, diagonal, keys, stream_rows, first, size, count)
    drawn = count - first
    for i in range(matrices):
        alone = torch.empty(1, drawn, 16, **kind), squares[:1, :drawn].clone()
        one = *alone, diagonal[:1, :drawn].clone()
        _ops.reflectors_(*one, keys[i : i + 1], stream_rows[i : i + 1], first, size, count)
        for mine, expected in zip((vectors, squares, diagonal), one, strict=True):
            assert torch.equal(mine[i, :drawn], expected[0])
    assert not vectors[:, drawn:].any()
    assert not diagonal[:, drawn:].any()
    assert bool((squares[:, drawn:] == 1).all())


def hashed(tensors: tuple[torch.Tensor, ...]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def made_of(device: torch.device) -> Iterator[tuple[str, str]]:
    """Yield the name and the hash of everything whose bits are promised."""
    for dtype in REALS:
        name = str(dtype).removeprefix("torch.")
        made = reflectors(200, 1201, stream_row=7, dtype=dtype, device=device)
        yield f"reflectors/{name}", hashed(made)
    for dtype in (*REALS, torch.float16, torch.bfloat16):
        matrices = torch.empty(3, 97, 61, dtype=dtype, device=device)
        _ops.small_orthogonal_([matrices], [KEY], [1.5])
        yield f"small/{str(dtype).removeprefix('torch.')}", hashed((matrices,))


def golden() -> dict[str, str]:
    lines = (VECTORS / "orthogonal_v1.txt").read_text().splitlines()
    return dict(line.split() for line in lines if not line.startswith("#"))


def test_bits_are_the_golden_ones(device: torch.device) -> None:
    assert dict(made_of(device)) == golden()


def test_bits_do_not_depend_on_thread_count(set_thread_count: Callable[[int], None]) -> None:
    for threads in (1, 2, 3):
        set_thread_count(threads)
        assert dict(made_of(torch.device("cpu"))) == golden()


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_bits_do_not_depend_on_cpu_capability(capability: str) -> None:
    printed = output_with_capability(
        "import test_orthogonal_reflectors as t; t.print_golden()", capability, HERE
    )
    assert dict(line.split() for line in printed.splitlines()) == golden()


def print_golden() -> None:
    """Print the hashes; the file of golden ones is this output below a heading."""
    for name, digest in made_of(torch.device("cpu")):
        print(name, digest)


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("k", [1, 5, 64, 128, 300])
def test_panel_factors_make_the_product_of_the_reflections(
    dtype: torch.dtype, k: int, device: torch.device
) -> None:
    size = k + 22
    made = reflectors(k, size, dtype=dtype, device=device)
    vectors, squares = made[0][:, :size], made[1]
    factor = _ops.panel_factors((vectors @ vectors.t())[None].contiguous(), squares)[0]
    assert torch.equal(factor, factor.triu())
    v = vectors.double().cpu()
    product = torch.eye(size, dtype=torch.float64)
    for i in range(k):
        product -= (2 / v[i].dot(v[i])) * torch.outer(product @ v[i], v[i])
    panel = torch.eye(size, dtype=torch.float64) - v.t() @ factor.double().cpu() @ v
    eps = torch.finfo(dtype).eps
    # Elements of the Gram matrix and of T carry a few roundings each; their effects add at random.
    assert float((panel - product).abs().max()) < 30 * eps


def shifted(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape that begins 4 bytes after a multiple of 16."""
    return torch.zeros(tensor.numel() + 1, device=tensor.device)[1:].view(tensor.shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v, s, d: (v.half(), s, d, [1], [0], 0, 8, 8), "expected dtype float32 or float64"),
        (lambda v, s, d: (v[0], s, d, [1], [0], 0, 8, 8), "expected vectors to be matrices"),
        (lambda v, s, d: (v.mT, s, d, [1], [0], 0, 8, 8), "expected vectors contiguous"),
        (lambda v, s, d: (v, s.float(), d, [1], [0], 0, 8, 8), "expected squares contiguous"),
        (lambda v, s, d: (v, s, d[:, :1], [1], [0], 0, 8, 8), "expected diagonal contiguous"),
        (lambda v, s, d: (v, s, d, [1, 2], [0], 0, 8, 8), "expected one key and one row of"),
        (lambda v, s, d: (v, s, d, [1], [0, 1], 0, 8, 8), "expected one key and one row of"),
        (lambda v, s, d: (v, s, d, [1], [0], 2, 8, 8), "expected first to be a multiple of 4"),
        (lambda v, s, d: (v, s, d, [1], [-1], 0, 8, 8), "expected first to be a multiple of 4"),
        (lambda v, s, d: (v, s, d, [1], [0], 8, 8, 7), "reflectors that lie in the matrix"),
        (lambda v, s, d: (v, s, d, [1], [0], 0, 8, 9), "reflectors that lie in the matrix"),
        (lambda v, s, d: (v, s, d, [1], [0], 0, 9, 9), "expected a multiple of 4 columns"),
        (lambda v, s, d: (shifted(v), s, d, [1], [0], 0, 8, 8), "16 bytes, got 4 bytes past one"),
    ],
)
def test_reflectors_op_refuses_what_it_cannot_write(
    make: Callable[..., tuple[object, ...]], message: str, device: torch.device
) -> None:
    v = torch.zeros(1, 3, 8, device=device)
    s = torch.zeros(1, 3, dtype=torch.float64, device=device)
    d = torch.zeros(1, 3, device=device)
    with pytest.raises(RuntimeError, match=f"initstats.reflectors_: .*{message}"):
        _ops.reflectors_(*make(v, s, d))  # type: ignore[arg-type]
    assert not v.any()


@pytest.mark.parametrize(
    ("gram", "squares", "message"),
    [
        (torch.ones(2, 2), torch.ones(2).double(), "expected gram to be"),
        (torch.ones(1, 2, 3), torch.ones(2).double(), "expected gram to be"),
        (torch.ones(1, 513, 513), torch.ones(513).double(), "with k <= 512"),
        (torch.ones(1, 2, 2).half(), torch.ones(2).double(), "expected dtype float32 or float64"),
        (torch.ones(1, 2, 2), torch.ones(2), "expected squares contiguous"),
        (torch.ones(1, 2, 2), torch.ones(3).double(), "expected squares contiguous"),
    ],
)
def test_panel_factors_op_refuses_what_it_cannot_read(
    gram: torch.Tensor, squares: torch.Tensor, message: str
) -> None:
    with pytest.raises(RuntimeError, match=f"initstats.panel_factors: .*{message}"):
        _ops.panel_factors(gram, squares)


@pytest.mark.parametrize(
    ("tensor", "keys", "gain", "message"),
    [
        (torch.zeros(3), [1], [1.0], r"expected \[rows, columns\] or \[batch, rows, columns\]"),
        (torch.zeros(1, 1, 2, 3), [1], [1.0], r"expected \[rows, columns\] or"),
        (torch.zeros(1, 129, 3), [1], [1.0], "sides of at most 128"),
        (torch.zeros(1, 3, 3).int(), [1], [1.0], "expected dtype float16"),
        (torch.zeros(1, 3, 3), [1, 2], [1.0], "expected one key and one gain per tensor, 1"),
        (torch.zeros(1, 3, 3), [1], [], "expected one key and one gain per tensor, 1"),
        (torch.zeros(1, 3, 1).expand(1, 3, 3), [1], [1.0], "do not share memory"),
    ],
)
def test_small_matrix_op_refuses_what_it_cannot_write(
    tensor: torch.Tensor, keys: list[int], gain: list[float], message: str
) -> None:
    with pytest.raises(RuntimeError, match=f"initstats.small_orthogonal_: .*{message}"):
        _ops.small_orthogonal_([tensor], keys, gain)
    assert not tensor.any()


def test_panels_without_reflections_are_fine() -> None:
    for shape, keys in (((1, 0), [1]), ((0, 3), [])):
        empty = torch.empty(*shape, 4), torch.empty(shape).double(), torch.empty(shape)
        _ops.reflectors_(*empty, keys, keys, 0, 4, 4)
    assert _ops.panel_factors(torch.empty(0, 5, 5), torch.empty(0).double()).shape == (0, 5, 5)
