"""Limits for files that others made: what they hold may not cost more than the files' own size."""

from __future__ import annotations

import json
import mmap
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Dictionaries of a checkpoint within each other, and entries of all of them: far above any model,
# and far below what a small file can pretend to by naming one dictionary many times.
MOST_LEVELS = 64
MOST_ENTRIES = 1_000_000
# torch allows it, no checkpoint needs it, and it makes as many zeros as a file says.
_MAKES_ZEROS = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")


def require_honest_size(path: Path, function: str) -> None:
    """Refuse a file of `torch.save` that unpacks to more than its own size.

    Args:
        path: The file.
        function: What messages name.

    Raises:
        ValueError: If it is a broken zip archive, or one with compressed or overlapping members,
            which `torch.save` does not write, or if it asks for memory by another way.
    """
    size = path.stat().st_size
    try:
        unpacked, pickles = 0, []
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
                if unpacked <= size:
                    names = [name for name in archive.namelist() if name.endswith(".pkl")]
                    pickles = [archive.read(name) for name in names]
    except Exception as error:  # zipfile raises anything on a broken archive
        raise ValueError(
            f"initstats.{function}: expected a whole archive, got {str(path)!r} ({error})"
        ) from error
    if unpacked > size:
        raise ValueError(
            f"initstats.{function}: expected an archive as torch.save writes it, got "
            f"{str(path)!r} of {size} bytes that unpacks to {unpacked}"
        )
    if size and not is_archive:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            makes_zeros = _MAKES_ZEROS.search(content) is not None
    else:
        makes_zeros = any(_MAKES_ZEROS.search(text) for text in pickles)
    if makes_zeros:
        raise ValueError(
            f"initstats.{function}: expected a file of tensors, got {str(path)!r} that makes a "
            "bytearray"
        )


def flattened(values: Any, function: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries by dotted name.

    Args:
        values: The dictionaries; anything else has no tensors with a name.
        function: What messages name.

    Yields:
        Names and tensors, in order.

    Raises:
        ValueError: If there are more than `MOST_LEVELS` dictionaries within each other (one that
            holds itself, for instance), or more than `MOST_ENTRIES` entries.
    """
    entries = 0
    todo: list[tuple[str, Iterator[tuple[Any, Any]]]] = []
    if isinstance(values, Mapping):
        todo.append(("", iter(values.items())))
    while todo:
        prefix, items = todo[-1]
        key, value = next(items, (None, todo))
        if value is todo:
            todo.pop()
            continue
        entries += 1
        if entries > MOST_ENTRIES or len(todo) > MOST_LEVELS:
            raise ValueError(
                f"initstats.{function}: expected at most {MOST_ENTRIES} entries in dictionaries "
                f"{MOST_LEVELS} deep, got more"
            )
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            todo.append((name, iter(value.items())))


def why_pretended(tensor: Tensor, size: int) -> str:
    """Tell why a tensor is larger than what its file holds.

    Args:
        tensor: A tensor that was read.
        size: Bytes of the file.

    Returns:
        The reason; empty for a tensor that is all there.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return ""
    if tensor.is_meta:
        return "it has no values"
    there = tensor.untyped_storage().nbytes()
    if there > size or tensor.numel() * tensor.element_size() > there:
        return f"shape {tuple(tensor.shape)}, more than the file holds"
    return ""


def read_json(path: Path, function: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        function: What messages name.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, or is nested deeper than Python reads.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"initstats.{function}: expected a JSON file, got path={path}: {error}"
        ) from error
