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
FEW, RUNS, PAIRS = 4, (32764 - 16) // 48, (32764 - 16) // 56  # of a launch; differences
TILE_RECORD_BYTES = {torch.float32: 80, torch.float64: 112}  # by the type of the values
FLOATS = {
    "Float32Items": (torch.float32, np.float32),
    "BFloat16Items": (torch.bfloat16, np.uint16),
    "Float64Items": (torch.float64, np.float64),
}
INTEGERS = {
    "Int16Items": (torch.int16, np.int16),
    "Int32Items": (torch.int32, np.int32),
    "Int64Items": (torch.int64, np.int64),
}
ITEMS = FLOATS | INTEGERS
WIDE = (torch.float64, torch.int32, torch.int64)  # their values are float64
# What a thread reads at once, in bits, and in how many loads of them it reads a tile.
LOADS = {
    "Float32Items": (128, 8),
    "Float16Items": (128, 4),
    "BFloat16Items": (128, 4),
    "Float64Items": (128, 16),
    "Int16Items": (64, 8),
    "Int32Items": (64, 16),
    "Int64Items": (128, 16),
    "ByteItems": (32, 8),
}


def kernel(module: ptx.Module, *parts: str) -> str:
    """Return the mangled name of the one kernel that contains all parts."""
    found = [k for k in module.kernels if all(part in k for part in parts)]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def module() -> ptx.Module:
    """The kernels for small batches, and those of one size: of integers and of differences."""

    def kernels(of: dict[str, Any], rest: str) -> list[str]:
        return [f"stats_tile_kernelINS0_9RunLoaderINS0_{len(i)}{i}{rest}" for i in of]

    only = kernels(FLOATS, "ELb0EEELi4E") + kernels(FLOATS, "ELb1E") + kernels(INTEGERS, "ELb0E")
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
    scale = 2.0 if dtype.is_floating_point else 0.3 * 2 ** min(8 * dtype.itemsize - 1, 62) / 4
    values = (torch.randn(n, generator=torch.Generator().manual_seed(1)) * scale).to(dtype)
    values[77] = 0
    x = ptx.aligned(n, stored)
    x[:] = (values.view(torch.int16) if dtype == torch.bfloat16 else values).numpy().view(stored)
    real = torch.float64 if dtype in WIDE else torch.float32
    records = ptx.aligned(tiles * TILE_RECORD_BYTES[real], np.uint8)
    histogram = ptx.aligned(512, np.int64)
    histogram[:] = 0
    moments, counts = ptx.aligned(8, np.float64), ptx.aligned(8, np.int64)

    report = module.launch(
        kernel(module, "tile_kernel", f"{items}ELb0E"),
        2,
        THREADS,
        [
            tile_batch(
                (FEW if dtype.is_floating_point else RUNS, x),
                (n, records, histogram),
                fingerprint=True,
            )
        ],
        visible=[x, records, histogram],
        order=order,
    )
    assert report.races == 0, report.first_race
    assert report.arrays[0].loaded == x.nbytes
    assert report.arrays[0].stored == 0
    wide = loads_of_lanes(report, LOADS[items][0] // 8)
    assert sum(a.size_bytes for a in wide) >= 2 * TILE * x.itemsize  # all full tiles

    merge = struct.pack("<2Bxxii4x", True, True, 2, 1)
    merge_task = struct.pack(
        "<QqQqQQIi",
        *(records.ctypes.data, tiles, 0, n, moments.ctypes.data, counts.ctypes.data, 0, 1),
    )
    child = "TileRecordIdE" if dtype in WIDE else "TileRecordIfE"
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


@pytest.mark.parametrize("items", FLOATS)
def test_ptx_of_a_difference_reads_both_tensors_once_and_has_the_bits_of_the_cpu(
    module: ptx.Module, items: str
) -> None:
    dtype, stored = FLOATS[items]
    n = TILE + 1003
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(n, generator=generator).to(dtype) for _ in range(2)]
    x, y = (ptx.aligned(n, stored) for _ in values)
    for array, each in zip((x, y), values, strict=True):
        array[:] = (
            (each.view(torch.int16) if dtype == torch.bfloat16 else each).numpy().view(stored)
        )
    real = torch.float64 if dtype in WIDE else torch.float32
    records = ptx.aligned(2 * TILE_RECORD_BYTES[real], np.uint8)
    histogram = ptx.aligned(512, np.int64)
    histogram[:] = 0
    report = module.launch(
        kernel(module, "tile_kernel", f"{items}ELb1E"),
        1,
        THREADS,
        [tile_batch((PAIRS, x, y), (n, records, histogram), fingerprint=False)],
        visible=[x, y, records, histogram],
    )
    assert report.races == 0, report.first_race
    assert [array.loaded for array in report.arrays[:2]] == [x.nbytes, y.nbytes]
    wide = loads_of_lanes(report, 16)
    assert sum(a.size_bytes for a in wide) >= 2 * TILE * x.itemsize  # the full tile of each
    expected = _ops.stats(values[:1], 3, 0, minus=values[1:])[2].numpy()[0]
    assert histogram.tolist() == expected.tolist()


def loads_of_lanes(report: ptx.LaunchReport, size: int) -> list[ptx.AccessTraffic]:
    """Return the loads of so many bytes per lane."""
    loads = [a for a in report.accesses if a.kind == "load" and a.lanes]
    return [a for a in loads if a.size_bytes == size * a.lanes]


def tile_batch(tensors: tuple[Any, ...], rest: tuple[int, Any, Any], *, fingerprint: bool) -> bytes:
    """Return the parameters of the tile kernel for one tensor, two tiles per block.

    Args:
        tensors: Tasks of a batch, the tensor and, of a difference, the one to subtract.
        rest: Elements, records and histogram.
        fingerprint: Whether to take it.
    """
    batch, x, *minus = tensors
    n, records, histogram = rest
    pointers = x.ctypes.data, n, 0, records.ctypes.data, histogram.ctypes.data
    task = struct.pack("<QqqQQIi", *pointers, 0, -(-n // TILE))
    task += b"".join(struct.pack("<Q", y.ctypes.data) for y in minus)
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
    # Two sizes of batch, and differences; integers and bytes have one size.
    assert len(runs) == 4 * 3 + len(INTEGERS) + 1
    for name, listing in runs.items():
        difference = "ItemsELb1E" in name
        (items,) = (each for each in LOADS if f"{len(each)}{each}" in name)
        width, loads = LOADS[items]
        # All that a thread reads of a tile is on its way before it uses any of it.
        assert listing.widths("LDG")[width] >= loads * (1 + difference), name
        assert listing.loads_in_flight()[width] >= loads, name
        assert listing.local_memory == 0, name
        if items not in {"Float64Items", "Int32Items", "Int64Items"}:
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
            in_flight = listing.loads_in_flight()
            assert len(in_flight) >= 2, name  # widths of items
            assert min(in_flight.values()) >= ITEMS_AHEAD, (name, in_flight)
