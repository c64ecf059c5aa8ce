"""docs/benchmarks_gpu.md: its tables are those of the results files."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_table import BLOCK, COUNTED, PAGE, ROOT, counters, tables


def test_the_tables_are_those_of_the_results() -> None:
    found = BLOCK.search(PAGE.read_text())
    assert found is not None
    assert found[1] == tables()
    counted = COUNTED.search(PAGE.read_text())
    assert counted is not None
    assert counted[1] == counters()


SCRIPT = ROOT / "tests/gpu/quarter_hour.sh"
PHASES = ("build", "measure", "test", "sanitize", "profile", "bounds", "bench", "threads")


def quarter_hour(out: Path | str, **env: str) -> tuple[int, str]:
    """Run the script for a GPU; return its exit status and what it printed."""
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "OUT": str(out)} | env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long
def test_every_case_of_the_script_for_a_gpu_runs_small_on_a_cpu(tmp_path: Path) -> None:
    phases = "measure sanitize profile bounds"
    status, said = quarter_hour(tmp_path, DRY="1", PHASES=phases)
    assert status == 0, said
    results = json.loads((tmp_path / "measure.json").read_text())["rows"]
    assert results[-1]["name"] == "done"
    assert [row for row in results if isinstance(row.get("error"), str)] == []
    assert [row for row in results if row.get("differing") or "left_out" in row] == []
    captures = {row["said"] for row in results if "first call" in row["name"]}
    assert captures == {"equal"}
    assert "uniform_ float32" in (tmp_path / "bounds.json").read_text()


def test_no_phase_on_a_gpu_stops_the_next(tmp_path: Path) -> None:
    status, said = quarter_hour(tmp_path, PYTHON="false", CUDA_VISIBLE_DEVICES="")
    assert status == 1
    ended = re.findall(r"^== (\w+): rc (\d+)", said, re.MULTILINE)
    assert tuple(name for name, _ in ended) == PHASES
    assert all(int(status) > 0 for _, status in ended)
    assert "false cannot import torch" in said
    assert said.count("needs the package pytest, which false does not have") == 3
    assert {file.name for file in tmp_path.iterdir()} <= {"all.log", "ncu.csv"}
    # What was said is in the log.
    logged = (tmp_path / "all.log").read_text()
    assert re.findall(r"^== (\w+): rc (\d+)", logged, re.MULTILINE) == ended


def test_phases_on_a_gpu_end_in_time_and_write_somewhere() -> None:
    assert "most=${SECONDS_IN_ALL:-595}" in SCRIPT.read_text()
    status, said = quarter_hour("/proc/none", SECONDS_IN_ALL="9", PHASES="measure bench")
    assert status == 1
    assert "/proc/none cannot be written" in said
    assert said.count("left out: no time") == 2
    assert "all.log" in said


class Called(TorchDispatchMode):
    """Notes the names of all ops that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, call: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        del types
        self.names.add(call._schema.name)
        return call(*arguments, **(named or {}))


def test_the_smoke_test_calls_every_op(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("smoke", ROOT / "tests/gpu/smoke.py")
    assert spec is not None
    assert spec.loader is not None
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    monkeypatch.setattr(smoke, "DEVICE", "cpu")
    with Called() as called:
        smoke.everything()
    ops = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("initstats::")}
    assert {name for name in ops if "in_graph" not in name} <= called.names
