"""The math layer alone, in C++: the bounds that its comments state."""

from __future__ import annotations

import pytest

from cuda_on_cpu import build
from cuda_on_cpu.toolkit import REPOSITORY


@pytest.mark.parametrize("sanitize", [False, True])
def test_special_functions_keep_the_bounds_they_state(sanitize: bool) -> None:
    program = build.compile_native(
        [REPOSITORY / "tests/kernels/native/special_test.cpp"], sanitize=sanitize
    )
    done = build.run_native(program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 8
    assert "WRONG" not in done.stdout
