"""The command `initstats verify`: checkpoints, functions that make models, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import named_models
from initstats import recipes
from initstats.checkpoints import load_checkpoint, skeleton
from initstats.cli.application import app
from initstats.planning.initialize import init_
from initstats.planning.planner import plan


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["verify", *arguments])
    return result.exit_code, " ".join(result.output.split()), result.stderr


def no_model() -> list[int]:
    return []


def healthy_gpt() -> nn.Module:
    model = named_models.nano_gpt()
    init_(model, "gpt2", seed=0)
    return model


def checkpoint(folder: Path, suffix: str, model: nn.Module) -> str:
    path = folder / f"model{suffix}"
    if suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_model(model, str(path))
    else:
        torch.save({"model": model.state_dict(), "step": 0}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_healthy_checkpoint_has_status_0(tmp_path: Path, suffix: str) -> None:
    code, output, _ = run(checkpoint(tmp_path, suffix, healthy_gpt()), "--recipe", "gpt2")
    assert code == 0, output
    assert output.startswith("recipe gpt2: 0 of 40 parameters break their promise")
    assert "c_attn" not in output


def test_a_checkpoint_with_a_mistake_has_status_1_and_tells_the_cause(tmp_path: Path) -> None:
    model = healthy_gpt()
    with torch.no_grad():
        model.get_parameter("transformer.h.1.mlp.c_proj.weight").mul_(6**0.5)
    path = checkpoint(tmp_path, ".pt", model)
    report = tmp_path / "report.json"
    code, output, _ = run(path, "--recipe", "gpt2", "--output", str(report))
    assert code == 1
    assert "recipe gpt2: 1 of 40 parameters break their promise" in output
    assert "transformer.h.1.mlp" in output
    assert "transformers#47458" in output
    assert "c_attn" not in output
    values = json.loads(report.read_text())
    assert values["ok"] is False
    assert len(values["parameters"]) == 40
    assert "c_attn" in run(path, "--recipe", "gpt2", "--all")[1]


def test_a_function_that_makes_a_model_is_called() -> None:
    code, output, _ = run(f"{__name__}:healthy_gpt", "--recipe", "gpt2")
    assert code == 0, output


def test_what_no_rule_takes_is_named(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, ".pt", named_models.timm_vit())
    code, _, error = run(path, "--recipe", "gpt2")
    assert code == 2
    assert "expected a rule for every parameter" in error
    code, output, _ = run(path, "--recipe", "gpt2", "--allow-unmatched")
    assert code == 1
    assert "no rule takes patch_embed.proj.weight" in output


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nothing.pt", "initstats.verify: expected a file, got 'nothing.pt'"),
        (f"{__name__}:run_away", "expected model as package.module:name, got no 'run_away'"),
        (f"{__name__}:no_model", "function that returns a torch.nn.Module, got"),
        ("no_such_package:make", "got no module 'no_such_package'"),
    ],
)
def test_bad_usage_has_status_2(where: str, message: str) -> None:
    code, _, error = run(where, "--recipe", "gpt2")
    assert code == 2
    assert message in error


def test_an_unknown_recipe_names_the_nearest() -> None:
    code, _, error = run(f"{__name__}:healthy_gpt", "--recipe", "gpt3")
    assert code == 2
    assert "the nearest is 'gpt2'" in error
    result = CliRunner().invoke(app, ["recipes", "gpt3"])
    assert result.exit_code == 2
    assert "the nearest is 'gpt2'" in result.stderr


def test_recipes_lists_only_what_is_asked_for() -> None:
    result = CliRunner().invoke(app, ["recipes", "t5"])
    assert result.exit_code == 0
    assert recipes.t5().source in result.output
    assert "gpt2" not in result.output


def test_a_file_without_tensors_and_a_missing_extra_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"step": 3}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match=r"^initstats.verify: expected tensors by name, got none"):
        load_checkpoint(tmp_path / "empty.pt", "verify")
    (tmp_path / "a.safetensors").touch()
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install initstats\[safetensors\]"):
        load_checkpoint(tmp_path / "a.safetensors", "verify")


@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        ("nano_gpt", "gpt2"),
        ("titan_llama", "llama_torchtitan"),
        ("timm_vit", "vit"),
        ("resnet", "resnet"),
        ("convnext", "convnext"),
        ("recurrent", "lstm"),
        ("fair_transformer", "t_fixup"),
        ("dit", "dit"),
    ],
)
def test_the_plan_of_a_skeleton_is_that_of_the_model(make: str, recipe: str) -> None:
    model = getattr(named_models, make)()
    names = {entry.name: str(entry.distribution) for entry in plan(model, recipe)}
    stripped = plan(skeleton(model.state_dict()), recipe)
    assert stripped.unmatched == ()
    found = {}
    for entry in stripped:
        for name in (entry.name, *entry.tied_to):
            found[name] = str(entry.distribution)
    assert {name: found[name] for name in names} == names
