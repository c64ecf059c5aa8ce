"""The command `initstats coord-check` on a project of one's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audit_project import PROJECT
from initstats.cli.application import app

RIGHT = ("--recipe", "mup(absorb=True, zero_readout=False)")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "wide_project.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("wide_project", None)


def check(*arguments: str, build: str = "wide_project:build_wide") -> Result:
    batch = ("--batch", "wide_project:make_batch")
    return CliRunner().invoke(app, ["coord-check", build, *batch, *arguments])


def test_a_right_parametrisation_exits_with_0_and_a_standard_one_with_1(project: Path) -> None:
    widths = ("--widths", "32,64,128,256")
    good = check(*widths, *RIGHT)
    assert good.exit_code == 0, good.output
    assert "no size depends on the width from 32 to 256" in good.output
    bad = check(*widths, "--output", "out")
    assert bad.exit_code == 1, bad.output
    assert "to blame: 2, 4" in bad.output
    written = json.loads((project / "out/coordinates.json").read_text())
    assert written["blamed"] == ["2", "4"]
    assert (project / "out/coordinates.html").exists()


def test_an_optimizer_and_a_loss_of_the_project_are_used(project: Path) -> None:
    with (project / "wide_project.py").open("a") as file:
        file.write(
            "\ndef make_sgd(model):\n    return torch.optim.SGD(model.parameters(), lr=0.01)\n"
        )
    own = ("--optimizer", "wide_project:make_sgd", "--loss", "wide_project:loss_fn")
    result = check("--widths", "16,32", "--seeds", "1", *own, "--json")
    assert result.exit_code in {0, 1}
    assert json.loads(result.stdout)["settings"]["optimizer"] == "own"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "16,large"), "expected --widths as 64,128,256,512, got '16,large'"),
        (("--widths", "32,16"), "two widths or more, ascending"),
        (("--recipe", "mupp"), "the nearest is 'mup'"),
        (("--optimizer", "adan"), "expected optimizer among adamw"),
        (("--batch", "wide_project:make_nothing"), "expected batch to be or return a batch"),
        (("--loss", "wide_project:loss"), "did you mean 'loss_fn'"),
        (("--output", "wide_project.py"), "expected --output to be a folder to write to"),
    ],
)
def test_bad_usage_exits_with_2(arguments: tuple[str, ...], message: str) -> None:
    result = check(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert check(build="wide_project:model").exit_code == 2
