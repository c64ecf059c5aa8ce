"""docs/benchmarks_gpu.md: its tables are those of the results files."""

from __future__ import annotations

import importlib.util
import subprocess
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


def test_the_script_for_a_gpu_is_a_script() -> None:
    script = ROOT / "tests/gpu/quarter_hour.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    for file in ("measure.py", "smoke.py", "profile_calls.py"):
        assert file in text
        assert (script.parent / file).exists()


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
