"""The Dirac op and its kernels: bad input; source executed, PTX executed, machine code read.

The values that it writes are compared with torch's in tests/init/test_constant_fills.py.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch

import initstats
from cuda_on_cpu import build, ptx
from cuda_on_cpu.toolkit import REPOSITORY
from initstats import _ops

CSRC = REPOSITORY / "csrc"
NATIVE = REPOSITORY / "tests/kernels/native"
KERNELS = CSRC / "cuda/random/dirac.cu"
BITS = {"j": np.uint32, "t": np.uint16, "m": np.uint64}  # mangled names of the items' bits
THREADS = 128


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: _ops.dirac_([x], [3], [1.0]), "groups to divide the channels, 4, got 3"),
        (lambda x: _ops.dirac_([x], [0], [1.0]), "groups to divide the channels, 4, got 0"),
        (lambda x: _ops.dirac_([x], [1, 1], [1.0]), "groups and a value per tensor, 1"),
        (lambda x: _ops.dirac_([x[:, 0, 0]], [1], [1.0]), "at least 2 dimensions, got 1"),
        (lambda x: _ops.dirac_([x.permute(1, 0, 2)], [1], [1.0]), "expected a contiguous tensor"),
        (lambda x: _ops.dirac_([x.int()], [1], [1.0]), "expected dtype float16"),
    ],
)
def test_op_refuses_bad_input_before_anything_is_written(  # type: ignore[no-untyped-def]
    call, message: str, device: torch.device
) -> None:
    x = torch.zeros(4, 2, 3, device=device)
    with pytest.raises(RuntimeError, match=f"dirac_: .*{message}"):
        call(x)
    assert not x.any()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("value", [0.1, -3e-8, 70000.0, math.inf, math.nan])
def test_values_are_rounded_as_torch_rounds_them(
    dtype: torch.dtype, value: float, device: torch.device
) -> None:
    if dtype == torch.float16 and value == 70000.0:
        with pytest.raises(RuntimeError, match="cannot be converted to type c10::Half"):
            initstats.identity_(torch.empty(2, 2, dtype=dtype, device=device), value)
        return
    x = initstats.identity_(torch.empty(2, 2, dtype=dtype, device=device), value)
    expected = torch.zeros_like(x)
    expected.diagonal().fill_(value)
    assert torch.equal(x.isnan(), expected.isnan())
    assert torch.equal(x.nan_to_num(0.0), expected.nan_to_num(0.0))


def test_large_weights_are_cut_between_threads(set_thread_count) -> None:  # type: ignore[no-untyped-def]
    for threads in (1, 3):
        set_thread_count(threads)
        x = torch.full((300, 128, 3, 3), 7.0)
        assert torch.equal(initstats.dirac_(x, 3), torch.nn.init.dirac_(torch.empty_like(x), 3))


def test_executed_dirac_kernel_gives_the_bits_of_the_cpu_in_three_orders() -> None:
    program = build.compile_native(
        [
            NATIVE / "dirac_kernels_test.cpp",
            KERNELS,
            CSRC / "cpu/random/dirac.cpp",
        ],
        flags=["-DINITSTATS_CAPABILITY=baseline", "-DINITSTATS_BASELINE_ONLY"],
    )
    for output in build.run_in_three_orders(program):
        assert output == "all right\n"


@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("bits", BITS)
def test_dirac_ptx_writes_every_element_once(order: ptx.Order, bits: str) -> None:
    module = build.load_ptx(KERNELS)
    weight = torch.nn.init.dirac_(torch.empty(12, 5, 3, 7), 3)
    out: np.ndarray[Any, Any] = ptx.aligned(weight.numel(), BITS[bits])
    out[:] = 7
    dirac = struct.pack("<5q", 12, 4, 5, 21, 10)
    value = {2: "<H", 4: "<I", 8: "<Q"}[out.itemsize]
    (kernel,) = [k for k in module.kernels if f"dirac_kernelI{bits}E" in k]
    arguments = [dirac, struct.pack("<Q", out.ctypes.data), struct.pack(value, 99)]
    report = module.launch(kernel, 12, THREADS, arguments, visible=[out], order=order)
    assert np.array_equal(out, weight.numpy().ravel().astype(out.dtype) * 99)
    assert report.races == 0
    assert (report.arrays[0].loaded, report.arrays[0].stored) == (0, out.nbytes)


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_dirac_machine_code_is_lean(architecture: str) -> None:
    cubin = build.extension_cubin(KERNELS, architecture=architecture)  # raises on spills
    assert len(cubin.sass) == len(BITS)
    for name, listing in cubin.sass.items():
        assert listing.fp64 == listing.local_memory == listing.generic_memory == 0, name
        assert listing.count("LDG") == 0, name
        assert not [call for call in listing.matching(r"CALL\b") if "$" in call.text], name
        assert cubin.resources[name].registers <= 40, name
