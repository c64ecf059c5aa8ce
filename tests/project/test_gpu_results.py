"""docs/benchmarks_gpu.md: its tables are those of the results files."""

from __future__ import annotations

import subprocess

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
