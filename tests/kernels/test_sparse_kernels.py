"""The CUDA sparse kernel without a GPU: source executed, PTX executed, machine code read."""

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
KERNELS = CSRC / "cuda/random/sparse.cu"
KEY, THREADS = 0x0123456789ABCDEF, 64
BITS = {"j": np.uint32, "t": np.uint16, "m": np.uint64}  # mangled names of the items' bits
DTYPES = {"j": torch.float32, "t": torch.bfloat16, "m": torch.float64}


def test_executed_sparse_kernel_gives_the_bits_of_the_cpu_in_three_orders() -> None:
    sources = [
        KERNELS,
        CSRC / "cuda/random/fill.cu",
        CSRC / "cpu/random/sparse.cpp",
        CSRC / "cpu/random/fill.cpp",
    ]
    program = build.compile_native(
        [NATIVE / "sparse_kernels_test.cpp", *sources],
        flags=["-DINITSTATS_CAPABILITY=baseline", "-DINITSTATS_BASELINE_ONLY"],
    )
    for output in build.run_in_three_orders(program):
        assert output == "all right\n"


@pytest.fixture(scope="module")
def module() -> ptx.Module:
    return build.load_ptx(KERNELS)


@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("top", "left"), [(0, 0), (5, 3)])
def test_sparse_ptx_writes_the_zeros_of_the_cpu_and_nothing_else(
    module: ptx.Module, order: ptx.Order, bits: str, top: int, left: int
) -> None:
    rows, columns, logical, zeros = 12, 90, (20, 101), 13
    box = [top, left, *logical]
    expected = torch.empty(rows, columns, dtype=DTYPES[bits])
    _ops.sparse_([expected], [KEY], [1.0], [zeros], box)
    out: np.ndarray[Any, Any] = ptx.aligned(rows * columns, BITS[bits])
    out[:] = 7
    item = {4: 0, 2: 2, 8: 3}[out.itemsize]
    target = struct.pack(
        "<QixxxxQ9q",
        out.ctypes.data,
        item,
        KEY,
        rows,
        columns,
        columns,
        1,
        top,
        left,
        *logical,
        zeros,
    )
    (kernel,) = [k for k in module.kernels if f"sparse_zeros_kernelI{bits}E" in k]
    quads = (left + columns + 3) // 4 - left // 4
    report = module.launch(
        kernel, -(-quads // THREADS), THREADS, [target], visible=[out], order=order
    )
    is_zero = (expected == 0).numpy().ravel()
    assert np.array_equal(out == 0, is_zero)
    assert (out[~is_zero] == 7).all()
    assert report.races == 0
    assert (report.arrays[0].loaded, report.arrays[0].stored) == (0, is_zero.sum() * out.itemsize)


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_sparse_machine_code_is_lean(architecture: str) -> None:
    cubin = build.extension_cubin(KERNELS, architecture=architecture)  # raises on spills
    listings = {name: code for name, code in cubin.sass.items() if "sparse_zeros_kernel" in name}
    assert len(listings) == len(BITS)
    for name, listing in listings.items():
        assert listing.fp64 == listing.local_memory == listing.generic_memory == 0, name
        assert listing.count("LDG") == 0, name
        assert not [call for call in listing.matching(r"CALL\b") if "$" in call.text], name
        assert cubin.resources[name].registers <= 64, name
