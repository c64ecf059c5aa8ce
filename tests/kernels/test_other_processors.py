"""Other processors, executed by qemu, make the same bits: aarch64, x86-64 without AVX and FMA."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from functools import partial

import pytest
import torch

import golden
from cross_compiled import AARCH64, QEMU_AARCH64, program, run
from initstats import key_of
from initstats.init._distributions import DISTRIBUTIONS

SOURCE = "kernel_bits.cpp"
# The compiler, and the processor. A Nehalem of 2008 stops at any instruction of AVX or FMA.
PROCESSORS = {
    "aarch64": (AARCH64, [QEMU_AARCH64]),
    "x86-64-v2": ("g++", ["qemu-x86_64", "-cpu", "Nehalem"]),
}
TYPES = ["float16", "bfloat16", "float32", "float64"]
COUNT = 10_007  # of a golden row

pytestmark = [pytest.mark.backends("cpu"), pytest.mark.long]


@pytest.fixture(scope="module", params=PROCESSORS)
def other(request: pytest.FixtureRequest) -> partial[bytes]:
    """The program under qemu; skip without it, but fail where CI promises it."""
    compiler, qemu = PROCESSORS[request.param]
    if missing := [tool for tool in (compiler, qemu[0]) if shutil.which(tool) is None]:
        assert os.environ.get("INITSTATS_REQUIRE_AARCH64") != "1", f"{missing} is not installed"
        pytest.skip(f"{', '.join(missing)} is not installed")
    if compiler == "g++" and platform.machine() != "x86_64":
        pytest.skip("g++ compiles for another processor")
    return partial(run, *qemu, program(compiler, SOURCE))


@pytest.fixture(scope="module")
def here() -> partial[bytes]:
    """The same program for this processor."""
    return partial(run, program("g++", SOURCE))


@pytest.mark.parametrize("dtype", TYPES)
def test_fills_have_the_golden_bits(other: partial[bytes], dtype: str) -> None:
    rows = golden.golden_hashes()
    key = f"{key_of(2026, 'golden'):x}"
    for family in DISTRIBUTIONS:
        for label, numbers in family.examples.items():
            stem = family.name.removesuffix("_")
            data = other("fill", stem, dtype, str(COUNT), key, *map(str, numbers))
            row = golden.row(label, getattr(torch, dtype))
            assert hashlib.sha256(data).hexdigest() == rows[row], row


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", ["1", "4097", "200003"])
def test_records_have_the_bits_of_this_processor(
    other: partial[bytes], here: partial[bytes], count: str, dtype: str
) -> None:
    bits = other("stats", dtype, count, "7")
    assert len(bits) > 1000
    assert bits == here("stats", dtype, count, "7")


@pytest.mark.parametrize("dtype", TYPES)
def test_small_orthogonal_matrices_have_the_bits_of_this_processor(
    other: partial[bytes], here: partial[bytes], dtype: str
) -> None:
    for side in ("1", "5", "32", "128"):
        assert other("orthogonal", dtype, side, "9") == here("orthogonal", dtype, side, "9")
