"""Files on the command line: odd names, quantised weights, broken and foreign files."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from initstats.checkpoints import load_checkpoint, skeleton
from initstats.cli import app


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300"})


def normal(*shape: int, std: float = 0.02, seed: int = 0) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(path: Path, tensors: object) -> Path:
    torch.save(tensors, path)
    return path


def fails() -> nn.Module:
    raise ValueError("the user's own error")


ODD = [
    *("keys", "values", "items", "pop", "update", "forward", "training", "type", "float", "data"),
    *("_modules", "parameters", "children", "weight", "0", "class", "T_destination", "a-b", "ünï"),
]


@pytest.mark.parametrize("part", ODD)
@pytest.mark.parametrize("form", ["attn.{}.weight", "{}.weight", "attn.{}", "{}"])
def test_any_name_is_read_and_judged(part: str, form: str, tmp_path: Path) -> None:
    name = form.format(part)
    tensors = {name: normal(64, 64), "wte.weight": normal(64, 64, seed=1)}
    model = skeleton(tensors)
    assert dict(model.named_parameters()).keys() == tensors.keys()
    path, output = saved(tmp_path / "a.pt", tensors), tmp_path / "r.json"
    result = run("verify", path, "--recipe", "gpt2", "--allow-unmatched", "--output", output)
    assert result.exit_code in {0, 1}, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    report = json.loads(output.read_text())
    names = {entry["name"] for entry in report["parameters"]} | set(report["unmatched"])
    assert names == tensors.keys()
    assert name in run("stats", path).output


def test_a_tensor_and_a_module_of_one_name_live_side_by_side() -> None:
    # bitsandbytes: fc1.weight, and fc1.weight.absmax for its scales.
    tensors = {"fc1.weight": normal(8, 8), "fc1.weight.absmax": normal(4), "fc1.bias": normal(8)}
    for names in (tensors, dict(reversed(tensors.items()))):
        assert dict(skeleton(names).named_parameters()).keys() == tensors.keys()


def test_nested_dictionaries_and_keys_that_are_no_text(tmp_path: Path) -> None:
    x = normal(4)
    cases: list[tuple[object, list[str]]] = [
        ({0: x, 1: x}, ["0", "1"]),
        ({"g": {"w": x}, "d": {"w": x}, "step": 3}, ["g.w", "d.w"]),
        ({"state_dict": {"w": x}, "optimizer": {"state": {0: {"exp_avg": x}}}}, ["w"]),
        ({"model": {"state_dict": {"w": x}}}, ["w"]),
    ]
    for values, names in cases:
        assert [*load_checkpoint(saved(tmp_path / "a.pt", values), "stats").tensors] == names
    twice = saved(tmp_path / "b.pt", {0: x, "0": x})
    with pytest.raises(ValueError, match="expected every name once, got '0' twice"):
        load_checkpoint(twice, "stats")


@pytest.mark.parametrize("suffix", [".txt", ".pt", ".safetensors", ".index.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x02}q\x00", b"PK\x03\x04", b"\xff" * 100, b"{}", b"[1]", b"null"],
)
@pytest.mark.parametrize("command", ["stats", "verify"])
def test_what_is_no_checkpoint_is_one_line_and_status_2(
    command: str, content: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    options = ["--recipe", "gpt2"] if command == "verify" else []
    result = run(command, path, *options)
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert result.output.startswith(f"initstats.{command}: expected ")


def test_a_file_with_code_is_refused_and_the_code_is_named(tmp_path: Path) -> None:
    result = run("stats", saved(tmp_path / "a.pt", {"model": nn.Linear(2, 2)}))
    assert result.exit_code == 2
    assert "objects of torch.nn.modules.linear.Linear" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_one_unreadable_tensor_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"w": normal(8, 8), "odd": torch.zeros(64, dtype=torch.uint8)}, path)
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + n].replace(b'"dtype":"U8","shape":[64]', b'"dtype":"F4","shape":[128]')
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + n :])
    found = load_checkpoint(path, "stats")
    assert [*found.tensors, *found.left_out] in (["w", "odd"], ["odd", "w"])
    result = run("stats", path)
    assert result.exit_code == 0
    assert "w" in result.output


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_statistics_are_named(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(normal(4, 4), 0.1, 0, torch.qint8)
    tensors = {"w": normal(8, 8), "q": quantised, "c": torch.zeros(3, dtype=torch.complex64)}
    result = run("stats", saved(tmp_path / "a.pt", tensors))
    assert result.exit_code == 0
    assert "left out: c: dtype=torch.complex64" in result.output
    assert "left out: q: dtype=torch.qint8" in result.output
    alone = run("stats", saved(tmp_path / "b.pt", {"c": tensors["c"]}))
    assert alone.exit_code == 2
    assert "expected a tensor with statistics" in alone.output


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float8_e4m3fn])
def test_quantised_weights_are_named_and_the_rest_is_judged(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    quantised = torch.ones(8, 64).to(dtype)
    tensors = {"wte.weight": normal(64, 64), "h.0.fc1.qweight": quantised}
    result = run("verify", saved(tmp_path / "a.pt", tensors), "--recipe", "gpt2")
    assert result.exit_code == 0, result.output
    assert f"not judged: h.0.fc1.qweight: {str(dtype)[6:]}" in result.output
    alone = run("verify", saved(tmp_path / "b.pt", {"x.weight": quantised}), "--recipe", "gpt2")
    assert alone.exit_code == 2
    assert "x.weight is" in alone.output


def test_one_row_of_zeros_in_the_embedding_of_a_file_is_its_padding(tmp_path: Path) -> None:
    tensors = {"embed_tokens.weight": normal(64, 64)}
    tensors["embed_tokens.weight"][5] = 0
    assert run("verify", saved(tmp_path / "a.pt", tensors), "--recipe", "llama").exit_code == 0
    tensors["embed_tokens.weight"][6] = 0
    result = run("verify", saved(tmp_path / "a.pt", tensors), "--recipe", "llama")
    assert result.exit_code == 1
    assert "2 rows are 0, the first is 5" in result.output


def test_running_statistics_of_a_file_must_be_finite(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    model[1].running_var[2] = float("nan")
    path = saved(tmp_path / "a.pt", model.state_dict())
    result = run("verify", path, "--recipe", "torch_default")
    assert result.exit_code == 1
    assert "1.running_var" in result.output
    assert "1 NaN" in result.output


def test_an_exception_of_the_users_own_code_keeps_its_traceback() -> None:
    result = run("verify", f"{__name__}:fails", "--recipe", "gpt2")
    assert result.exit_code == 2
    assert "Traceback" in result.output
    assert "raise ValueError" in result.output
    assert "the user's own error" in result.output


@pytest.mark.parametrize("name", ["[/].weight", "[red]x[/red].weight", "a[b].weight"])
def test_brackets_in_names_are_no_markup(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {name: normal(64, 64)})
    for arguments in (("stats", path), ("verify", path, "--recipe", "gpt2", "--all")):
        result = run(*arguments)
        assert result.exit_code in {0, 2}
        assert name in result.output


@pytest.mark.parametrize("file", ["pipe.pt", "pipe.safetensors", "pipe.index.json"])
def test_a_pipe_is_refused_and_not_waited_for(file: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / file)
    for arguments in (("stats",), ("verify", "--recipe", "gpt2")):
        result = run(*arguments, tmp_path / file)
        assert result.exit_code == 2
        assert "which is a pipe or a device" in result.output


@pytest.mark.parametrize("name", ["", "missing", "x" * 5000, "loop.pt", "loop.safetensors"])
def test_what_is_no_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    if name.startswith("loop"):
        (tmp_path / name).symlink_to(tmp_path / name)
    for arguments in (("stats",), ("verify", "--recipe", "gpt2")):
        result = run(*arguments, tmp_path / name if name else "")
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1
        assert result.output.startswith("initstats.")


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".bin", ".pt", ""])
def test_safetensors_are_read_under_any_name(suffix: str, tmp_path: Path) -> None:
    save_file({"w": normal(4, 4)}, tmp_path / f"m{suffix}")
    assert list(load_checkpoint(tmp_path / f"m{suffix}", "stats").tensors) == ["w"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["sparse_coo", "sparse_csr", "empty"])
def test_tensors_that_are_no_parameters_are_named_and_the_rest_is_judged(
    kind: str, tmp_path: Path
) -> None:
    odd = {
        "sparse_coo": normal(8, 8).to_sparse(),
        "sparse_csr": normal(8, 8).to_sparse_csr(),
        "empty": torch.zeros(0, 4),
    }[kind]
    path = saved(tmp_path / "a.pt", {"wte.weight": normal(64, 64), "h.0.fc1.weight": odd})
    result = run("verify", path, "--recipe", "gpt2")
    assert result.exit_code == 0, result.output
    assert f"not judged: h.0.fc1.weight: {kind}" in result.output


def test_an_output_is_strict_json_or_refused_in_one_line(tmp_path: Path) -> None:
    lost = torch.full((64, 64), float("nan"))
    path = saved(tmp_path / "a.pt", {"wte.weight": lost})

    def no_constant(word: str) -> None:
        raise AssertionError(word)

    for arguments, status in (
        (("stats", path), 0),
        (("verify", path, "--recipe", "gpt2"), 1),
    ):
        written = tmp_path / "r.json"
        assert run(*arguments, "--output", written).exit_code == status
        json.loads(written.read_text(), parse_constant=no_constant)
        for bad in (tmp_path, tmp_path / "no" / "r.json"):
            result = run(*arguments, "--output", bad)
            assert result.exit_code == 2
            assert result.output.startswith(
                f"initstats.{arguments[0]}: expected an output to write to, got '{bad}'"
            )


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"é\ud800.weight": normal(8, 8)})
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "initstats.cli", "stats", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert r"\xe9\ud800.weight" in done.stdout
