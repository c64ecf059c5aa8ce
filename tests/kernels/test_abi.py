"""The extension binds to torch's stable C shims and to nothing else of torch: its symbol table."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from initstats._ops import build_info

MODULE = Path(str(build_info()["module"]))
UNSTABLE = re.compile(r"\b(at|c10|c10d|caffe2|torch)::")
SHIM = re.compile(r"\b(?:aoti_torch|torch)_\w+")


def output_of(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def undefined() -> list[str]:
    """The symbols that the module takes from other libraries, demangled."""
    lines = output_of("nm", "-D", "--undefined-only", "--demangle", MODULE).splitlines()
    return [line.split(maxsplit=1)[1].strip() for line in lines]


def test_no_unstable_symbol_of_torch_is_needed(undefined: list[str]) -> None:
    assert undefined
    assert [name for name in undefined if UNSTABLE.search(name)] == []


def test_torch_is_reached_through_its_c_shims(undefined: list[str]) -> None:
    shims = [name for name in undefined if SHIM.match(name)]
    assert "aoti_torch_get_sizes" in shims
    # A C++ function of torch would show its namespace or its arguments.
    assert [name for name in shims if not SHIM.fullmatch(re.sub(r"@.*", "", name))] == []


def test_only_the_entry_point_is_exported() -> None:
    lines = output_of("nm", "-D", "--defined-only", "--demangle", MODULE).splitlines()
    symbols = [line.split(maxsplit=2)[1:] for line in lines]
    # W, V and u are inline functions and objects of the C++ library, which every library exports.
    strong = [name for kind, name in symbols if kind not in {"W", "V", "u"}]
    from_the_linker = {"__bss_start", "_edata", "_end"}
    assert set(strong) - from_the_linker == {"PyInit__C"}
    assert [name for _, name in symbols if "initstats" in name] == []


def test_libtorch_cpu_is_the_only_library_of_torch_and_the_cuda_runtime_is_built_in() -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output_of("readelf", "-d", MODULE))
    system = re.compile(r"(lib(stdc\+\+|gcc_s|m|c|dl|rt|pthread)|ld-linux[\w-]*)\.so")
    # libtorch_cpu holds the shims in every build of torch, with or without CUDA.
    assert [name for name in needed if not system.match(name)] == ["libtorch_cpu.so"]
