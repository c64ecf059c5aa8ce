"""Read the files that wandb writes offline: the log format of LevelDB after seven bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def wandb_records(folder: Path, kind: str) -> list[Any]:
    """Return the records of a kind, such as "history", that all runs in a folder hold."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # ends the process that writes, so that the files are whole
    found = []
    for path in sorted({path.resolve() for path in folder.rglob("*.wandb")}):
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """Return what was logged, a dictionary per step."""
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.item}
        for record in wandb_records(folder, "history")
    ]


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = _HEADER, b""
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:  # the rest of a block that no header fits into
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        part = data[at + _HEADER : at + _HEADER + size]
        at += _HEADER + size
        if kind not in {_WHOLE, _FIRST, _MIDDLE, _LAST}:
            return
        parts = part if kind in {_WHOLE, _FIRST} else parts + part
        if kind in {_WHOLE, _LAST}:
            yield parts
