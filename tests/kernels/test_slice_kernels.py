"""The CUDA kernels of slice statistics without a GPU: executed, from PTX, machine code read."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from cuda_on_cpu import build, ptx
from cuda_on_cpu.mangled import find_kernel
from cuda_on_cpu.toolkit import REPOSITORY
from initstats import _ops

CSRC = REPOSITORY / "csrc"
NATIVE = REPOSITORY / "tests/kernels/native"
KERNELS = CSRC / "cuda/stats/slice_stats.cu"
ITEMS_AHEAD = 8  # loads on their way before a thread waits for the first
FLOAT32 = 0
GROUP_THREADS, MERGE_THREADS, GROUP, RECORD_BYTES = 128, 128, 256, 104


def test_executed_slice_kernels_give_the_bits_of_the_cpu_in_three_orders() -> None:
    program = build.compile_native(
        [
            NATIVE / "slice_kernels_test.cpp",
            KERNELS,
            CSRC / "cpu/stats/slice_stats.cpp",
        ],
        flags=["-DINITSTATS_CAPABILITY=baseline", "-DINITSTATS_BASELINE_ONLY"],
    )
    for output in build.run_in_three_orders(program):
        assert output == "all right\n"


def layout(count: int, stride: int) -> bytes:
    """Return a Layout of one dimension."""
    head = struct.pack("<qqi4x", count, 0, 1)
    return head + b"".join(struct.pack("<q", first) + bytes(7 * 8) for first in (count, stride, 1))


# Up to sm_80 loads end in a barrier of the warp: end_of_loads in csrc/cuda/stats/stats_load.cuh.
@pytest.mark.parametrize("architecture", ["80", "90"])
@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("along_elements", [False, True])
def test_slice_ptx_reads_every_element_once_and_has_the_bits_of_the_cpu(
    along_elements: bool, order: ptx.Order, architecture: str
) -> None:
    slices, count = 37, 300
    groups = -(-count // GROUP)
    shape = (slices, count) if along_elements else (count, slices)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x = ptx.aligned(values.numel(), np.float32)
    x[:] = values.numpy().reshape(-1)
    moments, counts = ptx.aligned(slices * 8, np.float64), ptx.aligned(slices * 8, np.int64)
    records = ptx.aligned(groups * slices * RECORD_BYTES, np.uint8)
    task = struct.pack("<Qi4x", x.ctypes.data, FLOAT32)
    task += layout(slices, count if along_elements else 1)
    task += layout(count, 1 if along_elements else slices)
    task += struct.pack("<QQ", moments.ctypes.data, counts.ctypes.data)
    task += struct.pack("<Qqq?7x", records.ctypes.data, groups, 2, along_elements)

    module = build.load_ptx(KERNELS, architecture=architecture)
    report = module.launch(
        find_kernel(module.kernels, "slice_group_kernelINS_8Scalar32"),
        1,
        GROUP_THREADS,
        [task],
        visible=[x, records],
        order=order,
    )
    assert report.races == 0, report.first_race
    assert report.arrays[0].loaded == x.nbytes
    assert report.arrays[1].stored == records.nbytes
    report = module.launch(
        find_kernel(module.kernels, "slice_merge_kernel"),
        1,
        MERGE_THREADS,
        [task],
        visible=[records, moments, counts],
        order=order,
    )
    assert report.races == 0, report.first_race
    assert report.arrays[0].loaded == records.nbytes
    expected = _ops.slice_stats(values if along_elements else values.t(), 1)
    assert moments.tobytes() == expected[0].numpy().tobytes()
    assert counts.tobytes() == expected[1].numpy().tobytes()


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_slice_machine_code_is_lean(architecture: str) -> None:
    cubin = build.extension_cubin(KERNELS, architecture=architecture)  # raises on spills
    assert len(cubin.sass) == 3
    for name, listing in cubin.sass.items():
        assert listing.local_memory == 0, name
        assert cubin.resources[name].registers <= 128, name
        if "group_kernel" in name:
            loads = listing.loads_in_flight()
            assert len(loads) >= 2, name  # widths of items
            assert min(loads.values()) >= ITEMS_AHEAD, (name, loads)


def test_slices_of_float32_are_read_in_few_issue_slots() -> None:
    cubin = build.extension_cubin(KERNELS, architecture="90")
    (kernel,) = (code for name, code in cubin.sass.items() if "group_kernelINS_8Scalar32" in name)
    (loop,) = (each for each in kernel.loops() if each.widths("LDG") == {32: ITEMS_AHEAD})
    # All of the loop, whose type is known; with a question per item it was 105.
    assert len(loop) / ITEMS_AHEAD <= 34
