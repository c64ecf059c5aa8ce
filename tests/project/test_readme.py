"""README.md: its example runs, its commands exist, and its numbers come from a results file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme_table import BLOCK, NOT_MEASURED, README, ROOT, table
from initstats import recipes

TEXT = README.read_text()


RECIPES = (ROOT / "docs/recipes.md").read_text()
STATISTICS = (ROOT / "docs/statistics.md").read_text()


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    "code", [*blocks("python"), *blocks("python", RECIPES), *blocks("python", STATISTICS)]
)
def test_the_examples_run(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # `make gpu` builds in place, installs nothing
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_first_example_has_at_most_ten_lines() -> None:
    assert len(blocks("python")[0].splitlines()) <= 10


def test_the_measured_table_is_what_the_script_makes_of_the_results_file() -> None:
    (found,) = BLOCK.findall(TEXT)
    file, text = found
    assert text == (NOT_MEASURED if file == "none" else table(ROOT / file))


def test_every_make_command_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [TEXT, (ROOT / "CONTRIBUTING.md").read_text()]
    named = {name for text in documents for name in re.findall(r"\bmake ([a-z]+)\b`?", text)}
    assert named - targets == set()


def test_every_linked_file_exists() -> None:
    for document in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_recipe_stands_in_the_readme_and_in_an_example() -> None:
    rows = TEXT.partition("| architecture | recipes |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", rows)) == recipes.available()
    examples = "".join(blocks("python", RECIPES))
    assert [n for n in recipes.available() if not re.search(rf"\b{n}\b", examples)] == []
    assert f"{len(recipes.available())} recipes" in (ROOT / "CHANGELOG.md").read_text()
