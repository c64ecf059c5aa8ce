"""Fused multiply-adds on x86-64 without FMA: the emulation's bits are the C library's."""

from __future__ import annotations

import platform

import pytest

from cuda_on_cpu import build
from cuda_on_cpu.toolkit import REPOSITORY

SOURCE = REPOSITORY / "tests/kernels/native/fma_test.cpp"

pytestmark = [
    pytest.mark.backends("cpu"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="made of SSE2"),
]


def test_emulated_fma_has_the_bits_of_the_c_library() -> None:
    done = build.run_native(build.compile_native([SOURCE], sanitize=False))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 13
    assert "WRONG" not in done.stdout
