"""What a seed means: the words, their elements, and that nothing else has a say in them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import golden
import initstats
import stream_model as model
from capabilities import output_with_capability
from initstats import _C, _ops
from initstats.init._distributions import DISTRIBUTIONS, UNIFORM

VECTORS = golden.VECTORS.parent
DTYPES = golden.DTYPES
KEY = 0x0123456789ABCDEF
FILLS = golden.FILLS


def test_philox_gives_the_published_known_answers() -> None:
    for line in (VECTORS / "philox4x32_10.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        c0, c1, c2, c3, k0, k1, *expected = (int(word, 16) for word in line.split())
        assert list(_C.philox4x32_10(k1 << 32 | k0, c1 << 32 | c0, c2, c3)) == expected


def test_philox_gives_the_10000th_value_of_the_cpp_standard() -> None:
    # [rand.predef]: the 10000th invocation of a default-constructed std::philox4x32 gives
    # 1955073260; its default seed is 20111115 and its first block has counter 0.
    assert _C.philox4x32_10(20111115, 9999 // 4, 0, 0)[9999 % 4] == 1955073260


def test_numpy_model_agrees_with_philox_on_random_counters() -> None:
    random = np.random.default_rng(1)
    counters = random.integers(0, 2**64, 200, dtype=np.uint64)
    for counter, row in zip(counters, model.philox4x32_10(counters, KEY, 1), strict=True):
        assert list(_C.philox4x32_10(KEY, int(counter), 1, 0)) == list(row)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 31, 32, 33, 63, 64, 65, 4099, 40_001])
def test_uniform_equals_the_numpy_model(n: int, device: torch.device) -> None:
    index = np.arange(n, dtype=np.uint64)
    key = model.key_of(7, "layer.weight")
    narrow = torch.full((n,), 9.0, device=device)
    initstats.uniform_(narrow, seed=7, name="layer.weight")
    assert np.array_equal(narrow.cpu().numpy(), model.uniform01(key, index))
    wide = torch.full((n,), 9.0, device=device, dtype=torch.float64)
    initstats.uniform_(wide, seed=7, name="layer.weight")
    assert np.array_equal(wide.cpu().numpy(), model.uniform01_float64(key, index))


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_are_the_golden_ones(name: str, dtype: torch.dtype, device: torch.device) -> None:
    expected = golden.golden_hashes()[golden.row(name, dtype)]
    assert golden.golden_hash(name, dtype, device) == expected


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_thread_count(
    name: str, dtype: torch.dtype, set_thread_count: Callable[[int], None]
) -> None:
    tensors = []
    for threads in (1, 2, 3):
        set_thread_count(threads)
        tensors.append(torch.empty(200_003, dtype=dtype))
        FILLS[name](tensors[-1])
    assert torch.equal(tensors[0], tensors[1])
    assert torch.equal(tensors[0], tensors[2])


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_bits_do_not_depend_on_cpu_capability(capability: str) -> None:
    code = "import json, golden; print(json.dumps(golden.present_hashes()))"
    printed = output_with_capability(code, capability, Path(__file__).parent)
    assert json.loads(printed) == golden.golden_hashes()


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_strides(name: str, dtype: torch.dtype, device: torch.device) -> None:
    expected = torch.empty(37, 53, dtype=dtype, device=device)
    FILLS[name](expected)
    transposed = torch.zeros(53, 37, dtype=dtype, device=device).t()
    strided = torch.zeros(37, 3 * 53 + 1, dtype=dtype, device=device)[:, 1::3]
    shifted = torch.zeros(37 * 53 + 1, dtype=dtype, device=device)[1:].view(37, 53)
    for view in (transposed, strided, shifted):
        FILLS[name](view)
        assert torch.equal(view, expected)


def test_strided_fill_leaves_the_gaps_alone(device: torch.device) -> None:
    whole = torch.full((41, 61), 77.0, device=device)
    initstats.normal_(whole[3:29:2, 5:50:7], seed=0)
    touched = torch.zeros(41, 61, dtype=torch.bool, device=device)
    touched[3:29:2, 5:50:7] = True
    assert bool((whole[~touched] == 77.0).all())
    assert bool((whole[touched] != 77.0).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "cuts",
    [
        ((0, 1, 2, 40, 61), (0, 47)),
        ((0, 61), (0, 1, 3, 30, 47)),
        ((0, 13, 61), (0, 5, 6, 40, 47)),
    ],
    ids=["rows", "columns", "blocks"],
)
def test_pieces_of_a_matrix_get_the_bits_of_the_whole(
    cuts: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> None:
    rows, columns = cuts
    for family in DISTRIBUTIONS:
        numbers = [[number] for number in next(iter(family.examples.values()))]
        whole = torch.empty(61, 47, dtype=dtype, device=device)
        family.op([whole], [KEY], *numbers)
        pieces, boxes, expected = [], [], []
        for top, bottom in itertools.pairwise(rows):
            for left, right in itertools.pairwise(columns):
                pieces.append(torch.empty(bottom - top, right - left, dtype=dtype, device=device))
                boxes.append(((top, left), (61, 47)))
                expected.append(whole[top:bottom, left:right])
        family.op(pieces, [KEY] * len(pieces), *numbers, _ops.flat_box(boxes))
        for piece, part in zip(pieces, expected, strict=True):
            assert torch.equal(piece, part)


@pytest.mark.parametrize("first", [2**32 - 3, 2**34 - 5, 2**35 + 1, 2**61 - 2])
def test_element_numbers_go_past_32_bits(first: int, device: torch.device) -> None:
    # Counters are element / 4, so they cross 2**32 at element 2**34.
    n = 23
    piece = torch.empty(n, device=device)
    UNIFORM.op([piece], [KEY], [0.0], [1.0], [first, 2**62])
    index = np.arange(first, first + n, dtype=np.uint64)
    assert np.array_equal(piece.cpu().numpy(), model.uniform01(KEY, index))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_tensors_get_the_bits_of_one_by_one(dtype: torch.dtype, device: torch.device) -> None:
    shapes = [(0,), (1,), (5, 7), (64,), (3, 3, 3), (1000,), (4097,)] * 3
    together = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
    alone = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
    names = [f"p{i}" for i in range(len(shapes))]
    stds = [0.01 * (i + 1) for i in range(len(shapes))]
    initstats.foreach_normal_(together, 0.5, stds, seed=3, names=names)
    for tensor, std, name in zip(alone, stds, names, strict=True):
        initstats.normal_(tensor, 0.5, std, seed=3, name=name)
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a, b)


def test_many_tensors_of_mixed_dtypes_and_one_launch_limit(device: torch.device) -> None:
    # More tensors than one launch's parameters hold, of all dtypes, some strided.
    dtypes = [DTYPES[i % 4] for i in range(1500)]
    together = [torch.empty(6, 3, dtype=dtype, device=device) for dtype in dtypes]
    together = [t.t() if i % 5 == 0 else t for i, t in enumerate(together)]
    names = [str(i) for i in range(len(together))]
    initstats.foreach_trunc_normal_(together, 0.0, 1.0, -2.0, 2.0, seed=1, names=names)
    for i in (0, 1, 2, 3, 700, 1498, 1499):
        alone = torch.empty(together[i].shape, dtype=dtypes[i], device=device)
        initstats.trunc_normal_(alone, seed=1, name=str(i))
        assert torch.equal(together[i], alone)


def test_halves_are_rounded_float32_values(device: torch.device) -> None:
    exact = torch.empty(50_001, device=device)
    initstats.normal_(exact, seed=5)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = torch.empty(50_001, dtype=dtype, device=device)
        initstats.normal_(rounded, seed=5)
        assert torch.equal(rounded, exact.to(dtype))
