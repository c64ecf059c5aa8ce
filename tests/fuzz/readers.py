"""Readers of files that others made, as functions of bytes; anything but ValueError is a finding.

`python tests/fuzz/fuzz.py` runs them under atheris; `tests/project/test_untrusted.py` with
mutations of the same seeds.
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from initstats import Monitor, Receipt, audit, sinks, stats
from initstats.auditing import load_report
from initstats.checkpoints import load_checkpoint, not_judged, skeleton
from initstats.monitoring.reader import gradient_squares
from initstats.monitoring.report.page import run_page
from initstats.monitoring.row import Part, RankInfo, Row, Taken
from initstats.sinks.joining import join_rows
from initstats.sinks.row_table import row_table
from initstats.statistics.compute import why_no_statistics
from initstats.statistics.record_array import Records

SAVED = Path(__file__).resolve().parents[1] / "vectors/saved_0_1_0"


def checkpoint(path: Path) -> None:
    """Read a checkpoint, and measure what it holds."""
    found = load_checkpoint(path, "stats")
    usable = {name: t for name, t in found.tensors.items() if not why_no_statistics(t)}
    if usable:
        str(stats(usable))
    left_out = not_judged(found.tensors)
    skeleton({name: t for name, t in found.tensors.items() if name not in left_out})


def receipt(path: Path) -> None:
    """Read a receipt, and print it."""
    str(Receipt.load(path))


def report(path: Path) -> None:
    """Read an audit, and draw its page."""
    found = load_report(path)
    found._repr_html_()
    str(found)


def rows(path: Path) -> None:
    """Read a run and some of its records, and draw its pages."""
    found = list(sinks.read_rows(path))
    for row in found:
        row.scalars()
        for table in row.tables.values():
            table.column("rms")
            for record in table.values():
                assert record.to_dict()
    run_page(found, path.name)
    row_table(found[-1])


def ranks(path: Path) -> None:
    """Join the file of a rank with a good one of another."""
    other = path.with_name("rank1.jsonl")
    other.write_bytes(seeds()["ranks"][1])
    list(join_rows([path, other]))


def metadata(path: Path) -> None:
    """Read a folder of torch.distributed.checkpoint whose metadata were changed."""
    folder = path.parent / "metadata"
    _saved_distributed(folder)
    (folder / ".metadata").write_bytes(path.read_bytes())
    checkpoint(folder)


def chunk(path: Path) -> None:
    """Read a folder of torch.distributed.checkpoint whose file of chunks was changed."""
    folder = path.parent / "chunk"
    _saved_distributed(folder)
    (folder / "__0_0.distcp").write_bytes(path.read_bytes())
    checkpoint(folder)


# Readers with the ends of the names of their files.
READERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "torch": (checkpoint, ".pt"),
    "safetensors": (checkpoint, ".safetensors"),
    "index": (checkpoint, ".index.json"),
    "receipt": (receipt, ".json"),
    "report": (report, ".json"),
    "rows": (rows, ".jsonl"),
    "ranks": (ranks, ".jsonl"),
    "metadata": (metadata, ".pickle"),
    "chunk": (chunk, ".distcp"),
}


def _saved_distributed(folder: Path) -> None:
    """Write a folder of torch.distributed.checkpoint."""
    folder.mkdir(exist_ok=True)
    for name, content in _distributed().items():
        (folder / name).write_bytes(content)


@functools.cache
def _distributed() -> dict[str, bytes]:
    """Return the files of a small checkpoint of torch.distributed.checkpoint."""
    from torch.distributed.checkpoint import FileSystemWriter, save

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it saves in one process, as it should
        weights = {"h.0.weight": torch.ones(4, 3), "h.0.bias": torch.zeros(3)}
        save({"model": weights, "step": 1}, storage_writer=FileSystemWriter(folder), no_dist=True)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@functools.cache
def _run() -> list[bytes]:
    """Return the rows of a short training with NaN in it: of one process, and of two ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        sink = sinks.JsonLines(path)
        _train(sink)
        found = list(sinks.read_rows(path))
        files = [path.read_bytes()]
        for rank in range(2):
            info = RankInfo(rank=rank, scope="rank", world=2, run="fuzz", restarts=0)
            path = Path(folder) / f"rank{rank}.jsonl"
            sink = sinks.JsonLines(path)
            for row in found:
                sink.write(replace(row, ranks=info, part=_part(row, rank)))
            sink.close()
            files.append(path.read_bytes())
    return files


def _part(row: Row, rank: int) -> Part:
    """Return what a row of a rank keeps; the second rank has left out a step."""
    records = {kind: table.records for kind, table in row.tables.items()}
    by_step = {
        kind: (row.steps, Records(r.moments[None], r.counts[None])) for kind, r in records.items()
    }
    squares = gradient_squares(by_step["gradients"][1])
    taken = Taken(row.step, row.step + rank * (row.step > 1), 0, 1)
    return Part((rank,), 0.1, row.steps, squares, clipped=(False,), taken=taken, by_step=by_step)


@functools.cache
def audits() -> list[bytes]:
    """Return audits of a small model: one with findings, and one over two seeds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    found = []
    for scale, options in ((50.0, {}), (1.0, {"seeds": 2, "recipe": "mlp"})):
        batch = torch.full((8, 3), scale), torch.arange(8) % 2
        with tempfile.TemporaryDirectory() as folder:
            report = audit(model, batch, loss_fn=nn.functional.cross_entropy, steps=1, **options)
            report.save(folder, plot=False)
            found.append((Path(folder) / "audit.json").read_bytes())
    return found


def _train(sink: sinks.JsonLines) -> None:
    """Train a small network for three steps, with NaN in a gradient of the second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    watch = ("weights", "gradients", "activations", "updates", "moments")
    with Monitor(model, optimizer=optimizer, every=1, watch=watch, sinks=[sink]) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            if step == 1:
                model[0].weight.grad[0, 0] = float("nan")
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            monitor.step(loss=loss)


def seeds() -> dict[str, list[bytes]]:
    """Return small files of each kind, as they should be."""
    from safetensors.torch import save

    tensors = {"h.0.weight": torch.ones(4, 3), "h.0.bias": torch.zeros(3), "wte": torch.ones(2, 2)}
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"model": tensors, "step": 1}, zipped)
    torch.save(tensors, legacy, _use_new_zipfile_serialization=False)
    index = {"weight_map": {"h.0.weight": "a.safetensors"}}
    lines = (SAVED / "run.jsonl").read_bytes()
    return {
        "torch": [zipped.getvalue(), legacy.getvalue()],
        "safetensors": [save(tensors)],
        "index": [json.dumps(index).encode()],
        "receipt": [(SAVED / "receipt_lstm.json").read_bytes()],
        "report": audits(),
        "rows": [lines, _run()[0]],
        "ranks": _run()[1:],
        "metadata": [_distributed()[".metadata"]],
        "chunk": [_distributed()["__0_0.distcp"]],
    }


def read(kind: str, data: bytes, folder: Path) -> None:
    """Give bytes to a reader, as a file.

    Args:
        kind: One of `READERS`.
        data: The content of the file.
        folder: A folder for it.
    """
    function, suffix = READERS[kind]
    path = folder / f"file{suffix}"
    path.write_bytes(data)
    try:
        function(path)
    except ValueError:
        pass  # what it should say
    except FileNotFoundError:
        assert kind == "index"  # it names a file that is not there
