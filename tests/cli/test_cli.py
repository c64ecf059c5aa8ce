"""The command line: the demo from end to end, recipes, doctor, and its errors."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import initstats
from initstats import recipes
from initstats.cli.application import app

SMALL = ["audit", "--demo", "--steps", "3", "--layers", "3", "--width", "64"]


def test_the_demo_shows_both_initialisations_and_writes_json_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "audit"
    result = CliRunner().invoke(app, [*SMALL, "--output", str(folder)])
    assert result.exit_code == 0, result.output
    for words in (
        "recipe gpt2: first step, layer by layer",
        "torch default: first step, layer by layer",
        "h.2.mlp.c_proj",
        "ln(2048) = 7.625",
        "no findings",
        "error initial-loss at step 1",
        "audit.json",
    ):
        assert words in result.output
    values = json.loads((folder / "audit.json").read_text())
    assert values["schema"] == "initstats.demo/1"
    by_recipe, default = values["reports"]["recipe gpt2"], values["reports"]["torch default"]
    assert by_recipe["ok"]
    assert not default["ok"]
    assert len(by_recipe["loss"]["values"]) == len(default["loss"]["values"]) == 3
    assert default["loss"]["values"][0] > 2 * by_recipe["loss"]["values"][0]
    assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_runs_as_a_program_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "initstats.cli", *SMALL, "--seed", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "initstats-audit").iterdir()) == [
        "audit.json",
        "audit.png",
        "index.html",
    ]


def test_a_seed_decides_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    losses = []
    for i, seed in enumerate(("0", "0", "1")):
        folder = tmp_path / str(i)
        options = ["--steps", "1", "--seed", seed, "--output", str(folder)]
        result = CliRunner().invoke(app, [*SMALL, *options])
        assert result.exit_code == 0, result.output
        values = json.loads((folder / "audit.json").read_text())
        losses.append([report["loss"]["values"][0] for report in values["reports"].values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for first, other in zip(losses[0], losses[2], strict=True):
        assert first != pytest.approx(other, rel=1e-4)


def test_recipes_lists_every_recipe_with_its_rules_and_source() -> None:
    result = CliRunner().invoke(app, ["recipes"])
    assert result.exit_code == 0, result.output
    for name in recipes.available():
        assert name in result.output
        assert recipes.by_name(name).source in result.output
    assert "residual projection" in result.output
    assert "N(0, 0.02 / sqrt(2 L)), L blocks" in result.output


def test_doctor_shows_everything_of_build_info(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"torch": "9.9", "cuda_archs": ["sm_75", "sm_90"], "nothing": []}
    monkeypatch.setattr("initstats.cli.doctor_command.build_info", lambda: info)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for words in ("torch", "9.9", "cuda_archs", "sm_75, sm_90", "nothing"):
        assert words in result.output


def test_doctor_tells_what_a_report_of_a_bug_needs() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert found["initstats"] == initstats.__version__
    assert found["python"] == platform.python_version()
    assert platform.machine() in found["platform"]
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"initstats {initstats.__version__}\n")


def test_the_demo_trains_nothing_for_a_folder_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / ("a" * 300)):
        result = CliRunner().invoke(app, ["audit", "--demo", "--output", str(output)])
        assert result.exit_code == 2
        assert "expected --output to be a folder to write to" in " ".join(result.stderr.split())


def test_doctor_runs_on_this_build() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output


def test_doctor_tries_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initstats.cli.doctor_command.gpus", lambda: [torch.device("cpu")])
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    equal = {"cpu": "fills and statistics equal to the CPU's"}
    assert json.loads(result.stdout)["devices"] == equal
    # A device without kernels, as a GPU is for a build without CUDA.
    monkeypatch.setattr("initstats.cli.doctor_command.gpus", lambda: [torch.device("meta")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "meta" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["audit"],
            "initstats.audit: expected a model as package.module:name with --batch, or -",
        ),
        ([*SMALL, "--recipe", "gpt"], "got name='gpt'; the nearest is 'gpt2'"),
        ([*SMALL, "--width", "30"], "expected --width to be a multiple of 4, got width=30"),
    ],
)
def test_bad_usage_has_status_2_and_writes_nothing(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    if "--demo" in arguments:
        arguments = [*arguments, "--output", str(tmp_path / "folder")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "folder").exists()


def test_a_missing_extra_is_named_before_the_demo_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = CliRunner().invoke(app, [*SMALL, "--output", str(tmp_path / "folder")])
    assert result.exit_code == 2
    assert "install initstats[plot]" in result.stderr
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("command", ["watch --once", "watch", "plot", "report", "merge"])
def test_a_device_without_an_end_is_refused(command: str, tmp_path: Path) -> None:
    output = [] if command.startswith("watch") else ["--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command.split(), "/dev/zero", *output])
    assert result.exit_code == 2
    assert "expected a file, got file=/dev/zero (a pipe or a device)" in result.output


def test_the_demo_takes_no_batch() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--batch", "x:y"])
    assert result.exit_code == 2
    assert "expected --demo without --batch" in result.output
