"""Readers of files that others made, as functions of bytes; anything but ValueError is a finding.

`python tests/fuzz/fuzz.py` runs them under atheris; `tests/project/test_untrusted.py` with
mutations of the same seeds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch

from initstats import Receipt, sinks, stats
from initstats.auditing import load_report
from initstats.checkpoints import load_checkpoint, not_judged, skeleton
from initstats.statistics.compute import why_no_statistics

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
    """Read an audit."""
    load_report(path)


def rows(path: Path) -> None:
    """Read a run, and some of its records."""
    for row in sinks.read_rows(path):
        row.scalars()
        for table in row.tables.values():
            table.column("rms")
            for record in table.values():
                assert record.to_dict()


# Readers with the ends of the names of their files.
READERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "torch": (checkpoint, ".pt"),
    "safetensors": (checkpoint, ".safetensors"),
    "index": (checkpoint, ".index.json"),
    "receipt": (receipt, ".json"),
    "report": (report, ".json"),
    "rows": (rows, ".jsonl"),
}


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
        "report": [(SAVED / "audit.json").read_bytes()[:20_000]],
        "rows": [lines],
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
