"""Files of strangers: no code, no memory beyond their size, and an error that says why."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from initstats import Receipt, sinks
from initstats.auditing import load_report
from initstats.checkpoints import load_checkpoint

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"
SAVED = FUZZ.parent / "vectors/saved_0_1_0"
sys.path.insert(0, str(FUZZ))

import readers  # noqa: E402

ROUNDS = 150
TOKENS = (b"[", b"{", b"9" * 20, b"null", b'"', b"1e999", b"-")


@pytest.fixture(autouse=True)
def bounded_memory() -> Any:
    """Refuse more than 2 GB beyond what the process has, as a small machine would."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def mutated(data: bytes, random_: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 5))):
        at = random_.randrange(len(changed)) if changed else 0
        match random_.randrange(5):
            case 0:
                changed[at : at + 1] = bytes([random_.randrange(256)])
            case 1:
                del changed[at : at + random_.choice((1, 8, 200))]
            case 2:
                changed[at:at] = changed[at : at + random_.choice((1, 8, 200))]
            case 3:
                changed[at:at] = random_.choice(TOKENS)
            case _:
                changed = changed[: at + 1]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")  # of torch, on broken files
@pytest.mark.parametrize("kind", readers.READERS)
def test_broken_files_are_a_value_error(kind: str, tmp_path: Path) -> None:
    random_ = random.Random(kind)
    for seed in readers.seeds()[kind]:
        readers.read(kind, seed, tmp_path)
        for _ in range(ROUNDS):
            readers.read(kind, mutated(seed, random_), tmp_path)


@pytest.mark.parametrize("path", sorted((FUZZ / "found").iterdir()), ids=lambda path: path.name)
def test_what_fuzzers_have_found_is_a_value_error(path: Path, tmp_path: Path) -> None:
    readers.read(path.name.partition("-")[0], path.read_bytes(), tmp_path)


# ---- checkpoints


def saved(path: Path, values: Any) -> Path:
    torch.save(values, path)
    return path


def test_a_compressed_archive_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    honest = saved(tmp_path / "honest.pt", {"w": torch.zeros(1 << 20)})
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as to:
        for member in source.infolist():
            to.writestr(member.filename, source.read(member))
    assert bomb.stat().st_size < honest.stat().st_size / 100
    assert load_checkpoint(honest, "stats").tensors["w"].numel() == 1 << 20
    message = r"stats: expected a file of tensors as torch.save writes it, got .*that unpacks to"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(bomb, "stats")


@pytest.mark.parametrize("size", [(1 << 60,), (1 << 34,), (1 << 20, 1 << 20)])
@pytest.mark.parametrize("stride", [0, 1])
def test_a_shape_beyond_the_file_is_named_or_refused(
    size: tuple[int, ...], stride: int, tmp_path: Path
) -> None:
    class Pretending(torch.Tensor):
        def __reduce_ex__(self, protocol: int) -> Any:
            function, arguments = torch.zeros(4).__reduce_ex__(protocol)[:2]
            strides = (stride,) * len(size)
            return function, (arguments[0], 0, size, strides, *arguments[4:])

    path = saved(
        tmp_path / "a.pt", {"w": torch.zeros(4).as_subclass(Pretending), "v": torch.ones(3)}
    )
    try:
        found = load_checkpoint(path, "stats")
    except ValueError as error:  # torch found no memory
        pretended = str(error)
    else:
        assert found.tensors.keys() == {"v"}
        pretended = found.left_out["w"]
    assert re.search("more than the file holds|expected a safetensors file", pretended)


def test_dictionaries_that_name_each_other_many_times_are_refused(tmp_path: Path) -> None:
    laughs: dict[str, Any] = {"w": torch.ones(1)}
    for _ in range(40):
        laughs = {"a": laughs, "b": laughs}
    circle: dict[str, Any] = {"w": torch.ones(1)}
    circle["circle"] = circle
    for values in (laughs, circle):
        with pytest.raises(ValueError, match="expected at most 1000000 entries in dictionaries 64"):
            load_checkpoint(saved(tmp_path / "a.pt", values), "stats")


def test_a_bytearray_is_not_made(tmp_path: Path) -> None:
    class Zeros:
        def __reduce__(self) -> Any:
            return bytearray, (1 << 40,)

    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1), "z": Zeros()}, path, pickle_protocol=2)
    with pytest.raises(ValueError, match=r"expected a file of tensors.*, got .* makes a bytearray"):
        load_checkpoint(path, "stats")
    legacy = io.BytesIO()
    torch.save({"z": Zeros()}, legacy, _use_new_zipfile_serialization=False)
    path.write_bytes(legacy.getvalue())
    with pytest.raises(ValueError, match="makes a bytearray"):
        load_checkpoint(path, "stats")


def test_an_index_that_names_itself_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": index.name}}))
    with pytest.raises(ValueError, match="expected an index with a weight_map"):
        load_checkpoint(index, "stats")


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "a.pt").write_bytes(pickle.dumps({"w": Code()}))
    with pytest.raises(ValueError, match=r"expected a safetensors file, or one that torch\.load"):
        load_checkpoint(tmp_path / "a.pt", "stats")
    assert not (tmp_path / "ran").exists()


# ---- JSON


@pytest.mark.parametrize("reader", [Receipt.load, load_report])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "9" * 5000, "[]", "7"])
def test_text_that_is_no_such_file_is_a_value_error(
    reader: Callable[[Path], object], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^initstats\.\w+"):
        reader(path)


@pytest.mark.parametrize("field", ["parameters", "versions", "buffers", "seed"])
def test_a_receipt_without_a_field_says_so(field: str) -> None:
    values = json.loads((SAVED / "receipt_lstm.json").read_text())
    del values[field]
    with pytest.raises(ValueError, match=f"initstats.Receipt: expected the fields .* '{field}'"):
        Receipt.from_dict(values)


@pytest.mark.parametrize("part", ["settings", "findings", "loss", "layers", "parameters"])
def test_an_audit_without_a_part_says_so(part: str, tmp_path: Path) -> None:
    values = json.loads((SAVED / "audit.json").read_text())
    values[part] = 7
    path = tmp_path / "audit.json"
    path.write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match=rf"load_report: expected the values of .*: {part}: expected"
    ):
        load_report(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("several", [False, True])
def test_an_audit_is_wrong_at_any_place_or_has_a_page(several: bool, tmp_path: Path) -> None:
    random_ = random.Random(0)
    audits = readers.audits()
    values = json.loads(audits[several])
    places = [place for place in _places(values) if place]
    for _ in range(400):
        changed, place = json.loads(audits[several]), random_.choice(places)
        holder = changed
        for step in place[:-1]:
            holder = holder[step]
        if random_.random() < 0.3:
            del holder[place[-1]]
        else:
            holder[place[-1]] = random_.choice(WRONG)
        readers.read("report", json.dumps(changed).encode(), tmp_path)


WRONG = (None, "x", "nan", "inf", -1, [], {}, True, 1e308, 5e-324, 10**400, 2**62, [1, 2], {"a": 1})


def _places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to every value."""
    yield here
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*here, key))


def test_a_long_run_has_few_ticks(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    lines = (SAVED / "run.jsonl").read_text().splitlines()
    far = json.loads(lines[-1]) | {"step": 2**62, "steps": [2**62]}
    path.write_text("\n".join((*lines, json.dumps(far))))
    readers.rows(path)


def test_a_line_that_is_no_row_is_passed_over(tmp_path: Path) -> None:
    lines = (SAVED / "run.jsonl").read_text().splitlines()
    row = json.loads(lines[-1])
    bad = []
    for kind in row["tables"]:
        for change in ({"scale": 40}, {"scale": -1}, {"positive": []}):
            table = row["tables"][kind]
            if "histogram" in table:
                changed = table | {"histogram": table["histogram"] | change}
                bad.append(json.dumps(row | {"tables": {kind: changed}}))
    bad += [json.dumps(row | {"tables": 3}), json.dumps({"schema": row["schema"], "names": 4})]
    bad += ["[" * 100_000, "{" * 3]
    assert len(bad) > 6
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join([*bad, *lines, *bad]) + "\n")
    expected = [found.step for found in sinks.read_rows(SAVED / "run.jsonl")]
    assert [found.step for found in sinks.read_rows(path)] == expected
