"""The build system: what it asks of the machine, what it refuses, what a build says of itself."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from initstats import _C
from initstats._ops import build_info
from initstats.cli.application import app

ROOT = Path(__file__).resolve().parents[2]
Toolkit = Callable[..., Path]


@pytest.fixture
def headers() -> ModuleType:
    return importlib.import_module("headers")


@pytest.fixture
def compile_() -> ModuleType:
    return importlib.import_module("compile")


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolkit:
    """Make a CUDA toolkit whose nvcc knows the given architectures, and point CUDA_HOME to it."""

    def make(*archs: str) -> Path:
        nvcc = tmp_path / "bin/nvcc"
        nvcc.parent.mkdir()
        lines = "\n".join(f"echo compute_{arch}" for arch in archs)
        nvcc.write_text(f"#!/bin/sh\n{lines}\n")
        nvcc.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        monkeypatch.delenv("INITSTATS_CUDA", raising=False)
        monkeypatch.delenv("INITSTATS_CUDA_ARCHS", raising=False)
        return tmp_path

    return make


def test_an_unknown_value_of_initstats_cuda_is_refused(
    headers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INITSTATS_CUDA", "yes")
    message = r"initstats: expected INITSTATS_CUDA to be auto, 0 or 1, got yes"
    with pytest.raises(RuntimeError, match=message):
        headers.wanted_cuda()


def test_demanded_cuda_without_nvcc_is_an_error_and_auto_goes_without(
    headers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "cuda_home", lambda: None)
    monkeypatch.setenv("INITSTATS_CUDA", "1")
    with pytest.raises(RuntimeError, match="expected nvcc, because INITSTATS_CUDA=1, found none"):
        headers.wanted_cuda()
    monkeypatch.setenv("INITSTATS_CUDA", "auto")
    assert headers.wanted_cuda() is None


def test_initstats_cuda_0_leaves_a_toolkit_alone(
    headers: ModuleType, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit("90")
    assert headers.wanted_cuda() == home
    monkeypatch.setenv("INITSTATS_CUDA", "0")
    assert headers.wanted_cuda() is None


def test_a_wrapper_around_nvcc_on_the_path_is_followed_to_its_toolkit(
    headers: ModuleType, toolkit: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit("90")
    monkeypatch.delenv("CUDA_HOME")
    wrapper = tmp_path / "some/folder/nvcc"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(f"#!/bin/sh\necho '#$ TOP={home}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    assert headers.cuda_home() == home


def test_default_architectures_are_those_that_this_nvcc_knows(
    compile_: ModuleType, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit("75", "80", "86", "90")
    assert compile_.archs_to_build(home) == ["75", "80", "90"]
    monkeypatch.setenv("INITSTATS_CUDA_ARCHS", "86;90")
    assert compile_.archs_to_build(home) == ["86", "90"]
    assert compile_.archs_to_build(None) == []


@pytest.mark.parametrize("wanted", ["sm_90", "120", "80,90"])
def test_an_architecture_that_nvcc_does_not_know_is_refused(
    wanted: str, compile_: ModuleType, toolkit: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit("80", "90")
    monkeypatch.setenv("INITSTATS_CUDA_ARCHS", wanted)
    message = f"expected INITSTATS_CUDA_ARCHS to be some of 80;90, .*, got {re.escape(wanted)}"
    with pytest.raises(RuntimeError, match=message):
        compile_.archs_to_build(home)


def test_a_build_without_torchs_headers_says_so(
    compile_: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_, "torch_include", lambda: None)
    with pytest.raises(RuntimeError, match=r"expected torch 2\.10 or newer with its headers"):
        compile_.Description("extension")


def test_an_older_torch_does_not_count(headers: ModuleType, tmp_path: Path) -> None:
    for text, version in (("2.9.1+cu128", (2, 9)), ("2.13.0+cpu", (2, 13)), ("none", (0, 0))):
        (tmp_path / "version.py").write_text(f"__version__ = '{text}'\n")
        assert headers._version(tmp_path) == version


def test_the_backend_asks_for_a_torch_only_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = importlib.import_module("buildsystem")
    asked = [backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable]
    assert [name for ask in asked for name in ask() if "torch" in name] == []
    monkeypatch.setattr(backend, "torch_include", lambda: None)
    assert [ask()[-1] for ask in asked] == ["torch==2.13.0", "torch==2.13.0"]


def test_each_layer_is_compiled_with_the_includes_that_it_may_use(
    compile_: ModuleType, toolkit: Toolkit
) -> None:
    toolkit("80", "90")
    description = compile_.Description("extension")
    cpu, kernels, ops = (
        list(units) for units in (description.cpu(), description.kernels(), description.ops())
    )
    assert [unit.flags for unit in [*cpu, *kernels] if "torch" in unit.flags] == []
    assert [unit.flags for unit in cpu if "-Werror" not in unit.flags or "cuda" in unit.flags] == []
    assert all("compute_90,code=compute_90" in unit.flags for unit in kernels)
    assert all("-DTORCH_TARGET_VERSION=0x020a" in unit.flags for unit in ops)
    names = [unit.object for unit in [*cpu, *kernels, *ops]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "source",
    [
        path.name
        for path in sorted((ROOT / "csrc/ops").glob("*.cpp"))
        if "INITSTATS_WITH_CUDA" in path.read_text()
    ],
)
def test_the_ops_compile_without_cuda_kernels_too(
    source: str, compile_: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INITSTATS_CUDA", "0")
    units = {unit.source.name: unit for unit in compile_.Description("").ops()}
    unit = units[source]
    assert "INITSTATS_WITH_CUDA" not in unit.flags
    command = f"{os.environ.get('CXX', 'g++')} {unit.flags} -O0 -S -o {os.devnull} {unit.source}"
    done = subprocess.run(
        shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_builds_in_one_folder_share_the_cpu_kernels_and_overwrite_nothing_of_each_other(
    compile_: ModuleType, toolkit: Toolkit
) -> None:
    toolkit("80", "90")

    def units(variant: str, *archs: str) -> dict[str, str]:
        description = compile_.Description(variant, archs)
        parts = [*description.cpu(), *description.kernels(), *description.ops()]
        return {unit.object: unit.flags for unit in parts}

    extension, executed = units("extension", "80", "90"), units("cuda_on_cpu")
    shared = extension.keys() & executed.keys()
    assert shared == {name for name in extension if name.startswith("cpu/")}
    assert all(extension[name] == executed[name] for name in shared)
    kernels = {name for name in extension if name.startswith("cuda/")}
    assert kernels
    assert not kernels & units("extension", "90").keys()


@pytest.mark.parametrize(("rule", "links"), [("link", True), ("link_all_defined", False)])
def test_a_symbol_without_a_definition_fails_the_link_that_asks_for_all(
    rule: str, links: bool, compile_: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "a.cpp").write_text("void missing();\nvoid caller() { missing(); }\n")
    build = "build a.o: cxx a.cpp\n  flags = -fPIC\n"
    build += f"build a.so: {rule} a.o\n"
    (tmp_path / "build.ninja").write_text(f"compiler = g++\n{compile_.RULES}\n{build}")
    done = subprocess.run(
        compile_._ninja(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == links
    assert ("undefined reference to `missing()'" in done.stdout) == (not links)


def test_the_module_waits_for_a_link_in_which_all_of_the_project_is_defined(
    compile_: ModuleType, tmp_path: Path
) -> None:
    description = compile_.Description("extension")
    units = [*description.cpu(), *description.kernels(), *description.ops()]
    lines = description.ninja_file(tmp_path / "_C.so").splitlines()
    (check,) = (line for line in lines if line.startswith("build defined.so: link_all_defined "))
    (module,) = (line for line in lines if line.startswith(f"build {tmp_path}/_C.so: link "))
    assert set(check.split()[3:]) == {unit.object for unit in units} - {
        "ops/module.o",
        "ops/direct.o",
    }
    assert module.endswith(" || defined.so")


def test_compile_commands_hold_every_source_with_a_command_for_clang(
    compile_: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    compile_.write_compile_commands(tmp_path / "_C.so", tmp_path / "build")
    commands = json.loads((tmp_path / "build/compile_commands.json").read_text())
    sources = set((ROOT / "csrc").rglob("*.cpp"))
    if compile_.cuda_home():
        sources |= set((ROOT / "csrc").rglob("*.cu"))
    assert {Path(command["file"]) for command in commands} == sources
    assert all(command["command"].startswith("g++ ") for command in commands)


def test_a_build_tells_what_it_holds_and_what_it_chose() -> None:
    info = build_info()
    assert info["torch"] == torch.__version__
    assert info["torch_abi_target"] == "2.10"
    assert info["cpu_capability"] in info["cpu_capabilities"]
    assert info["cpu_vectors"]
    assert Path(str(info["module"])).exists()
    assert info["threads"] == str(torch.get_num_threads())
    assert info["backend"] == "native"


def test_the_stub_declares_what_the_module_offers() -> None:
    declared = set(re.findall(r"^def (\w+)", (ROOT / "initstats/_C.pyi").read_text(), re.MULTILINE))
    assert declared == {name for name in dir(_C) if not name.startswith("__")}


def test_doctor_prints_every_field() -> None:
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "400"})
    assert result.exit_code == 0
    for name in build_info():
        assert name in result.output


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_the_environment_chooses_the_cpu_capability(capability: str) -> None:
    if capability not in build_info()["cpu_capabilities"]:
        pytest.skip(f"this build has no kernels for {capability}")
    done = ask_for(capability)
    if "on this machine" in done.stderr:
        pytest.skip(f"this processor has no {capability}")
    assert done.stdout.strip() == capability
    assert done.returncode == 0


def test_an_unknown_cpu_capability_is_refused_at_import() -> None:
    done = ask_for("sse2")
    assert done.returncode != 0
    expected = "expected INITSTATS_CPU_CAPABILITY to be one of baseline, avx2, avx512, got sse2"
    assert expected in done.stderr


def ask_for(capability: str) -> subprocess.CompletedProcess[str]:
    code = "from initstats._ops import build_info; print(build_info()['cpu_capability'])"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"INITSTATS_CPU_CAPABILITY": capability},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
