"""The CUDA kernels of orthogonal matrices without a GPU: source, PTX, machine code."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch

from cuda_on_cpu import build, ptx
from cuda_on_cpu.toolkit import REPOSITORY
from initstats import _ops

CSRC = REPOSITORY / "csrc"
NATIVE = REPOSITORY / "tests/kernels/native"
KERNELS, SMALL_KERNELS = (
    CSRC / "cuda/orthogonal/orthogonal.cu",
    CSRC / "cuda/orthogonal/orthogonal_small.cu",
)
KEY = 0x0123456789ABCDEF
TASKS, TASK_BYTES = 100, 80
MATRICES = 64  # kMostMatrices of csrc/cuda/orthogonal/orthogonal.h
REALS = {"f": (torch.float32, np.float32), "d": (torch.float64, np.float64)}


@pytest.mark.long
def test_executed_kernels_give_the_bits_of_the_cpu_in_three_orders() -> None:
    program = build.compile_native(
        [
            NATIVE / "orthogonal_kernels_test.cpp",
            KERNELS,
            SMALL_KERNELS,
            CSRC / "cpu/orthogonal/orthogonal.cpp",
            CSRC / "cpu/orthogonal/orthogonal_small.cpp",
        ],
        flags=["-DINITSTATS_CAPABILITY=baseline", "-DINITSTATS_BASELINE_ONLY"],
    )
    for output in build.run_in_three_orders(program):
        assert output == "all right\n"


@pytest.fixture(scope="module")
def module() -> ptx.Module:
    return build.load_ptx(KERNELS)


@pytest.fixture(scope="module")
def small_module() -> ptx.Module:
    return build.load_ptx(SMALL_KERNELS)


@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(("size", "first", "rows"), [(1531, 4, 6), (70, 0, 70)])
def test_reflector_ptx_writes_every_element_once_with_the_bits_of_the_cpu(
    module: ptx.Module, real: str, order: ptx.Order, size: int, first: int, rows: int
) -> None:
    dtype, stored = REALS[real]
    pitch = -(-(size - first) // 4) * 4
    matrices = 2
    vectors = ptx.aligned(matrices * rows * pitch, stored)
    diagonal = ptx.aligned(matrices * rows, stored)
    squares = ptx.aligned(matrices * rows, np.float64)
    count = size - 1  # the last row of a whole matrix is one of no reflection
    keys, stream_rows = [KEY, KEY + 1], [3, 2 * size]
    task = struct.pack(
        f"<QQQ6q{MATRICES}Q{MATRICES}q",
        *(vectors.ctypes.data, squares.ctypes.data, diagonal.ctypes.data),
        *(pitch, first, size, count, rows, matrices),
        *(*keys, *[0] * (MATRICES - matrices), *stream_rows, *[0] * (MATRICES - matrices)),
    )
    report = module.launch(
        f"reflectors_kernelI{real}",
        (rows, matrices),
        256,
        [task],
        visible=[vectors, squares, diagonal],
        order=order,
    )
    assert report.races == 0, report.first_race
    expected = (
        torch.empty(matrices, rows, pitch, dtype=dtype),
        torch.empty(matrices, rows, dtype=torch.float64),
        torch.empty(matrices, rows, dtype=dtype),
    )
    _ops.reflectors_(*expected, keys, stream_rows, first, size, count)
    for mine, theirs in zip((vectors, squares, diagonal), expected, strict=True):
        assert mine.tobytes() == theirs.numpy().tobytes()
    # The first element of each is written twice: as x and as v.
    traffic, reflecting = report.arrays[0], matrices * min(rows, count - first)
    twice = reflecting * vectors.itemsize
    assert (traffic.loaded, traffic.stored) == (0, vectors.nbytes + twice)
    wide = [a for a in report.accesses if a.kind == "store" and a.size_bytes == 16 * a.lanes > 0]
    assert sum(a.size_bytes for a in wide) == vectors.nbytes


@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("k", [7, 100, 261])
def test_panel_factor_ptx_has_the_bits_of_the_cpu(
    module: ptx.Module, real: str, order: ptx.Order, k: int
) -> None:
    dtype, stored = REALS[real]
    panels, per_panel = 2, -(-k // 4)
    random = np.random.default_rng(0)
    gram, squares = ptx.aligned(panels * k * k, stored), ptx.aligned(panels * k, np.float64)
    factors = ptx.aligned(panels * k * k, stored)
    gram[:], squares[:] = random.normal(size=len(gram)), k + random.random(len(squares))
    arguments: list[Any] = [gram, squares, factors, np.int32(k), np.int32(per_panel)]
    report = module.launch(
        f"panel_factors_kernelI{real}", panels * per_panel, 128, arguments, order=order
    )
    assert report.races == 0, report.first_race
    expected = _ops.panel_factors(
        torch.from_numpy(gram.copy()).view(panels, k, k).to(dtype), torch.from_numpy(squares.copy())
    )
    assert factors.tobytes() == expected.numpy().tobytes()
    assert report.arrays[2].stored == factors.nbytes


@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize(
    ("dtype", "number"), [(torch.float32, 0), (torch.bfloat16, 2), (torch.float64, 3)]
)
def test_small_matrix_ptx_has_the_bits_of_the_cpu(
    small_module: ptx.Module, dtype: torch.dtype, number: int, order: ptx.Order
) -> None:
    batch, m, n = 2, 45, 37
    bits: Any = {torch.float32: np.uint32, torch.bfloat16: np.uint16}.get(dtype, np.uint64)
    out = ptx.aligned(batch * m * n, bits)
    task = struct.pack(
        "<QiiqqqqQdiiI4x",
        *(out.ctypes.data, number, 0, batch, m * n, n, 1, KEY, 1.25, m, n, 0),
    )
    assert len(task) == TASK_BYTES
    tasks = struct.pack("<i4x", 1) + task + bytes((TASKS - 1) * TASK_BYTES)
    kernel = f"small_orthogonal_kernelI{'d' if dtype is torch.float64 else 'f'}"
    report = small_module.launch(kernel, batch * 2, 128, [tasks], visible=[out], order=order)
    assert report.races == 0, report.first_race
    assert (report.arrays[0].loaded, report.arrays[0].stored) == (0, out.nbytes)
    expected = torch.empty(batch, m, n, dtype=dtype)
    _ops.small_orthogonal_([expected], [KEY], [1.25])
    stored = {2: torch.int16, 4: torch.int32, 8: torch.int64}[out.itemsize]
    assert out.tobytes() == expected.view(stored).numpy().tobytes()


def test_a_step_of_a_panel_factor_waits_for_no_load() -> None:
    # Of the row that it adds: that is loaded a step before, so no load stands after the shuffle.
    cubin = build.extension_cubin(KERNELS, architecture="90")
    for name, listing in cubin.sass.items():
        if "panel_factors_kernel" not in name:
            continue
        steps = [loop for loop in listing.innermost_loops() if loop.count(r"SHFL\b")]
        assert len(steps) == 4  # groups of 32 columns
        for step in steps:
            order = [each.opcode.split(".")[0] for each in step.matching(r"(LDG|SHFL)\b")]
            assert order == sorted(order), (name, order)


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_machine_code_is_lean(architecture: str) -> None:
    # Each raises on spills and local memory.
    cubin = build.extension_cubin(KERNELS, architecture=architecture)
    small = build.extension_cubin(SMALL_KERNELS, architecture=architecture)
    assert len(cubin.sass) == 4
    assert len(small.sass) == 2
    for compiled in (cubin, small):
        for name, listing in compiled.sass.items():
            assert listing.local_memory == 0, name
            # 64: four blocks of 256 threads on every GPU; float64: at least two.
            wide = "kernelId" in name
            assert compiled.resources[name].registers <= (96 if wide else 64), name
            # Four blocks with their shared memory fit on every GPU (float64: one on sm_75).
            assert compiled.resources[name].shared_bytes <= (40_000 if wide else 20_000), name
            if "reflectors_kernel" in name:
                # The zeros before the reflector, and its elements.
                assert listing.widths("STG")[128] == (4 if wide else 2), name
                assert listing.count("LDG") == 0, name
