"""Every example runs with --quick, and the page that shows them is that of their results."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TOOLS = {"common", "page"}
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.py") if file.stem not in TOOLS)


def run(*arguments: str, folder: Path, status: int = 0) -> str:
    paths = os.pathsep.join([str(ROOT), str(EXAMPLES / "audit_in_ci")])
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_quickly(name: str, tmp_path: Path) -> None:
    run(str(EXAMPLES / f"{name}.py"), "--quick", "--out", "found", folder=tmp_path)
    found = json.loads((tmp_path / "found" / f"{name}.json").read_text())
    assert found["rows"]
    assert (tmp_path / "found" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    if name == "monitored_gpt":
        assert "<html" in (tmp_path / "found" / "monitored_gpt.html").read_text()[:500]
    if name == "sharded_model":
        equal = {row["parameters equal to those of one process"] for row in found["rows"]}
        assert equal == {"28 of 28"}


def test_the_workflow_of_the_example_installs_what_its_report_needs() -> None:
    workflow = (EXAMPLES / "audit_in_ci" / "audit.yaml").read_text()
    assert "--no-save" not in workflow
    (installed,) = re.findall(r"pip install (.*)", workflow)
    assert "'initstats[plot]'" in installed.split()


@pytest.mark.parametrize(("build", "status"), [("build", 0), ("build_broken", 1)])
def test_the_audit_of_the_example_fails_where_the_model_is_broken(
    build: str, status: int, tmp_path: Path
) -> None:
    workflow = (EXAMPLES / "audit_in_ci" / "audit.yaml").read_text()
    assert "--batch project:batch --loss torch.nn.functional:cross_entropy" in workflow
    loss = "torch.nn.functional:cross_entropy"
    arguments = ["audit", f"project:{build}", "--batch", "project:batch", "--loss", loss]
    run("-m", "initstats", *arguments, "--no-save", folder=tmp_path, status=status)


def test_the_page_shows_the_results_of_full_runs() -> None:
    code = "import page; print(page.page(), end='')"
    shown = run("-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); {code}", folder=ROOT)
    assert shown == (ROOT / "docs" / "examples.md").read_text()
    assert {file.stem for file in (EXAMPLES / "results").glob("*.json")} == set(NAMES)
