"""A guard on speed that no load disturbs: instructions per element, within 3 % of the file."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

import pytest

import instruction_counts as counting

COMMITTED = json.loads(counting.FILE.read_text())
REQUIRED = os.environ.get("INITSTATS_REQUIRE_VALGRIND") == "1"
TOLERANCE = 0.03

pytestmark = pytest.mark.skipif(
    not REQUIRED and (platform.machine() != "x86_64" or shutil.which("valgrind") is None),
    reason="needs valgrind on x86-64",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that runs the kernels."""
    require_toolchain("compiler")
    return counting.compiled(tmp_path_factory.mktemp("kernels"))


def require_toolchain(*parts: str) -> None:
    """Skip where other versions than those of the committed counts make other code."""
    here, there = counting.toolchain(), COMMITTED["toolchain"]
    other = [f"{part} {here[part]}, counted with {there[part]}" for part in parts]
    if not REQUIRED and any(here[part] != there[part] for part in parts):
        pytest.skip("; ".join(other))


def changes(kind: str, counts: counting.Counts) -> list[str]:
    """Describe each count that is not within 3 % of the committed one."""
    before = COMMITTED["counts"][kind]
    return [
        f"{name} ({kind}): {now:g}, committed {before[name]:g} ({now / before[name] - 1:+.1%}); "
        "if that is meant, `make instructions` writes the new count: tell why in the commit"
        for name, now in counts.items()
        if abs(now / before[name] - 1) > TOLERANCE
    ]


@pytest.mark.parametrize("capability", counting.COUNT)
def test_kernels_take_as_many_instructions_as_before(program: Path, capability: str) -> None:
    if not counting.offers(program, capability):
        pytest.skip(f"this processor has no {capability}: its kernels are not counted")
    counts = counting.COUNT[capability](program, capability)
    assert counts.keys() == COMMITTED["counts"][capability].keys()
    found = changes(capability, counts)
    assert not found, "\n".join(found)


@pytest.mark.long
def test_kernels_for_aarch64_take_as_many_instructions_as_before() -> None:
    if not counting.can_count_for_aarch64():
        assert os.environ.get("INITSTATS_REQUIRE_AARCH64") != "1", "no cross compiler or no qemu"
        pytest.skip("needs a cross compiler and qemu for aarch64")
    require_toolchain("cross_compiler")
    counts = counting.count_by_qemu(counting.compiled_for_aarch64())
    assert counts.keys() == COMMITTED["counts"]["aarch64"].keys()
    found = changes("aarch64", counts)
    assert not found, "\n".join(found)


def test_stepping_counts_what_callgrind_counts(program: Path) -> None:
    (stepped,) = counting.count_by_stepping(program, "baseline", "stats moments").values()
    (counted,) = counting.count_by_callgrind(program, "baseline", "stats moments").values()
    assert stepped == pytest.approx(counted, rel=0.002)


def test_small_calls_take_as_many_instructions_as_before(tmp_path: Path) -> None:
    require_toolchain("compiler", "python", "torch")
    counts = counting.count_small_calls(tmp_path)
    assert counts.keys() == COMMITTED["counts"]["small calls"].keys()
    found = changes("small calls", counts)
    assert not found, "\n".join(found)


def test_a_change_is_told_with_what_to_do() -> None:
    before = COMMITTED["counts"]["avx2"]["normal_ float32"]
    assert changes("avx2", {"normal_ float32": before * 1.029}) == []
    for factor in (1.031, 0.969):
        (text,) = changes("avx2", {"normal_ float32": before * factor})
        assert "`make instructions`" in text
