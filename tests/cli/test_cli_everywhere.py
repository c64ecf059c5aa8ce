"""What every command does alike: JSON, colours, completion, `python -m initstats`, near names."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

import initstats
from audit_project import PROJECT
from initstats import sinks
from initstats.cli.application import app
from initstats.monitoring.row import RankInfo

COLOUR = re.compile(r"\x1b\[[\d;]*(?<!\d)(?:3[0-7]|4[0-7]|9[0-7]|38|48)(?!\d)[\d;]*m")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint, a run, and the source of a project."""
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8))
    initstats.init_(model, "mlp", seed=0)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    run = tmp_path / "run.jsonl"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink = sinks.JsonLines(run)
    with initstats.Monitor(model, optimizer=optimizer, every=1, sinks=[sink]) as monitor:
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        monitor.step()
    lines = [json.loads(line) for line in run.read_text().splitlines()]
    ranks = {"ranks": asdict(RankInfo(rank=0, scope="rank", world=1))}
    of_rank = [line | ranks if "step" in line else line for line in lines]
    text = "".join(f"{json.dumps(line)}\n" for line in of_rank)
    run.with_name("run.rank00000.jsonl").write_text(text)
    (tmp_path / "project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


AUDIT = (
    "audit",
    "project:build_model",
    "--batch",
    "project:make_batch",
    "--loss",
    "torch.nn.functional:cross_entropy",
    "--steps",
    "2",
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "audit": (*AUDIT, "--no-save"),
    "audit --demo broken": ("audit", "broken", "--demo", "--steps", "2", "--width", "32"),
    "coord-check": (
        "coord-check",
        "project:build_wide",
        *("--batch", "project:make_batch", "--widths", "16,32", "--seeds", "1", "--steps", "2"),
        *("--recipe", "mup(absorb=True, zero_readout=False)"),
    ),
    "verify": ("verify", "model.pt", "--recipe", "mlp"),
    "stats": ("stats", "model.pt"),
    "stats --minus": ("stats", "model.pt", "--minus", "model.pt"),
    "recipes": ("recipes", "mlp"),
    "doctor": ("doctor",),
    "watch": ("watch", "run.jsonl", "--once"),
    "plot": ("plot", "run.jsonl", "--kind", "weights"),
    "report": ("report", "run.jsonl"),
    "merge": ("merge", "run.rank00000.jsonl", "--output", "merged.jsonl"),
}


def printed(*arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout, parse_constant=pytest.fail)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_strict_json_and_nothing_else(command: str) -> None:
    assert printed(*COMMANDS[command], status=int("broken" in command))


def test_no_command_lacks_json() -> None:
    tested = {arguments[0] for arguments in COMMANDS.values()}
    assert set(typer.main.get_command(app).commands) == tested  # type: ignore[attr-defined]


def test_json_holds_what_the_tables_say(folder: Path) -> None:
    record = initstats.stats(torch.load(folder / "model.pt"))["0.weight"]
    assert printed("stats", "model.pt")["tensors"]["0.weight"]["std"] == record.std
    bad = {"a": torch.tensor([1.0, torch.nan]), "b": torch.ones(2), "names": ["x"]}
    torch.save(bad, folder / "bad.pt")
    found = printed("stats", "bad.pt", "--require-finite", status=1)
    assert found["not_finite"] == ["a"]
    assert printed("verify", "model.pt", "--recipe", "mlp")["ok"]
    assert printed("recipes", "mlp", "lstm")[1]["name"] == "lstm"
    assert printed("doctor")["torch"] == torch.__version__
    row = printed("watch", "run.jsonl", "--once")
    assert row["step"] == 1
    assert row["scalars"]["gradient_norm"] > 0


def test_two_audits_are_compared_as_json(folder: Path) -> None:
    for name in ("one", "two"):
        report = CliRunner().invoke(app, [*AUDIT, "--output", name])
        assert report.exit_code == 0, report.output
    found = printed("audit", "--compare", "one", "two")
    assert found["ok"]
    assert (folder / "one/audit.json").exists()


# ---- terminals


def in_a_terminal(*arguments: str, folder: Path, **variables: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "initstats", *arguments],
        cwd=folder,
        env=environment | variables,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            piece = b""
        if not piece:
            break
        text += piece
    os.close(ours)
    process.wait()
    return text.decode()


def test_no_color_is_heard(folder: Path) -> None:
    arguments = ("verify", "model.pt", "--recipe", "mlp", "--all")
    assert COLOUR.search(in_a_terminal(*arguments, folder=folder))
    assert not COLOUR.search(in_a_terminal(*arguments, folder=folder, NO_COLOR="1"))
    assert not COLOUR.search(in_a_terminal("verify", "no.pt", folder=folder, NO_COLOR="1"))


def test_a_terminal_shows_what_takes_time(folder: Path) -> None:
    assert "reading model.pt" in in_a_terminal("stats", "model.pt", folder=folder)
    assert "reading" not in CliRunner().invoke(app, ["stats", "model.pt"]).output


def test_shells_complete_commands() -> None:
    environment = os.environ | {
        "_INITSTATS_COMPLETE": "complete_bash",
        "COMP_WORDS": "initstats ver",
        "COMP_CWORD": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "initstats"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["verify"]


# ---- near names


def test_near_commands_options_and_attributes_are_suggested() -> None:
    result = CliRunner().invoke(app, ["verfy"])
    assert result.exit_code == 2
    assert "verify" in result.output
    result = CliRunner().invoke(app, ["verify", "x.pt", "--recpe", "gpt2"])
    assert "--recipe" in result.output
    with pytest.raises(AttributeError) as caught:
        _ = initstats.Moniter
    assert caught.value.name == "Moniter"
    assert caught.value.obj is initstats
    assert "Monitor" in dir(initstats)  # where Python looks for near names


def test_near_names_are_suggested() -> None:
    with pytest.raises(ValueError, match=r"got name='gtp2'; the nearest is 'gpt2'"):
        initstats.init_(nn.Linear(2, 2), "gtp2")
    with pytest.raises(ValueError, match=r"got name='GPT2'; the nearest is 'gpt2'"):
        initstats.init_(nn.Linear(2, 2), "GPT2")
    with pytest.raises(ValueError, match="got head_wdth=2; the nearest is 'head_width'"):
        initstats.recipes.by_name("t5(head_wdth=2)")
    with pytest.raises(ValueError, match=r"got watch=\('weight',\); the nearest is 'weights'"):
        initstats.Monitor(nn.Linear(2, 2), watch=("weight",))
    with pytest.raises(ValueError, match="got role='atention input'; the nearest is 'attention"):
        initstats.Match(role="atention input")
    with pytest.raises(ValueError, match="the nearest is 'padding'"):
        initstats.verify(nn.Linear(2, 2), "mlp", ignore=("paddings",))
    with pytest.raises(ValueError, match=r"got name='\?\?'$"):
        initstats.recipes.by_name("??")
