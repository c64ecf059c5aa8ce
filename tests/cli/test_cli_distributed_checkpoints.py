"""The commands on folders of torch.distributed.checkpoint, and on files larger than memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

import named_models
from distributed_checkpoints import save, save_in_chunks
from initstats.checkpoints import load_checkpoint
from initstats.checkpoints.distributed import MOST_METADATA
from initstats.cli import app
from initstats.planning.initialize import init_
from initstats.statistics.compute import stats


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300"})


def normal(*shape: int, std: float = 0.02, seed: int = 0) -> Tensor:
    return std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_tensors() -> dict[str, Tensor]:
    return {
        "wte.weight": normal(37, 16).bfloat16(),
        "h.0.attn.weight": normal(48, 16, seed=1),
        "h.0.attn.bias": torch.arange(48.0),
        "conv.weight": normal(8, 4, 3, 3, seed=2).double(),
        "scale": torch.tensor(3.0),
        "steps": torch.arange(70, dtype=torch.int64),
        "empty": torch.empty(0, 3),
    }


def records_of(*arguments: str | Path, folder: Path) -> dict[str, dict[str, Any]]:
    output = folder / "records.json"
    result = run("stats", *arguments, "--output", output)
    assert result.exit_code == 0, result.output
    records: dict[str, dict[str, Any]] = json.loads(output.read_text())
    return records


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2), (3, 2), (5, 4, 2)])
def test_records_of_chunks_are_those_of_the_whole_tensors(
    cuts: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = some_tensors()
    folder = save_in_chunks(tmp_path / "dcp", tensors, cuts)
    found = records_of(folder, "--fingerprint", folder=tmp_path)
    whole = stats(tensors, fingerprint=True).to_dict()
    assert found.keys() == whole.keys()
    for name, record in whole.items():
        rounded = {"mean", "std", "var", "rms", "l1", "l2", "skewness", "kurtosis"}
        for field, value in record.items():
            if field in rounded and value is not None:
                # Other tiles, inside which sums are in float32; the terms of a mean are of the
                # size of the rms, those of a kurtosis 3 at least.
                terms = {"mean": record["rms"], "skewness": 1, "kurtosis": 3}.get(field, 0)
                assert found[name][field] == pytest.approx(value, rel=1e-6, abs=1e-6 * terms), field
            else:
                assert found[name][field] == value, (name, field)


def test_a_folder_of_a_trainer_gives_the_names_that_its_file_gives(tmp_path: Path) -> None:
    tensors = some_tensors()
    state = {"model": tensors, "optim": {"state": {"m": torch.ones(3)}, "lr": 0.1}, "step": 3}
    folder, file = save(tmp_path / "dcp", state), tmp_path / "a.pt"
    torch.save(state, file)
    in_folder = records_of(folder, "--fingerprint", folder=tmp_path)
    assert in_folder == records_of(file, "--fingerprint", folder=tmp_path)
    assert in_folder.keys() == tensors.keys()


@pytest.mark.parametrize("other", ["chunks", "file"])
def test_the_step_between_two_checkpoints_may_be_cut_otherwise_in_each(
    other: str, tmp_path: Path
) -> None:
    after = {"a": normal(24, 10), "b": normal(7)}
    before = {name: x + normal(*x.shape, seed=5) for name, x in after.items()}
    first = save_in_chunks(tmp_path / "1", after, (2, 5))
    second = tmp_path / "2.pt"
    torch.save(before, second)
    if other == "chunks":
        second = save_in_chunks(tmp_path / "2", before, (3, 2))
    for pair in ((first, second), (second, first)):
        a, b = (after, before) if pair[0] == first else (before, after)
        found = records_of(pair[0], "--minus", pair[1], folder=tmp_path)
        expected = stats(a, minus=b).to_dict()
        for name, record in expected.items():
            assert found[name]["rms"] == pytest.approx(record["rms"], rel=1e-6)  # other tiles
            assert found[name]["histogram"] == record["histogram"]
            assert found[name]["count"] == record["count"]


class _Evil:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("command", ["stats", "verify"])
def test_no_code_of_the_metadata_runs(command: str, tmp_path: Path) -> None:
    folder, made = save(tmp_path / "dcp", some_tensors()), tmp_path / "made"
    (folder / ".metadata").write_bytes(pickle.dumps(_Evil(made)))
    options = ["--recipe", "gpt2"] if command == "verify" else []
    result = run(command, folder, *options)
    assert result.exit_code == 2
    assert not made.exists()
    assert len(result.output.strip().splitlines()) == 1
    assert "mkdir, and code of a file is not run" in result.output


def test_chunks_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "dcp", {"a": normal(4)})
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for info in metadata.storage_data.values():
        info.relative_path = f"../{info.relative_path}"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    result = run("stats", folder)
    assert result.exit_code == 2
    assert "the chunks lie outside the folder" in result.output


def deep(levels: int) -> bytes:
    """Return the pickle of tuples within each other, as the key of a dictionary."""
    return b"\x80\x02}(" + b")" + b"\x85" * levels + b"K\x01u."


def laughs(levels: int) -> bytes:
    """Return the pickle of a tuple of two tuples of two tuples ...: hashing it takes for ever."""
    again = b"".join(b"q%ch%c\x86" % (i, i) for i in range(levels))
    return b"\x80\x02}(" + b")" + again + b"K\x01u."


# A memo of 2**29 places, 4 GB, for an object that is numbered 2**28.
MEMO = b"\x80\x02}r\x00\x00\x00\x10."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (deep(1_000_000), "it holds objects 64 deep within each other"),
        (laughs(60), "it names its 309 bytes again and again"),
        (MEMO, "it numbers an object 268435456 in 9 bytes"),
        (b"\x80\x05\x96" + b"\xff" * 4 + b"\0" * 4 + b".", "it is no pickle of torch"),
        (b"\x80\x02]Pabc\n.", "it is no pickle of torch: ValueError: opcode PERSID"),
    ],
)
def test_metadata_that_costs_more_than_its_size_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    folder = save(tmp_path / "dcp", {"a": normal(4)})
    (folder / ".metadata").write_bytes(content)
    result = run("stats", folder)
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert message in result.output


def test_metadata_of_more_than_a_gigabyte_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "dcp", {"a": normal(4)})
    with (folder / ".metadata").open("r+b") as file:
        file.truncate(MOST_METADATA + 1)  # of no size on the disk
    result = run("stats", folder)
    assert result.exit_code == 2
    message = f"its .metadata has {MOST_METADATA + 1} bytes, more than {MOST_METADATA}"
    assert message in result.output


def test_many_chunks_are_no_bomb(tmp_path: Path) -> None:
    folder = save(tmp_path / "dcp", {"a": normal(2000, 2)})
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    ((index, info),) = metadata.storage_data.items()
    entry = metadata.state_dict_metadata["a"]
    offsets = [torch.Size((i, 0)) for i in range(2000)]
    entry.chunks = [replace(entry.chunks[0], offsets=o, sizes=torch.Size((1, 2))) for o in offsets]
    metadata.storage_data = {replace(index, offset=o, index=None): info for o in offsets}
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert len(load_checkpoint(folder, "stats").stored["a"]) == 2000


@pytest.mark.parametrize("size", [(1 << 40,), (1 << 31, 1 << 31), (1 << 32, 1 << 32)])
def test_chunks_that_are_larger_than_their_files_are_left_out(
    size: tuple[int, ...], tmp_path: Path
) -> None:
    folder = save(tmp_path / "dcp", {"a": normal(4), "b": normal(*[2] * len(size))})
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    entry = metadata.state_dict_metadata["b"]
    entry.size = entry.chunks[0].sizes = torch.Size(size)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    found = load_checkpoint(folder, "stats")
    assert found.tensors.keys() == {"a"}
    assert found.left_out["b"].startswith(f"a chunk of {size[0] ** len(size)} elements in ")


def test_a_compressed_chunk_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    folder = save(tmp_path / "dcp", {"a": torch.zeros(1 << 20)})
    (file,) = folder.glob("*.distcp")
    bomb = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as to:
        for member in source.infolist():
            to.writestr(member.filename, source.read(member))
    # Enough behind it that the chunk could be there.
    file.write_bytes(bomb.getvalue() + bytes(4 << 20))
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (info,) = metadata.storage_data.values()
    info.length = len(bomb.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "a chunk of 1048576 elements in " in load_checkpoint(folder, "stats").left_out["a"]
    metadata.state_dict_metadata["a"].size = torch.Size([64])
    metadata.state_dict_metadata["a"].chunks[0].sizes = torch.Size([64])
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    result = run("stats", folder)
    assert result.exit_code == 2
    assert "that unpacks to" in result.output


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", pickle.dumps([1])])
def test_what_is_no_metadata_is_one_line_and_status_2(content: bytes, tmp_path: Path) -> None:
    folder = save(tmp_path / "dcp", {"a": normal(4)})
    (folder / ".metadata").write_bytes(content)
    result = run("stats", folder)
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert "expected a folder that torch.distributed.checkpoint wrote" in result.output


def test_missing_and_broken_chunks_are_named(tmp_path: Path) -> None:
    folder = save_in_chunks(tmp_path / "dcp", {"a": normal(8, 4), "b": normal(8)}, (2,))
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.state_dict_metadata["b"].chunks.pop()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    result = run("stats", folder)
    assert result.exit_code == 0
    assert "left out: b: its chunks hold 4 elements, not the 8 of shape (8,)" in result.output
    file = next((folder / "0-1").glob("*.distcp"))
    file.write_bytes(b"nothing" + bytes(file.stat().st_size - 7))
    result = run("stats", folder)
    assert result.exit_code == 2
    assert "expected chunks of a that torch.load reads" in result.output


def test_a_folder_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="or a folder of torch"):
        load_checkpoint(tmp_path, "stats")


# ---- memory

_MIB = 1 << 20
# Prints how much memory of its own, not of mapped files, the command took at most.
_MEASURED = """
import os, sys, threading, time
import torch
from initstats.cli.application import app
import initstats.verification, initstats.statistics.blocks, torch.distributed.checkpoint

def own():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

most = before = own()
over = False

def watch():
    global most
    while not over:
        most = max(most, own())
        time.sleep(0.0005)

thread = threading.Thread(target=watch)
thread.start()
try:
    app(sys.argv[1:], standalone_mode=False)
finally:
    over = True
    thread.join()
    print("MOST", most - before)
"""


def memory_of(*arguments: str | Path) -> int:
    command = [sys.executable, "-W", "ignore", "-c", _MEASURED, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "MOST" in result.stdout, result.stderr
    return int(result.stdout.rpartition("MOST")[2])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["file.pt", "file.safetensors", "folder"])
@pytest.mark.parametrize("command", ["stats", "verify"])
def test_memory_is_that_of_a_few_chunks(command: str, kind: str, tmp_path: Path) -> None:
    # 192 MiB in chunks of 8 MiB; of each, the stored bytes and the tensor are held. The rest of the
    # bound is for what the command imports late, and for the allocator.
    tensors = {f"h.{i}.attn.c_attn.weight": normal(8192, 1024, seed=i) for i in range(6)}
    path = tmp_path / kind
    if kind == "folder":
        save_in_chunks(path, tensors, (4,))
    elif kind == "file.pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    options = ["--recipe", "gpt2", "--allow-unmatched"] if command == "verify" else []
    assert memory_of(command, path, *options) < 80 * _MIB


# ---- verify


@pytest.mark.parametrize("damaged", [False, True])
def test_verify_of_a_folder_says_what_verify_of_the_file_says(
    damaged: bool, tmp_path: Path
) -> None:
    model = named_models.nano_gpt()
    init_(model, "gpt2", seed=0)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    if damaged:
        tensors["transformer.h.1.mlp.c_proj.weight"].mul_(6**0.5)
        tensors["transformer.h.0.attn.c_attn.weight"][5] = 0
    torch.save(tensors, tmp_path / "a.pt")
    folder = save_in_chunks(tmp_path / "dcp", tensors, (3, 2))
    reports = []
    for path in (tmp_path / "a.pt", folder):
        output = tmp_path / "report.json"
        result = run("verify", path, "--recipe", "gpt2", "--output", output)
        assert result.exit_code == int(damaged), result.output
        found = json.loads(output.read_text())["parameters"]
        reports.append([(e["name"], e["kind"], e["problem"], e["cause"]) for e in found])
    assert reports[0] == reports[1]
