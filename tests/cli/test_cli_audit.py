"""The command `initstats audit` on a project of one's own: as CI of that project would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from audit_project import PROJECT, SICK_ON_IMPORT
from initstats.cli.application import app

OPTIONS = ["--batch", "training.project:make_batch", "--loss", "training.project:loss_fn"]
MODEL = "training.project:build_model"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the project into a folder, and go there; what it imports is forgotten afterwards."""
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    (tmp_path / "training" / "project.py").write_text(PROJECT)
    (tmp_path / "training" / "sick.py").write_text(SICK_ON_IMPORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "training"]:
        del sys.modules[name]


def audit(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments])


def quick(*arguments: str, model: str = MODEL) -> Result:
    return audit(model, *OPTIONS, "--no-save", "--steps", "2", *arguments)


def test_a_project_audits_its_model_as_a_program_of_its_own(project: Path) -> None:
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-W", "error", "-m", "initstats.cli", "audit"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for model, status in (("build_model", 0), ("build_sick", 1), ("build_missing", 2)):
        result = subprocess.run(
            [*command, f"training.project:{model}", *OPTIONS, "--output", f"out-{model}"],
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == status, result.stdout + result.stderr
        folder = project / f"out-{model}"
        assert folder.exists() == (status < 2)
        if status < 2:
            values = json.loads((folder / "audit.json").read_text())
            assert values["ok"] == (status == 0)
            assert "layers.3" in result.stdout
            assert f"wrote out-{model}" in result.stdout


def test_models_functions_classes_modules_and_values_are_taken() -> None:
    for model in ("build_model", "Net", "build_with_seed", "model"):
        assert quick(model=f"training.project:{model}").exit_code == 0, model
    arguments = ["--batch", "training.project:batch", "--loss", "torch.nn:CrossEntropyLoss"]
    assert audit("training.project:Net", *arguments, "--no-save").exit_code == 0


def test_json_is_all_that_is_printed() -> None:
    values = json.loads(quick("--json", "--seed", "3").stdout)
    assert values["schema"].startswith("initstats.audit/")
    assert values["settings"]["optimizer"] == "AdamW"
    assert values == json.loads(quick("--json", "--seed", "3").stdout)
    assert values["loss"] != json.loads(quick("--json", "--seed", "4").stdout)["loss"]


def test_an_optimizer_a_device_and_a_recipe_are_used() -> None:
    arguments = ["--optimizer", "training.project:make_optimizer", "--device", "cpu"]
    values = json.loads(quick("--json", *arguments, "--recipe", "torch_default", "--init").stdout)
    assert values["settings"]["optimizer"] == "SGD"
    assert values["settings"]["learning_rate"] == 0.1
    assert values["settings"]["recipe"] == "torch_default"
    assert values["weights"]["ok"]
    compared = json.loads(quick("--json", "--recipe", "torch_default").stdout)
    assert not compared["weights"]["ok"]
    assert compared["settings"]["optimizer"] == "AdamW"


def test_seeds_are_shown_as_a_table_whatever_draws_the_weights() -> None:
    cases = [
        (MODEL, []),
        ("training.project:build_with_seed", []),
        ("training.project:model", []),
        ("training.project:model", ["--recipe", "torch_default", "--init"]),
        (MODEL, ["--recipe", "torch_default", "--init"]),
    ]
    for model, arguments in cases:
        values = json.loads(quick("--json", "--seeds", "3", *arguments, model=model).stdout)
        results = values["lottery"]["seeds"]
        assert [result["seed"] for result in results] == [0, 1, 2]
        assert len({result["first_loss"] for result in results}) == 3, model
    assert "the lottery: 3 seeds" in quick("--seeds", "3").stdout


def test_rules_are_set_and_ignored_and_decide_the_status() -> None:
    sick = "training.project:build_sick"
    found = {f["rule"] for f in json.loads(quick("--json", model=sick).stdout)["findings"]}
    assert found
    ignored = [word for rule in found for word in ("--ignore", rule)]
    result = quick("--json", *ignored, model=sick)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["findings"] == []
    healthy = quick("--json", "--set", "update-ratio.low=0.5", "--set", "update-ratio.high=0.9")
    findings = json.loads(healthy.stdout)["findings"]
    assert [(f["rule"], f["severity"]) for f in findings] == [("update-ratio", "warning")]
    assert healthy.exit_code == 0
    strict = ["--set", "update-ratio.low=0.5", "--set", "update-ratio.high=0.9", "--fail-on"]
    assert quick(*strict, "warning").exit_code == 1
    assert quick(*strict, "never").exit_code == 0
    assert quick("--fail-on", "never", model=sick).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.projekt:build_model", *OPTIONS], "got no module 'training.projekt' in model="),
        (["training.projekt:build_model", *OPTIONS], "did you mean 'project'?"),
        (["trainin.project:build_model", *OPTIONS], "got no module 'trainin' in model="),
        (["trainin.project:build_model", *OPTIONS], "'training'"),
        (["training.sick:build_model", *OPTIONS], "got an exception while importing 'training.sic"),
        (["training.sick:build_model", *OPTIONS], "No module named 'not_there_at_all'"),
        (["training.project:build_modle", *OPTIONS], "got no 'build_modle' in 'training.project';"),
        (["training.project:build_modle", *OPTIONS], "did you mean 'build_model'"),
        (
            ["training.project", *OPTIONS],
            "expected model as package.module:name, got model='train",
        ),
        (["training.project:number", *OPTIONS], "got int from 'training.project:number'"),
        (["training.project:build_nothing", *OPTIONS], "expected model to build a torch.nn.Modul"),
        (["training.project:build_with_more", *OPTIONS], "got 'build_with_more' that takes width;"),
        ([MODEL], "expected --batch package.module:name, got none for 'training.project:build_mo"),
        ([MODEL, *OPTIONS, "--init"], "expected --recipe with --init, got none"),
        ([MODEL, *OPTIONS, "--recipe", "gtp2"], "got name='gtp2'; the nearest is 'gpt2'"),
        ([MODEL, *OPTIONS, "--device", "warp"], "expected --device to be here, got 'warp'"),
        ([MODEL, *OPTIONS, "--steps", "0"], "--steps"),
        ([MODEL, *OPTIONS, "--set", "initial-loss"], "expected --set rule.threshold=value, got"),
        ([MODEL, *OPTIONS, "--set", "initial-los.low=1"], "got 'initial-los'; the nearest is 'in"),
        (
            [MODEL, *OPTIONS, "--set", "initial-loss.sever=1"],
            "got 'sever'; the nearest is 'severe'",
        ),
        ([MODEL, *OPTIONS, "--set", "initial-loss.severe=x"], "to be of kind float, got 'x'"),
        (
            [MODEL, *OPTIONS, "--ignore", "initial"],
            "expected --ignore with one of the rules not-",
        ),
        ([MODEL, *OPTIONS, "--output", "training/project.py/x"], "'training/project.py/x', and"),
        (
            [MODEL, "--batch", "training.project:make_nothing"],
            "got None from 'training.project:ma",
        ),
        (
            [MODEL, "--batch", "training.project:make_loader"],
            "expected one batch, got batch=list_",
        ),
        ([MODEL, "--batch", "training.project:build_with_more"], "expected batch to take no argum"),
        (
            [MODEL, *OPTIONS, "--optimizer", "training.project:number"],
            "expected optimizer to be a function from a list of parameters to an optimizer, got",
        ),
        (
            ["training.project:model", *OPTIONS, "--seeds", "2", "--recipe", "torch_default"],
            "expected --init, or a function that builds the model, for seeds above 1 with a recipe",
        ),
        (
            ["--demo", "brokn"],
            "expected --demo with one of healthy, broken, got 'brokn'; the nea",
        ),
    ],
)
def test_bad_usage_has_status_2_names_what_is_wrong_and_writes_nothing(
    arguments: list[str], message: str, project: Path
) -> None:
    pytest.importorskip("matplotlib")
    result = audit(*arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (project / "initstats-audit").exists()


def test_a_model_that_raises_has_status_2_with_the_layers_seen_so_far(
    capfd: pytest.CaptureFixture[str],
) -> None:
    result = quick(model="training.project:Raises")
    assert result.exit_code == 2
    text = result.stderr + capfd.readouterr().err
    assert "ArithmeticError: no such thing" in text
    assert "raised in the model itself (Raises) of step 1" in text
    assert "layers.0" in text


def test_no_save_writes_nothing_and_needs_no_extra(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest),
    )
    result = audit(MODEL, *OPTIONS, "--steps", "1")
    assert result.exit_code == 2
    assert "install initstats[plot]" in result.stderr
    assert quick().exit_code == 0
    assert sorted(path.name for path in project.iterdir()) == ["training"]


# --- two reports


def test_a_comparison_fails_when_the_second_report_has_new_errors() -> None:
    pytest.importorskip("matplotlib")
    for name, model in (("good", "build_model"), ("sick", "build_sick")):
        audit(f"training.project:{model}", *OPTIONS, "--steps", "2", "--output", name)
    for first, second, status in (
        ("good", "good", 0),
        ("sick", "sick", 0),
        ("sick", "good", 0),
        ("good", "sick", 1),
        ("good", "sick/audit.json", 1),
        ("good", "nothing", 2),
    ):
        result = audit("--compare", first, second)
        assert result.exit_code == status, (first, second, result.output)
    assert "expected an audit.json or its folder, got path=nothing" in result.stderr


# --- the demo of broken models


@pytest.mark.long
def test_every_fault_of_the_broken_demo_is_caught_where_it_is() -> None:
    from initstats.auditing.demo.broken import BROKEN_CONFIG, run_broken

    cases = run_broken("gpt2", steps=10, seed=0, config=BROKEN_CONFIG)
    caught = [(case.report.findings[0].rule, case.report.findings[0].where) for case in cases]
    assert caught == [
        ("not-finite", "h.2.attn.c_proj.weight"),
        ("weight-peers", "h.2.attn.c_attn.weight"),
        ("symmetry", "h.2.mlp.c_fc.weight"),
        ("initial-loss", "step 1"),
        ("bias-scale", "h.2.mlp.c_fc.bias"),
        ("missing-gradient", "h.2.ln_2.weight"),
        ("loss-reduction", "loss"),
        ("loss-trajectory", "step 10"),
        ("weights-against-recipe", cases[-1].report.findings[0].where),
    ]
    assert caught[-1][1].endswith("c_proj.weight")


def test_the_broken_demo_prints_fault_finding_cause_and_fix_and_fails() -> None:
    small = ["--steps", "2", "--layers", "3", "--width", "32"]
    result = audit("--demo", "broken", *small)
    assert result.exit_code == 1
    for words in ("a NaN in one weight", "not-finite", "cause", "fix", "h.1.attn.c_proj.weight"):
        assert words in result.stdout
    assert audit("broken", "--demo", *small).exit_code == 1


def test_the_snippet_for_the_tests_of_a_project_runs() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/guides/audit_command.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)  # the page is ours
    names["test_the_model_starts_well"]()


# --- code of the project that leaves, or prints


def test_code_that_exits_is_no_success_and_code_that_prints_does_not_spoil_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text(
        "import sys\nimport torch\nfrom torch import nn\n\n"
        "def build():\n    print('building')\n    return nn.Linear(8, 4)\n\n"
        "def leave():\n    sys.exit(0)\n\n"
        "def batch():\n    return torch.randn(8, 8), torch.randint(4, (8,))\n"
    )
    monkeypatch.chdir(tmp_path)
    given = ["--batch", "leaving:batch", "--loss", "torch.nn.functional:cross_entropy"]
    left = audit("leaving:leave", *given, "--no-save")
    assert left.exit_code == 2
    assert "sys.exit(0)" in left.stderr
    printed = audit("leaving:build", *given, "--no-save", "--json", "--fail-on", "never")
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["schema"] == "initstats.audit/2"
    assert "building" in printed.stderr
