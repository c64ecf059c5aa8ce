"""The options of conftest.py: which tests a backend runs, and that it is the one asked for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import conftest
from initstats._ops import build_info


def item(*backends: str, fixtures: tuple[str, ...] = ()) -> pytest.Item:
    marker = pytest.mark.backends(*backends).mark if backends else None
    fake = SimpleNamespace(
        nodeid="test", fixturenames=fixtures, get_closest_marker=lambda _name: marker
    )
    return cast("Any", fake)


def runs_on(test: pytest.Item) -> list[str]:
    return [backend for backend in conftest.BACKENDS if conftest._runs_on(test, backend)]


def test_a_test_with_a_device_runs_on_every_backend_and_others_on_the_cpu() -> None:
    assert runs_on(item(fixtures=("device",))) == ["cpu", "cuda", "cuda-on-cpu"]
    assert runs_on(item(fixtures=("tmp_path",))) == ["cpu"]


def test_the_marker_backends_decides_where_it_is_set() -> None:
    assert runs_on(item("cpu", "cuda", fixtures=("device",))) == ["cpu", "cuda"]
    assert runs_on(item("cuda-on-cpu")) == ["cuda-on-cpu"]
    with pytest.raises(pytest.UsageError, match=r"unknown backends \['gpu'\]"):
        conftest._runs_on(item("gpu"), "cpu")


def test_the_backend_under_test_is_the_one_that_was_asked_for(
    backend: str, device: torch.device
) -> None:
    executed = build_info()["backend"] == "CUDA kernels executed on the CPU"
    assert executed == (backend == "cuda-on-cpu")
    assert device.type == ("cuda" if backend == "cuda" else "cpu")


def test_the_thread_count_is_restored(set_thread_count: Callable[[int], None]) -> None:
    set_thread_count(1)
    assert torch.get_num_threads() == 1


def test_a_file_that_needs_a_missing_package_is_known(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    file.write_text("import numpy\nfrom no_such_package import x\ndef f():\n    import later\n")
    assert conftest.missing_packages(file) == ["no_such_package"]


def test_helpers_are_found_wherever_python_looks_and_need_what_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = ("monitored", "audit_project", "cuda_on_cpu", "zoo")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name in {*helpers, "transformers"} else find_spec(name),
    )
    file = tmp_path / "test_x.py"
    file.write_text("import audit_project\nfrom cuda_on_cpu import build\nimport monitored\n")
    assert conftest.missing_packages(file) == []
    file.write_text("from zoo.specimens import Size\n")
    assert conftest.missing_packages(file) == ["transformers"]
    assert conftest.packages_to_go_without(file) == ["transformers"]


def test_only_a_declared_package_leaves_a_file_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    file = tmp_path / "test_x.py"
    file.write_text("import scipy\n")
    assert conftest.packages_to_go_without(file) == ["scipy"]
    file.write_text("import sklearn\nimport yaml\n")  # scikit-learn and pyyaml
    assert conftest.packages_to_go_without(file) == ["sklearn", "yaml"]
    file.write_text("import scipy\nfrom moved_helper import x\n")
    assert conftest.packages_to_go_without(file) == []


def test_what_is_left_out_on_a_gpu_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "mpmath" else find_spec(name)
    )
    lines: list[str] = []
    reporter = cast("Any", SimpleNamespace(write_line=lines.append))
    for backend in ("cpu", "cuda"):
        config = cast("Any", SimpleNamespace(getoption=lambda _name, backend=backend: backend))
        conftest.pytest_terminal_summary(reporter, config)
        assert bool(lines) == (backend == "cuda")
    expected = [
        file.name
        for file in (conftest.ROOT / "tests").rglob("test_*.py")
        if re.search(r"^(import|from) mpmath", file.read_text(), re.MULTILINE)
    ]
    assert sorted(lines) == [f"left out {name}: needs mpmath" for name in sorted(expected)]
