"""README.md: its example runs, its commands exist, and its numbers come from a results file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme_table import BLOCK, NOT_MEASURED, README, README_ROWS, ROOT, table

TEXT = README.read_text()
GUIDES = {
    name: (ROOT / f"docs/guides/{name}.md").read_text()
    for name in ("initialise", "recipes", "sharded_models", "statistics")
}


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run(code: str, folder: Path) -> str:
    """Return what the code prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        # `make gpu` builds in place, installs nothing
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", [code for t in GUIDES.values() for code in blocks("python", t)])
def test_the_examples_of_the_guides_run(code: str, tmp_path: Path) -> None:
    run(code, tmp_path)


def test_the_example_prints_what_stands_below_it(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 8
    assert run(code, tmp_path) == blocks("text")[0]


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 110


def test_the_measured_table_is_what_the_script_makes_of_the_results_file() -> None:
    (found,) = BLOCK.findall(TEXT)
    file, text = found
    assert text == (NOT_MEASURED if file == "none" else table(ROOT / file, README_ROWS))


def test_every_make_command_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [TEXT, (ROOT / "CONTRIBUTING.md").read_text()]
    named = {name for text in documents for name in re.findall(r"\bmake ([a-z]+)\b`?", text)}
    assert named - targets == set()


def test_every_linked_file_exists() -> None:
    for document in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_decision_is_listed_with_its_title_and_has_a_choice() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "index.md").read_text()
    files = sorted(folder.glob("[0-9]*.md"))
    assert [path.name[:4] for path in files] == [f"{i + 1:04}" for i in range(len(files))]
    for path in files:
        title, *_ = path.read_text().splitlines()
        assert f"- [{path.name[:4]}]({path.name}) {title.removeprefix('# ')}\n" in index
        headings = re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE)
        assert headings[0] == "Context"
        assert "Choice" in headings, path.name
