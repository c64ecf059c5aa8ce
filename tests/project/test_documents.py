"""Every code block of every page runs, and the output below one is what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
import yaml
from torch import nn

import initstats
from audit_project import PROJECT

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\S*)[^\n`]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Blocks are programs, words of a program, or directives of the site: of {code-block} python those
# that need several processes, which tests/support/integration_ranks.py runs.
RUNS = {"python", "sh", "yaml"}
SHOWS = {"text"}
# Tested elsewhere, in a clone and in an empty environment: .ci/run, tests/project/test_wheel.py.
INSTALLS = re.compile(r"\s*(?:pip install|make|git clone)\b")


@dataclass(frozen=True)
class Block:
    """A code block of a page, with what it is said to print."""

    place: str
    language: str
    code: str
    output: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in BLOCK.finditer(text):
        below = BLOCK.match(text, match.end() + 2)  # after one empty line
        output = below[3] if below and below[2] in SHOWS and match[2] in RUNS else None
        place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        code = re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE)
        found.append(Block(place, match[2], code, output))
    return found


def with_checkpoints(folder: Path) -> None:
    """Write the files that docs/guides/statistics.md and docs/guides/recipes.md name."""
    from safetensors.torch import save_file

    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8))
    save_file(model.state_dict(), folder / "model.safetensors")
    for name in ("model.pt", "step_1000.pt", "step_2000.pt"):
        torch.save(model.state_dict(), folder / name)
    with warnings.catch_warnings():  # that this process is alone
        warnings.simplefilter("ignore")
        distributed_checkpoint.save(
            model.state_dict(), checkpoint_id=folder / "step_2000", no_dist=True
        )


def with_project(folder: Path) -> None:
    """Write the training project that docs/guides/audit_command.md and width.md name."""
    package = folder / "my_project"
    package.mkdir()
    for name in ("__init__", "model", "data"):
        (package / f"{name}.py").write_text(PROJECT)


PREPARED: dict[str, Callable[[Path], None]] = {
    "docs/guides/audit_command.md": with_project,
    "docs/guides/statistics.md": with_checkpoints,
    "docs/guides/width.md": with_project,
}


def run(command: list[str], block: Block, folder: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),  # `make gpu` builds in place, installs nothing
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "COLUMNS": "80",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout}{done.stderr}"
    if block.output is not None:
        assert done.stdout == block.output, block.place


def run_shell(block: Block, folder: Path) -> None:
    lines = block.code.replace("\\\n", " ").splitlines()
    kept = [line for line in lines if not INSTALLS.match(line)]
    run(["bash", "-euo", "pipefail", "-c", "\n".join(kept)], block, folder)


def run_steps(block: Block, folder: Path) -> None:
    """Run the commands of the steps of a workflow."""
    for step in yaml.safe_load(block.code):
        if "run" in step:
            run_shell(Block(block.place, "sh", step["run"], None), folder)


# A program that begins with its name is a file for a command further down.
FILE = re.compile(r"# (\w+\.py)\n")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    command = tmp_path / "bin/initstats"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -W error -m initstats.cli "$@"\n')
    command.chmod(0o755)
    launcher = command.with_name("torchrun")
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    launcher.chmod(0o755)
    PREPARED.get(page.relative_to(ROOT).as_posix(), lambda _: None)(tmp_path)
    for block in blocks(page):
        named = FILE.match(block.code)
        if block.language == "python" and named:
            later = [other.code for other in blocks(page) if other.language == "sh"]
            assert any(named[1] in code for code in later), f"{block.place}: nothing runs it"
            (tmp_path / named[1]).write_text(block.code)
        elif block.language == "python":
            run([sys.executable, "-W", "error", "-c", block.code], block, tmp_path)
        elif block.language == "sh":
            run_shell(block, tmp_path)
        elif block.language == "yaml":
            run_steps(block, tmp_path)


def test_every_block_is_of_a_language_that_runs_or_is_shown() -> None:
    known = RUNS | SHOWS
    unknown = [
        block.place
        for page in PAGES
        for block in blocks(page)
        if block.language not in known and not block.language.startswith("{")
    ]
    assert unknown == []


@pytest.mark.parametrize("function", [initstats.fast_init], ids=lambda function: function.__name__)
def test_the_code_of_a_docstring_runs(function: Callable[..., object]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", function.__doc__ or "", re.DOTALL)
    lines = [line.removeprefix("    ") for line in code.splitlines()]
    exec("\n".join(lines), {"torch": torch, "initstats": initstats})
