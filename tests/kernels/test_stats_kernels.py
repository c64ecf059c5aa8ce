"""The CUDA statistics kernels without a GPU: source executed, PTX executed, machine code read."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch

from cuda_on_cpu import build, ptx
from cuda_on_cpu.sass import Listing
from cuda_on_cpu.toolkit import REPOSITORY
from initstats import _ops

CSRC = REPOSITORY / "csrc"
NATIVE = REPOSITORY / "tests/kernels/native"
KERNELS = CSRC / "cuda/stats/stats.cu"
THREADS, TILE = 128, 4096
ITEMS_AHEAD = 8  # of a box: loads on their way before a thread waits for the first
PAIRS = (32764 - 16) // 56  # differences of a launch
TILE_RECORD_BYTES = {"Float32Items": 80, "BFloat16Items": 80, "Float64Items": 112}
ITEMS = {
    "Float32Items": (torch.float32, np.float32),
    "BFloat16Items": (torch.bfloat16, np.uint16),
    "Float64Items": (torch.float64, np.float64),
}


def kernel(module: ptx.Module, *parts: str) -> str:
    """Return the mangled name of the one kernel that contains all parts."""
    found = [k for k in module.kernels if all(part in k for part in parts)]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def module() -> ptx.Module:
    """The kernels for small batches, and those of differences, which have one size of batch."""
    runs = [f"RunLoaderINS0_{len(items)}{items}" for items in ITEMS]
    only = [f"stats_tile_kernelINS0_9{run}ELb0EEELi4E" for run in runs]
    only += [f"stats_tile_kernelINS0_9{run}ELb1E" for run in runs]
    only += [f"stats_merge_kernelINS1_10TileRecordI{real}EELi4E" for real in "fd"]
    return build.load_ptx(KERNELS, only=only)


@pytest.mark.long
def test_executed_statistics_kernels_give_the_bits_of_the_cpu_in_three_orders() -> None:
    program = build.compile_native(
        [
            NATIVE / "stats_kernels_test.cpp",
            KERNELS,
            CSRC / "cpu/stats/stats.cpp",
        ],
        flags=["-DINITSTATS_CAPABILITY=baseline", "-DINITSTATS_BASELINE_ONLY"],
    )
    for output in build.run_in_three_orders(program):
        assert output == "all right\n"


@pytest.mark.long
@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("items", ITEMS)
def test_statistics_ptx_reads_every_element_once_and_has_the_bits_of_the_cpu(
    module: ptx.Module, items: str, order: ptx.Order
) -> None:
    dtype, stored = ITEMS[items]
    n = 2 * TILE + 1003
    tiles = 3
    values = (torch.randn(n, generator=torch.Generator().manual_seed(1)) * 2).to(dtype)
    values[77] = 0
    x = ptx.aligned(n, stored)
    x[:] = (values.view(torch.int16) if dtype == torch.bfloat16 else values).numpy().view(stored)
    records = ptx.aligned(tiles * TILE_RECORD_BYTES[items], np.uint8)
    histogram = ptx.aligned(512, np.int64)
    histogram[:] = 0
    moments, counts = ptx.aligned(8, np.float64), ptx.aligned(8, np.int64)

    report = module.launch(
        kernel(module, "tile_kernel", f"{items}ELb0E"),
        2,
        THREADS,
        [tile_batch(x, None, n, records, histogram, fingerprint=True)],
        visible=[x, records, histogram],
        order=order,
    )
    assert report.races == 0, report.first_race
    assert report.arrays[0].loaded == x.nbytes
    assert report.arrays[0].stored == 0
    wide = [
        a for a in report.accesses if a.kind == "load" and a.lanes and a.size_bytes == 16 * a.lanes
    ]
    assert sum(a.size_bytes for a in wide) >= 2 * TILE * x.itemsize  # all full tiles

    merge = struct.pack("<2Bxxii4x", True, True, 2, 1)
    merge_task = struct.pack(
        "<QqQqQQIi",
        *(records.ctypes.data, tiles, 0, n, moments.ctypes.data, counts.ctypes.data, 0, 1),
    )
    child = "TileRecordIdE" if dtype == torch.float64 else "TileRecordIfE"
    report = module.launch(
        kernel(module, "merge_kernel", child),
        1,
        THREADS,
        [merge + merge_task + bytes(3 * len(merge_task))],
        visible=[records, moments, counts],
        order=order,
    )
    assert report.races == 0, report.first_race
    expected: tuple[Any, ...] = tuple(rows.numpy()[0] for rows in _ops.stats([values], 7, 0))
    assert moments.tobytes() == expected[0].tobytes()
    assert counts.tolist() == expected[1].tolist()
    assert histogram.tolist() == expected[2].tolist()


@pytest.mark.parametrize("items", ITEMS)
def test_ptx_of_a_difference_reads_both_tensors_once_and_has_the_bits_of_the_cpu(
    module: ptx.Module, items: str
) -> None:
    dtype, stored = ITEMS[items]
    n = TILE + 1003
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(n, generator=generator).to(dtype) for _ in range(2)]
    x, y = (ptx.aligned(n, stored) for _ in values)
    for array, each in zip((x, y), values, strict=True):
        array[:] = (
            (each.view(torch.int16) if dtype == torch.bfloat16 else each).numpy().view(stored)
        )
    records = ptx.aligned(2 * TILE_RECORD_BYTES[items], np.uint8)
    histogram = ptx.aligned(512, np.int64)
    histogram[:] = 0
    report = module.launch(
        kernel(module, "tile_kernel", f"{items}ELb1E"),
        1,
        THREADS,
        [tile_batch(x, y, n, records, histogram, fingerprint=False)],
        visible=[x, y, records, histogram],
    )
    assert report.races == 0, report.first_race
    assert [array.loaded for array in report.arrays[:2]] == [x.nbytes, y.nbytes]
    wide = [
        a for a in report.accesses if a.kind == "load" and a.lanes and a.size_bytes == 16 * a.lanes
    ]
    assert sum(a.size_bytes for a in wide) >= 2 * TILE * x.itemsize  # the full tile of each
    expected = _ops.stats(values[:1], 3, 0, minus=values[1:])[2].numpy()[0]
    assert histogram.tolist() == expected.tolist()


def tile_batch(
    x: Any, minus: Any, n: int, records: Any, histogram: Any, *, fingerprint: bool
) -> bytes:
    """Return the parameters of the tile kernel for one tensor, two tiles per block."""
    task = struct.pack(
        "<QqqQQIi",
        x.ctypes.data,
        n,
        0,
        records.ctypes.data,
        histogram.ctypes.data,
        0,
        -(-n // TILE),
    )
    batch = 4
    if minus is not None:
        task += struct.pack("<Q", minus.ctypes.data)
        batch = PAIRS
    head = struct.pack("<3Bxiii", True, True, fingerprint, 0, 2, 1)  # groups, tiles, tasks
    return head + task + bytes((batch - 1) * len(task))


# Of a full tile on sm_90, per element; how: docs/explanation/cuda_without_gpu.md. What the groups
# and a tile with zeros take is in addition to the moments.
FULL_TILE = (r"LDG\.E\.128", r"STG\.E\.128")  # its loads, and its record
GROUPS = {
    "histogram": (r"ATOMS",),
    "fingerprint": (r"IMAD.*-0x3361d2af",),  # kMixMultiplier
    "zeros": (r"REDUX\.SUM",),  # their count
}
ISSUE_SLOTS = {
    "Float32Items": {"moments": 20, "histogram": 5.5, "fingerprint": 8.5, "zeros": 4},
    "BFloat16Items": {"moments": 24, "histogram": 5.5, "fingerprint": 9, "zeros": 4},
}


@pytest.mark.parametrize("items", ISSUE_SLOTS)
def test_statistics_take_few_issue_slots(items: str) -> None:
    cubin = build.extension_cubin(KERNELS, architecture="90")
    loops = [listing.main_loop() for name, listing in cubin.sass.items() if f"{items}ELb0E" in name]
    assert len(loops) == 2  # the two sizes of batch
    for loop in loops:
        slots = slots_per_element(loop)
        bounds = ISSUE_SLOTS[items]
        assert slots.keys() == bounds.keys()
        assert all(slots[part] <= bounds[part] for part in bounds), (loop.name, slots)


def slots_per_element(loop: Listing) -> dict[str, float]:
    """Return the issue slots of a full tile's moments, and what each group adds to them."""
    elements = TILE / THREADS
    moments = len(loop.cheapest_pass(*FULL_TILE)) / elements
    return {"moments": moments} | {
        group: len(loop.cheapest_pass(*FULL_TILE, *patterns)) / elements - moments
        for group, patterns in GROUPS.items()
    }


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_statistics_machine_code_is_lean(architecture: str) -> None:
    cubin = build.extension_cubin(KERNELS, architecture=architecture)  # raises on spills
    runs = {name: listing for name, listing in cubin.sass.items() if "RunLoader" in name}
    assert len(runs) == 4 * 3 + 1  # storage types; two sizes of batch, and differences; bytes
    for name, listing in runs.items():
        difference = "ItemsELb1E" in name
        if "ByteItems" in name:
            assert listing.widths("LDG")[32] == 8, name  # four items each: all 32 of a thread
        else:
            loads = 16 if "Float64Items" in name else 8 if "Float32Items" in name else 4
            assert listing.widths("LDG")[128] == loads * (1 + difference), name
        assert listing.local_memory == 0, name
        if "Float64Items" not in name:
            assert listing.fp64 == 0, name
            # One call: the rare cases of the division in masked_mean. For sm_75 and sm_80 ptxas
            # adds a twin of the code for warps that have diverged, with a call per shuffle.
            assert architecture in {"75", "80"} or listing.calls <= 1, name
            # Four blocks of 128 threads, or three.
            assert cubin.resources[name].registers <= (168 if difference else 128), name
        else:
            assert cubin.resources[name].registers <= 255, name  # two
    for name, listing in cubin.sass.items():
        assert listing.local_memory == 0, name
        if "BoxLoader" in name:
            assert most_loads_ahead(listing) >= ITEMS_AHEAD, name


def most_loads_ahead(listing: Listing) -> int:
    """Return the most loads from global memory without a store to shared memory between them."""
    codes = [i.opcode.split(".")[0] for i in listing.matching(r"(LDG|STS)\b")]
    return max(len(run) for run in "".join(code[0] for code in codes).split("S"))
