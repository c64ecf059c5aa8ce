"""Another processor: the CPU kernels for aarch64, executed by qemu, make the bits of x86."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

import golden
from initstats import key_of
from initstats.init._distributions import DISTRIBUTIONS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests/support/kernel_bits.cpp"
CROSS, QEMU = "aarch64-linux-gnu-g++", "qemu-aarch64"
TYPES = ["float16", "bfloat16", "float32", "float64"]
COUNT = 10_007  # of a golden row
# As csrc/build/compile.py compiles the baseline.
FLAGS = "-std=c++17 -O3 -ffp-contract=off -DINITSTATS_BASELINE_ONLY"

pytestmark = [pytest.mark.backends("cpu"), pytest.mark.long]


def run(*command: str | Path) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def program(compiler: str) -> Path:
    """Compile the kernels and the program that prints their bits, once per state of the sources."""
    text = b"".join(path.read_bytes() for path in sorted((ROOT / "csrc").rglob("*.[ch]*")))
    mark = hashlib.sha256(text + SOURCE.read_bytes() + FLAGS.encode()).hexdigest()[:16]
    folder = ROOT / f"build/test-cache/kernel_bits-{compiler}-{mark}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "kernel_bits").exists():
            compile_program(compiler, folder)
    return folder / "kernel_bits"


def compile_program(compiler: str, folder: Path) -> None:
    flags = [*FLAGS.split(), f"-I{ROOT / 'csrc'}"]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        capability = [] if source.stem == "dispatch" else ["-DINITSTATS_CAPABILITY=baseline"]
        run(compiler, *flags, *capability, "-c", source, "-o", target)
        return target

    sources = [*(ROOT / "csrc/cpu").rglob("*.cpp"), SOURCE]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    run(compiler, "-static", *objects, "-o", folder / "unfinished")
    (folder / "unfinished").rename(folder / "kernel_bits")


@pytest.fixture(scope="module")
def aarch64() -> partial[bytes]:
    """The program under qemu; skip without it, but fail where CI promises it."""
    if missing := [tool for tool in (CROSS, QEMU) if shutil.which(tool) is None]:
        assert os.environ.get("INITSTATS_REQUIRE_AARCH64") != "1", f"{missing} is not installed"
        pytest.skip(f"{', '.join(missing)} is not installed")
    return partial(run, QEMU, program(CROSS))


@pytest.fixture(scope="module")
def here() -> partial[bytes]:
    """The same program for this processor."""
    return partial(run, program("g++"))


@pytest.mark.parametrize("dtype", TYPES)
def test_fills_have_the_golden_bits(aarch64: partial[bytes], dtype: str) -> None:
    rows = golden.golden_hashes()
    key = f"{key_of(2026, 'golden'):x}"
    for family in DISTRIBUTIONS:
        for label, numbers in family.examples.items():
            stem = family.name.removesuffix("_")
            data = aarch64("fill", stem, dtype, str(COUNT), key, *map(str, numbers))
            row = golden.row(label, getattr(torch, dtype))
            assert hashlib.sha256(data).hexdigest() == rows[row], row


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", ["1", "4097", "200003"])
def test_records_have_the_bits_of_this_processor(
    aarch64: partial[bytes], here: partial[bytes], count: str, dtype: str
) -> None:
    bits = aarch64("stats", dtype, count, "7")
    assert len(bits) > 1000
    assert bits == here("stats", dtype, count, "7")


@pytest.mark.parametrize("dtype", TYPES)
def test_small_orthogonal_matrices_have_the_bits_of_this_processor(
    aarch64: partial[bytes], here: partial[bytes], dtype: str
) -> None:
    for side in ("1", "5", "32", "128"):
        assert aarch64("orthogonal", dtype, side, "9") == here("orthogonal", dtype, side, "9")
