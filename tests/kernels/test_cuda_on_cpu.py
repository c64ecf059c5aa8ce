"""The CPU executors themselves: right kernels pass in every order, planted bugs are seen."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest

from cuda_on_cpu import build, ptx
from cuda_on_cpu.toolkit import HERE

KERNELS = HERE / "example_kernels.cu"
SOURCES = [HERE / "example_test.cpp", KERNELS]
GRID, BLOCK, COUNT = 8, 256, 20_003
BINS = 101
in_each_order = pytest.mark.parametrize("order", ptx.ORDERS)


def numbers(count: int = COUNT) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return standard normal numbers, aligned as device memory is."""
    x = ptx.aligned(count, np.float32)
    x[:] = np.random.default_rng(7).standard_normal(count)
    return x


def run_natively(
    define: str, *cases: str, order: ptx.Order = "forward"
) -> subprocess.CompletedProcess[str]:
    """Run cases of example_test.cpp with a bug planted."""
    executable = build.compile_native(SOURCES, kernel_flags=[define])
    return build.run_native(executable, *cases, order=order)


def launch_sum(
    define: str = "", order: ptx.Order = "forward"
) -> tuple[ptx.LaunchReport, np.ndarray[Any, np.dtype[np.float32]]]:
    """Run sum_kernel from its PTX."""
    module = build.load_ptx(KERNELS, flags=[define] if define else [])
    sums = ptx.aligned(GRID, np.float32)
    report = module.launch(
        "sum_kernel", GRID, BLOCK, [numbers(), sums, np.int64(COUNT)], order=order
    )
    return report, sums


def launch_histogram(define: str = "", order: ptx.Order = "forward") -> np.ndarray[Any, Any]:
    """Run histogram_kernel from its PTX."""
    module = build.load_ptx(KERNELS, flags=[define] if define else [])
    bins = ptx.aligned(BINS, np.uint32)
    shape = [np.int64(COUNT), np.int32(BINS), np.float32(-2), np.float32(BINS / 4)]
    report = module.launch(
        "histogram_kernel",
        GRID,
        BLOCK,
        [numbers(), bins, *shape],
        shared_bytes=4 * BINS,
        order=order,
    )
    assert report.races == 0, report.first_race
    return bins


# ---- the source executor


@pytest.mark.parametrize("sanitize", [True, False])
def test_source_executor_runs_the_examples_right_in_three_orders(sanitize: bool) -> None:
    outputs = build.run_in_three_orders(build.compile_native(SOURCES, sanitize=sanitize))
    for output in outputs:
        assert output.count(": right\n") == 6
        assert "WRONG" not in output


def test_source_executor_shows_a_missing_barrier_in_some_order() -> None:
    results = [run_natively("-DBUG_MISSING_BARRIER", "sum", order=order) for order in ptx.ORDERS]
    # Shared memory starts as NaN, so what was read too early cannot add up.
    assert any("sum: WRONG" in result.stdout for result in results)


@in_each_order
@pytest.mark.parametrize(
    ("define", "case", "message"),
    [
        ("-DBUG_DIVERGENT_SHUFFLE", "sum", "deadlock (divergent barrier or warp collective)"),
        ("-DBUG_DIVERGENT_BARRIER", "histogram", "wait at different barriers"),
        ("-DBUG_MISALIGNED", "sum", "misaligned"),
        ("-DBUG_OUT_OF_BOUNDS", "sum", "heap-buffer-overflow"),
        ("-DBUG_OFF_BY_ONE", "histogram", "AddressSanitizer"),
    ],
)
def test_source_executor_reports(define: str, case: str, message: str, order: ptx.Order) -> None:
    result = run_natively(define, case, order=order)
    assert result.returncode != 0
    assert message in result.stderr


def test_source_executor_recovers_after_a_failed_launch() -> None:
    # Blocks of the same shape: the threads of the failed launch must not be taken over.
    result = run_natively("-DBUG_DIVERGENT_BARRIER", "histogram", "sum")
    assert result.stdout == "histogram: WRONG\nsum: right\n", result.stderr


def test_an_unknown_order_is_refused() -> None:
    executable = build.compile_native(SOURCES)
    result = build.run_native(executable, order="sideways")  # type: ignore[arg-type]
    assert result.returncode != 0
    assert "expected INITSTATS_CUDA_ON_CPU_ORDER forward, reverse or random" in result.stderr


# ---- the PTX executor


@in_each_order
def test_ptx_sum_is_right_and_reads_every_byte_once(order: ptx.Order) -> None:
    report, sums = launch_sum(order=order)
    assert report.races == 0, report.first_race
    # Pairwise-like summation of n numbers: far below n / 8 additions times half an ulp of the sums.
    assert abs(float(sums.sum(dtype=np.float64)) - numbers().sum(dtype=np.float64)) < 1e-3
    assert report.arrays[0] == ptx.ArrayTraffic(loaded=4 * COUNT, stored=0, atomic=0)
    assert report.arrays[1] == ptx.ArrayTraffic(loaded=0, stored=4 * GRID, atomic=0)
    assert report.loaded_sectors == -(-4 * COUNT // 32)
    widest = max(report.accesses, key=lambda access: access.size_bytes)
    assert widest.sectors == widest.size_bytes // 32, "loads are not coalesced"


@in_each_order
def test_ptx_histogram_is_right(order: ptx.Order) -> None:
    index = np.floor((numbers() + np.float32(2)) * np.float32(BINS / 4)).astype(int)
    expected = np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)
    np.testing.assert_array_equal(launch_histogram(order=order), expected)


@in_each_order
def test_ptx_philox_gives_the_known_answer(order: ptx.Order) -> None:
    out = ptx.aligned(4, np.float32)
    arguments = [out, np.int64(1), np.uint64(0), np.uint64(0)]
    build.load_ptx(KERNELS).launch("philox_kernel", 1, BLOCK, arguments, order=order)
    # Random123's known answer for philox4x32-10 with key 0 and counter 0.
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint32)
    np.testing.assert_array_equal(out, (words >> 8).astype(np.float32) * np.float32(2**-24))


@pytest.mark.parametrize("name", ["table_kernel", "table_reference_kernel"])
def test_ptx_reads_a_large_parameter_struct_in_place(name: str) -> None:
    outputs = [ptx.aligned(64, np.float64) for _ in range(4)]
    values = np.arange(4091, dtype=np.float64)
    table = np.array([o.ctypes.data for o in outputs], np.uint64).tobytes() + values.tobytes()
    module = build.load_ptx(KERNELS)
    module.launch(name, 4091, 64, [table], visible=outputs, order="random")
    for k, output in enumerate(outputs):
        np.testing.assert_array_equal(output, values[k::4].sum())
    with pytest.raises(ptx.KernelError, match="access out of bounds"):
        module.launch(name, 4092, 64, [table], visible=outputs)
    with pytest.raises(TypeError, match="expected 32760 bytes for argument 0 of"):
        module.launch(name, 1, 64, [table[:-8]])


@in_each_order
def test_ptx_atomics_and_shuffles_of_64_bits_are_right(order: ptx.Order) -> None:
    x = ptx.aligned(GRID * 96, np.uint32)
    x[:] = np.random.default_rng(11).integers(2**31, size=x.size, dtype=np.uint32)
    fields = ["sum", "mixed", "bits", "double_sum", "minimum", "maximum"]
    formats = ["u8", "u8", "u8", "f8", "i4", "u4"]
    results = ptx.aligned(1, np.dtype({"names": fields, "formats": formats}))
    results["minimum"] = 2**31 - 1
    build.load_ptx(KERNELS).launch("atomics_kernel", GRID, 96, [x, results], order=order)
    values = [int(v) for v in x]
    mixed = 0
    for value in values:
        mixed ^= value << 32 | (32 - value.bit_length())
    expected = (
        sum(values) << 20,
        mixed,
        sum(value.bit_count() for value in values),
        float(sum(values)),
        min(values),
        max(values),
    )
    assert tuple(results[0]) == expected


def test_ptx_rounds_to_16_bits_as_numpy_does() -> None:
    x = numbers(256)
    x[:4] = [65520.0, 65519.0, 2.0**-25, 1.0 + 2.0**-11]
    halves, bfloats = ptx.aligned(256, np.float32), ptx.aligned(256, np.float32)
    build.load_ptx(KERNELS).launch("halves_kernel", 4, 64, [x, halves, bfloats])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(halves, x.astype(np.float16).astype(np.float32))
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)
    np.testing.assert_array_equal(bfloats.view(np.uint32), rounded.astype(np.uint32))


@in_each_order
def test_ptx_executor_reports_a_missing_barrier_as_a_race(order: ptx.Order) -> None:
    report, _ = launch_sum("-DBUG_MISSING_BARRIER", order)
    assert report.races > 0
    assert "example_kernels.cu:" in report.first_race


@in_each_order
@pytest.mark.parametrize(
    ("define", "message"),
    [
        ("-DBUG_DIVERGENT_SHUFFLE", "deadlock"),
        ("-DBUG_MISALIGNED", r"misaligned address in ld\.global"),
        ("-DBUG_OUT_OF_BOUNDS", r"global access out of bounds in ld\.global"),
    ],
)
def test_ptx_executor_reports(define: str, message: str, order: ptx.Order) -> None:
    with pytest.raises(ptx.KernelError, match=message):
        launch_sum(define, order)


@in_each_order
def test_ptx_executor_reports_an_off_by_one_in_shared_memory(order: ptx.Order) -> None:
    with pytest.raises(ptx.KernelError, match=r"shared access out of bounds in atom|in red"):
        launch_histogram("-DBUG_OFF_BY_ONE", order)


def test_ptx_executor_recovers_after_a_fault() -> None:
    module = build.load_ptx(KERNELS, flags=["-DBUG_DIVERGENT_SHUFFLE"])
    sums, out = ptx.aligned(GRID, np.float32), ptx.aligned(4 * BLOCK, np.float32)
    with pytest.raises(ptx.KernelError):
        module.launch("sum_kernel", GRID, BLOCK, [numbers(), sums, np.int64(COUNT)])
    module.launch("philox_kernel", 1, BLOCK, [out, np.int64(BLOCK), np.uint64(0), np.uint64(0)])
    assert np.count_nonzero(out) > 4 * BLOCK - 2


def test_ptx_executor_loads_the_kernels_asked_for() -> None:
    module = build.load_ptx(KERNELS, only=["philox_kernel", "sum_kernel"])
    assert len(module.kernels) == 2
    with pytest.raises(KeyError, match="expected one kernel named like 'table_kernel'"):
        module.launch("table_kernel", 1, 1, [])


def test_unknown_ptx_is_an_error() -> None:
    text = build.compile_ptx(KERNELS).read_text()
    with pytest.raises(ptx.UnsupportedPtxError, match=r"PTX line \d+: .*: unsupported: frobnicate"):
        ptx.Module(text.replace("shfl.sync", "frobnicate.sync"))
