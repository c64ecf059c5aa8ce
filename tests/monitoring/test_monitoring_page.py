"""docs/guides/monitoring.md: its example runs, its numbers were measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs/guides/monitoring.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)


def test_the_costs_are_those_of_the_results_file() -> None:
    text = (ROOT / "docs/guides/monitoring.md").read_text()
    (name,) = re.findall(r"`(benchmarks/results/[^`]+\.json)`", text)
    measured = json.loads((ROOT / name).read_text())["results"]
    for m in measured:
        own = m["own_share"]
        share = "" if own is None else f"{own:.2%} ".replace("%", " %")
        line = f"  | {m['name']} | {m['times']:.3f} ± {m['times_error']:.3f} | {share}|"
        assert line in text
    assert len(measured) == 6
