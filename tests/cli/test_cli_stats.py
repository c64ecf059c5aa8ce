"""The command `initstats stats`: one checkpoint, the step between two, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import initstats
from initstats.cli.application import app

SAFETENSORS = pytest.importorskip("safetensors.torch")


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["stats", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split()), result.stderr


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "h.0.weight": torch.randn(30, 20, generator=generator) * 0.02,
        "h.1.weight": torch.randn(30, 20, generator=generator).bfloat16(),
        "steps": torch.tensor([7]),
    }


def saved(path: Path, values: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        SAFETENSORS.save_file(values, path)
    else:
        torch.save({"state_dict": values}, path)
    return path


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_every_tensor_of_a_file_has_its_record(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / name, tensors())
    code, output, _ = run(file, "--output", tmp_path / "out.json", "--fingerprint")
    assert code == 0
    expected = initstats.stats(tensors(), fingerprint=True).to_dict()
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(expected))
    for each in tensors():
        assert each in output
    assert "not finite" not in output


def test_the_parts_of_a_checkpoint_in_several_files_are_one(tmp_path: Path) -> None:
    whole = tensors()
    saved(tmp_path / "1.safetensors", {"h.0.weight": whole.pop("h.0.weight")})
    saved(tmp_path / "2.safetensors", whole)
    index = tmp_path / "model.safetensors.index.json"
    files = {"h.0.weight": "1.safetensors", "h.1.weight": "2.safetensors", "steps": "2.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    code, _, _ = run(index, "--output", tmp_path / "out.json")
    assert code == 0
    assert json.loads((tmp_path / "out.json").read_text()).keys() == tensors().keys()


def test_match_chooses_names(tmp_path: Path) -> None:
    code, output, _ = run(saved(tmp_path / "a.pt", tensors()), "--match", r"h\.1")
    assert code == 0
    assert "h.1.weight" in output
    assert "h.0.weight" not in output


def test_the_step_between_two_files_is_told_by_its_size(tmp_path: Path) -> None:
    before = tensors()
    after = {name: value.clone() for name, value in before.items()}
    after["h.0.weight"][0] += 0.5  # 20 of 600 elements
    after["new"] = torch.ones(3)
    before["head"], after["head"] = torch.ones(3, 2), torch.ones(2, 3)
    files = saved(tmp_path / "b.pt", after), saved(tmp_path / "a.pt", before)
    code, output, _ = run(files[0], "--minus", files[1], "--output", tmp_path / "out.json")
    assert code == 0
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows["h.0.weight"]["zero"] == 580
    assert rows["h.0.weight"]["rms"] == pytest.approx(0.5 * (20 / 600) ** 0.5, rel=1e-6)
    assert rows["h.1.weight"]["zero"] == 600
    assert "96.7%" in output
    ratio = 0.5 * (20 / 600) ** 0.5 / before["h.0.weight"].square().mean().sqrt().item()
    assert f"{ratio:.2f}" in output
    assert "not compared: new: only in the first file" in output
    assert "not compared: head: shapes (2, 3) and (3, 2)" in output
    assert "not compared: steps: dtypes torch.int64 and torch.int64" in output


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named_and_can_fail_a_build(tmp_path: Path, value: float) -> None:
    values = tensors()
    values["h.0.weight"][3, 3] = value
    file = saved(tmp_path / "a.pt", values)
    code, output, _ = run(file)
    assert code == 0
    assert output.endswith("not finite: h.0.weight")
    assert run(file, "--require-finite")[0] == 1
    assert run(saved(tmp_path / "b.pt", tensors()), "--require-finite")[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "initstats.stats: expected a file, got"),
        ("no checkpoint", "initstats.stats: expected a safetensors file, or one that torch.load"),
    ],
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.index.json"])
def test_what_is_no_checkpoint_is_one_error(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
        if name.endswith(".json"):
            message = "initstats.stats: expected an index with a weight_map"
        elif name.endswith(".safetensors"):
            message = "initstats.stats: expected a safetensors file"
    code, _, error = run(file)
    assert code == 2
    assert message in " ".join(error.split())


def test_options_that_make_no_sense_are_one_error(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pt", tensors())
    for arguments, message in (
        (("--match", "("), "initstats.stats: expected a regular expression, got match='('"),
        (("--match", "zzz"), "initstats.stats: expected a name in which 'zzz' is found, got none"),
        (("--minus", str(file), "--fingerprint"), "expected no --fingerprint with --minus"),
    ):
        code, _, error = run(file, *arguments)
        assert code == 2
        assert message in error
    waves = saved(tmp_path / "waves.pt", {"wave": torch.ones(2, dtype=torch.complex64)})
    code, _, error = run(waves)
    assert code == 2
    assert "expected a tensor with statistics in" in error
    assert run(waves, "--minus", waves)[0] == 0  # named as not comparable
    torch.save([1, 2], tmp_path / "list.pt")
    assert "initstats.stats: expected tensors by name" in run(tmp_path / "list.pt")[2]
