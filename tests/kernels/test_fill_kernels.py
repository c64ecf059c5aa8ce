"""The CUDA fill kernels without a GPU: source executed, PTX executed, machine code read."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from cuda_on_cpu import build, ptx
from cuda_on_cpu.sass import Listing
from cuda_on_cpu.toolkit import REPOSITORY
from initstats.init._distributions import DISTRIBUTIONS, Family

CSRC = REPOSITORY / "csrc"
NATIVE = REPOSITORY / "tests/kernels/native"
KERNELS = CSRC / "cuda/random/fill.cu"
KEY = 0x0123456789ABCDEF
THREADS, CHUNKS_PER_THREAD = 256, 4

FLOAT32, BFLOAT16 = "StoreFloat32", "RoundBFloat16"
EXAMPLES = [
    (family.name.removesuffix("_"), numbers)
    for family in DISTRIBUTIONS
    for numbers in family.examples.values()
]


def mangled(family: Family) -> str:
    """Return the mangled class of a distribution over float, as an argument of a template."""
    name = "".join(part.title() for part in family.name.split("_"))
    return f"INS_{len(name)}{name}IfEE"


def kernel(module: ptx.Module, *parts: str) -> str:
    """Return the mangled name of the one kernel for small batches that contains all parts."""
    found = [
        k
        for k in module.kernels
        if "run_kernel" in k and "Li4E" in k and all(p in k for p in parts)
    ]
    assert len(found) == 1, found
    return found[0]


def run_batch(
    out: np.ndarray[Any, Any], first_index: int, count: int, aligned: bool, dist: bytes
) -> bytes:
    """Return TaskBatch<RunHead, RunTask<Dist>, 4> with one task, as fill.cu lays it out."""
    task = struct.pack("<QQqqI?3x", out.ctypes.data, KEY, first_index, count, 0, aligned) + dist
    task += bytes(-len(task) % 8)
    return struct.pack("<ii", CHUNKS_PER_THREAD, 1) + task + bytes(3 * len(task))


def parameters_of(name: str, dtype: torch.dtype, numbers: Sequence[float]) -> bytes:
    """Return the distribution over float as the host prepares it."""
    program = build.compile_native([NATIVE / "distribution_parameters.cpp"], sanitize=False)
    arguments = [name, str(dtype).removeprefix("torch."), *map(str, numbers)]
    return bytes.fromhex(build.run_native(program, *arguments).stdout)


@pytest.fixture(scope="module")
def module() -> ptx.Module:
    """The kernels for small batches of float32 and bfloat16, from PTX."""
    only = [
        f"{mangled(family)}NS0_{store}"
        for family in DISTRIBUTIONS
        for store in ("12StoreFloat32ELi4E", "9StoreHalfINS0_13RoundBFloat16EEELi4E")
    ]
    return build.load_ptx(KERNELS, only=[f"fill_run_kernel{name}" for name in only])


@pytest.mark.long
@pytest.mark.parametrize(("name", "numbers"), EXAMPLES)
def test_executed_fill_kernels_give_the_bits_of_the_cpu_in_three_orders(
    name: str, numbers: Sequence[float]
) -> None:
    program = build.compile_native(
        [NATIVE / "fill_kernels_test.cpp", KERNELS, CSRC / "cpu/random/fill.cpp"],
        flags=["-DINITSTATS_CAPABILITY=baseline", "-DINITSTATS_BASELINE_ONLY"],
    )
    for output in build.run_in_three_orders(program, name, *map(str, numbers)):
        assert output == "all right\n"


@pytest.mark.parametrize("order", ptx.ORDERS)
@pytest.mark.parametrize("family", DISTRIBUTIONS, ids=lambda family: family.name)
@pytest.mark.parametrize("store", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize(
    ("count", "first_index", "aligned"),
    [
        (9003, 0, True),
        (9003, (1 << 34) - 4096, True),  # the quads' numbers outgrow 32 bits inside of a block
        (5000, 6, False),
    ],
)
def test_fill_ptx_writes_every_element_once_with_the_bits_of_the_cpu(
    module: ptx.Module,
    order: ptx.Order,
    family: Family,
    store: str,
    count: int,
    first_index: int,
    aligned: bool,
) -> None:
    dtype, chunk = (torch.float32, 4) if store == FLOAT32 else (torch.bfloat16, 8)
    bits: Any = np.uint32 if store == FLOAT32 else np.uint16
    numbers = next(iter(family.examples.values()))
    parameters = parameters_of(family.name.removesuffix("_"), dtype, numbers)
    out = ptx.aligned(count, bits)
    out[:] = 0xDEAD
    batch = run_batch(out, first_index, count, aligned, parameters)
    blocks = -(-count // (chunk * THREADS * CHUNKS_PER_THREAD))
    report = module.launch(
        kernel(module, mangled(family), store), blocks, THREADS, [batch], visible=[out], order=order
    )

    expected = torch.empty(count, dtype=dtype)
    family.op([expected], [KEY], *([number] for number in numbers), [first_index, 1 << 40])
    assert np.array_equal(
        out, expected.view(torch.int32 if bits is np.uint32 else torch.int16).numpy().view(bits)
    )
    assert report.races == 0
    assert (report.arrays[0].loaded, report.arrays[0].stored) == (0, count * out.itemsize)
    if aligned:
        wide = [
            a
            for a in report.accesses
            if a.kind == "store" and a.lanes and a.size_bytes // a.lanes == 16
        ]
        assert sum(a.lanes for a in wide) == count // chunk  # all but the last few elements
        assert sum(a.sectors for a in wide) == -(-(count // chunk) // 2)  # the ideal number


# Of full rows, on sm_90, per element; how: docs/explanation/cuda_without_gpu.md.
# With Philox alone a word takes 9 of them: 17 products and 18 exclusive ors per quad.
ISSUE_SLOTS = {
    ("7Uniform", FLOAT32): 18,
    ("7Uniform", BFLOAT16): 18,
    ("6Normal", FLOAT32): 48,
    ("6Normal", BFLOAT16): 47,
}


@pytest.mark.parametrize(("dist", "store"), ISSUE_SLOTS)
def test_fills_take_few_issue_slots(dist: str, store: str) -> None:
    loops = rows_of(build.extension_cubin(KERNELS, architecture="90"), dist, store)
    assert len(loops) == 2  # the two sizes of batch
    for loop in loops:
        slots = len(loop.common_path()) / (16 / (4 if store == FLOAT32 else 2))
        assert slots <= ISSUE_SLOTS[dist, store], (loop.name, slots)


def rows_of(cubin: build.Cubin, dist: str, store: str) -> list[Listing]:
    """Return the loops over full rows: no store in them is narrower than 16 bytes."""
    return [
        loop
        for name, listing in cubin.sass.items()
        if "fill_run_kernel" in name and f"{dist}If" in name and store in name
        for loop in listing.loops()
        if set(loop.widths("STG")) == {128}
    ]


@pytest.mark.parametrize("architecture", build.ARCHITECTURES)
def test_fill_machine_code_is_lean(architecture: str) -> None:
    cubin = build.extension_cubin(
        KERNELS, architecture=architecture
    )  # raises on spills and local memory
    runs = {name: listing for name, listing in cubin.sass.items() if "fill_run_kernel" in name}
    assert len(runs) == len(DISTRIBUTIONS) * 4 * 2  # distributions, storage types, sizes of batch
    for name, listing in runs.items():
        loop = listing.main_loop()
        assert loop.widths("STG")[128] == (2 if "StoreFloat64" in name else 1), name
        assert listing.count("LDG") == 0, name
        assert listing.local_memory == listing.generic_memory == 0, name
        # 64: four blocks of 256 threads on every GPU; float64 (76 on sm_100): three.
        wide = "StoreFloat64" in name
        assert cubin.resources[name].registers <= (80 if wide else 64), name
        # Calls of functions, such as division. (On sm_80 ptxas also makes its own convergence
        # blocks a CALL, to a label inside the kernel.)
        functions = [call for call in listing.matching(r"CALL\b") if "$" in call.text]
        if not wide:
            assert listing.fp64 == 0, name
            assert not functions, name
