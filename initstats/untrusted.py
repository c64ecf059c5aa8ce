"""Limits for files that others made: what they hold may not cost more than the files' own size."""

from __future__ import annotations

import io
import json
import mmap
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

# Dictionaries of a checkpoint within each other, and entries of all of them: far above any model,
# and far below what a small file can pretend to by naming one dictionary many times.
MOST_LEVELS = 64
MOST_ENTRIES = 1_000_000
# Entries of objects that a pickle may name per byte: two bytes name a shape that is there already.
MOST_NAMED_AGAIN = 64
# torch allows it, no checkpoint needs it, and it makes as many zeros as a file says.
_MAKES_ZEROS = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")
_MAKES_A_BYTEARRAY = "that makes a bytearray"


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
    with path.open("rb") as file:
        why = why_dishonest(file, size)
        if not why and size and not zipfile.is_zipfile(path):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                why = _MAKES_A_BYTEARRAY if _MAKES_ZEROS.search(content) else ""
    if why:
        raise ValueError(
            f"initstats.{function}: expected a file of tensors as torch.save writes it, got "
            f"{str(path)!r} {why}"
        )


def why_dishonest(file: IO[bytes] | io.RawIOBase, size: int) -> str:
    """Tell why an archive of `torch.save` would cost more than its own size.

    Args:
        file: The archive, seekable; anything that is none is let through.
        size: Its bytes.

    Returns:
        The reason, to be read after the name of the file; empty for an honest archive.
    """
    try:
        if not zipfile.is_zipfile(cast("IO[bytes]", file)):
            return ""
        with zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > size:
                return f"of {size} bytes that unpacks to {unpacked}"
            names = [name for name in archive.namelist() if name.endswith(".pkl")]
            if any(_MAKES_ZEROS.search(archive.read(name)) for name in names):
                return _MAKES_A_BYTEARRAY
    except Exception as error:  # noqa: BLE001  # zipfile raises anything on a broken archive
        return f"that is no whole archive ({error})"
    finally:
        file.seek(0)
    return ""


def why_immodest(pickled: bytes) -> str:
    """Tell why reading a pickle would cost more than its own size, without reading it.

    A short pickle can ask for a memo of gigabytes, hold tuples so deep that hashing them ends the
    process, or name one tuple many times, which takes for ever. Bounds are far above what
    `torch.distributed.checkpoint` writes.

    Args:
        pickled: The pickle, of protocol 2 or newer.

    Returns:
        The reason; empty for a modest pickle.
    """
    most = MOST_NAMED_AGAIN * len(pickled) + MOST_LEVELS
    scan = _Scan()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            levels, entries = scan.step(opcode.name, argument)
            if levels > MOST_LEVELS:
                return f"it holds objects {MOST_LEVELS} deep within each other"
            if entries > most:
                return f"it names its {len(pickled)} bytes again and again"
            if opcode.name in _PUT and int(argument or 0) > len(pickled):
                return f"it numbers an object {argument} in {len(pickled)} bytes"
    except (IndexError, KeyError, ValueError, UnicodeDecodeError) as error:
        return f"it is no pickle of torch: {type(error).__name__}: {error}"
    return ""


_PUT = frozenset({"BINPUT", "LONG_BINPUT"})
_GET = frozenset({"BINGET", "LONG_BINGET"})
_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})
_ATOMS = frozenset(
    {
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4"),
        *("BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "GLOBAL"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
        *("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    }
)
# Objects that an opcode takes from the stack to make one of them, or to put them into the next.
_MADE_OF = {
    "TUPLE1": 1,
    "TUPLE2": 2,
    "TUPLE3": 3,
    "STACK_GLOBAL": 2,
    "REDUCE": 2,
    "NEWOBJ": 2,
    "NEWOBJ_EX": 3,
}
_PUT_INTO = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_MADE_OF_MARKED = frozenset({"TUPLE", "LIST", "DICT", "FROZENSET"})
_MARKED_INTO = frozenset({"APPENDS", "SETITEMS", "ADDITEMS"})


class _Scan:
    """Follows the stack of an unpickler: of each object its levels and entries, itself included.

    They are lists that the stack and the memo share, since an object grows after it is numbered.
    """

    def __init__(self) -> None:
        self._stack: list[list[int]] = []
        self._marks: list[int] = []
        self._memo: dict[int, list[int]] = {}

    def step(self, name: str, argument: Any) -> list[int]:
        """Follow one opcode, and return the levels and entries of the topmost object.

        Raises:
            IndexError: If the stack is too short.
            KeyError: If an object has no such number.
            ValueError: If torch does not write the opcode.
        """
        stack = self._stack
        if name in _ATOMS:
            stack.append([0, 1])
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _PUT:
            self._memo[argument] = stack[-1]
        elif name in _GET:
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name not in _NOTHING:
            self._collect(name)
        return stack[-1] if stack else [0, 0]

    def _collect(self, name: str) -> None:
        """Follow an opcode that takes objects from the stack."""
        marked = name in _MADE_OF_MARKED or name in _MARKED_INTO
        count = _MADE_OF.get(name, _PUT_INTO.get(name))
        if count is None and not marked:
            raise ValueError(f"opcode {name}")
        first = self._marks.pop() if count is None else len(self._stack) - count
        if first < 0:
            raise IndexError("the stack is too short")
        parts = self._stack[first:]
        del self._stack[first:]
        if name in _MADE_OF or name in _MADE_OF_MARKED:
            self._stack.append([0, 1])
        whole = self._stack[-1]
        for levels, entries in parts:
            whole[0] = max(whole[0], levels + 1)
            whole[1] += entries


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
