"""Folders of torch.distributed.checkpoint: `.metadata`, and chunks of tensors in files beside it.

torch's own reader and planning are used. Two things are done here: the metadata is unpickled with
the classes that it needs and no other, and chunks are read one at a time.
"""

from __future__ import annotations

import gc
import io
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import torch
from torch import Tensor

from initstats.checkpoints.checkpoint import CHECKPOINT_KEYS, Checkpoint, Offset
from initstats.untrusted import why_dishonest, why_immodest

METADATA = ".metadata"
# A chunk takes 140 bytes: 405 billion parameters on 1,024 ranks have 1.2 million chunks.
MOST_METADATA = 1 << 30
# torch.load leaves a reference cycle around what it read, which would be freed much later.
_WORTH_COLLECTING = 1 << 20  # bytes
# What the pickle of a Metadata names. Paths are of the machine that wrote it: they are not opened.
_CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", *(n for n in dir(torch) if isinstance(getattr(torch, n), torch.dtype))),
    "collections": ("OrderedDict",),
}
_PATHS = {"PosixPath": PurePosixPath, "WindowsPath": PureWindowsPath}


def is_distributed_checkpoint(path: Path) -> bool:
    """Tell whether a path is a folder of torch.distributed.checkpoint."""
    return path.is_dir() and (path / METADATA).is_file()


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the classes of `_CLASSES`, and so runs no code of the file."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "pathlib" and name in _PATHS:
            return _PATHS[name]
        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it holds objects of {module}.{name}, and code of a file is not run"
        )


def load_distributed(folder: Path, command: str) -> Checkpoint:
    """Read the metadata of a folder, and make a checkpoint that reads its chunks when asked.

    Args:
        folder: The folder.
        command: The command that messages name.

    Returns:
        The checkpoint, its tensors on the meta device. Names are those of the saved dictionary; if
        one of its keys is "model", "state_dict" or "model_state_dict", it alone is read.

    Raises:
        ValueError: If the metadata cannot be read, holds objects of other classes, would cost more
            than its size to read, or names a file outside the folder or a compressed one.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        reader = _reader(folder)
        metadata = reader.read_metadata()
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        for info in metadata.storage_data.values():
            _check_place(folder, info)
        entries = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        names = _names(entries, metadata.planner_data or {})
        held = _Held(folder, metadata.storage_data)
        found = Checkpoint(read=_Chunks(command, folder, reader, entries, names))
        for name, key in names.items():
            _take(found, name, key, entries[key], held)
    except Exception as error:  # unpickled objects of a broken file may lack anything
        raise ValueError(
            f"initstats.{command}: expected a folder that torch.distributed.checkpoint wrote, got "
            f"{str(folder)!r} ({_first_line(error)})"
        ) from error
    return found


def _take(found: Checkpoint, name: str, key: str, entry: Any, held: _Held) -> None:
    """Put a tensor into a checkpoint, or why it cannot be there."""
    chunks = sorted((tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks)
    problem = _gap(tuple(entry.size), chunks) or held.problem(key, entry)
    if problem:
        found.left_out[name] = problem
        return
    found.tensors[name] = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
    found.stored[name] = chunks


def _reader(folder: Path) -> Any:
    """Return torch's reader of a folder, which unpickles the metadata safely."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata

    class Reader(FileSystemReader):
        def read_metadata(self, *_args: Any, **_options: Any) -> Metadata:
            size = (folder / METADATA).stat().st_size
            if size > MOST_METADATA:
                raise ValueError(f"its {METADATA} has {size} bytes, more than {MOST_METADATA}")
            pickled = (folder / METADATA).read_bytes()
            if why := why_immodest(pickled):
                raise ValueError(f"its {METADATA} is not read: {why}")
            metadata = _Unpickler(io.BytesIO(pickled)).load()
            if not isinstance(metadata, Metadata):
                raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}")
            return metadata

    return Reader(folder)


def _check_place(folder: Path, info: Any) -> None:
    """Refuse a chunk that is compressed, or whose file is not in the folder of the metadata."""
    relative = str(info.relative_path)
    if getattr(info, "transform_descriptors", None):
        raise ValueError("its chunks are compressed")
    if not (folder / relative).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the chunks lie outside the folder, in {relative!r}")


def _names(entries: Mapping[str, Any], paths: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Return the key of each tensor in the metadata by its name in the saved dictionary."""
    places = {key: tuple(paths.get(key) or (key,)) for key in entries}
    for outer in CHECKPOINT_KEYS:
        inside = {k: path[1:] for k, path in places.items() if path[0] == outer and len(path) > 1}
        places = inside or places
    return {".".join(map(str, path)): key for key, path in places.items()}


def _gap(shape: Sequence[int], chunks: Sequence[tuple[Offset, Offset]]) -> str:
    """Say what keeps chunks from being the parts of a tensor; nothing if they are."""
    inside = min(shape, default=0) >= 0 and all(
        len(offset) == len(size) == len(shape)
        and min((*offset, *size), default=0) >= 0
        and all(a + n <= full for a, n, full in zip(offset, size, shape, strict=True))
        for offset, size in chunks
    )
    held, elements = sum(math.prod(size) for _, size in chunks), math.prod(shape)
    if inside and held == elements and len(dict(chunks)) == len(chunks):
        return ""
    return f"its chunks hold {held} elements, not the {elements} of shape {tuple(shape)}"


class _Held:
    """What the files of the chunks can hold: whoever asks for more would be given memory for it.

    Args:
        folder: The folder.
        places: Where each chunk is.
    """

    def __init__(self, folder: Path, places: Mapping[Any, Any]) -> None:
        self._folder, self._places = folder, places
        self._sizes: dict[str, int] = {}

    def problem(self, key: str, entry: Any) -> str:
        """Say which chunk of a tensor is larger than its place; nothing if none is."""
        from torch.distributed.checkpoint.metadata import MetadataIndex

        dtype = entry.properties.dtype
        if not isinstance(dtype, torch.dtype):
            return f"its dtype is {type(dtype).__name__}"
        for i, chunk in enumerate(entry.chunks):
            n = math.prod(chunk.sizes)
            place = self._places.get(MetadataIndex(key, chunk.offsets, i))
            if n and (place is None or n * dtype.itemsize > self._bytes(place)):
                there = "no file" if place is None else f"{self._bytes(place)} bytes"
                return f"a chunk of {n} elements in {there}"
        return ""

    def _bytes(self, place: Any) -> int:
        name = str(place.relative_path)
        if name not in self._sizes:
            file = self._folder / name
            # One that is missing is named when it is read.
            self._sizes[name] = file.stat().st_size if file.exists() else int(place.length)
        return min(int(place.length), self._sizes[name])


class _Chunks:
    """Reads blocks of tensors by torch's reader, one chunk in memory at a time."""

    def __init__(
        self,
        command: str,
        folder: Path,
        reader: Any,
        entries: Mapping[str, Any],
        names: Mapping[str, str],
    ) -> None:
        self._command, self._folder = command, folder
        self._reader, self._entries, self._names = reader, entries, names
        self._honest: set[tuple[str, int]] = set()  # chunks that were looked at

    def __call__(self, name: str, offset: Sequence[int], size: Sequence[int]) -> Tensor:
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
        from torch.distributed.checkpoint.planner import LoadPlan
        from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

        key = self._names[name]
        entry = self._entries[key]
        block = torch.empty(tuple(size), dtype=entry.properties.dtype)
        wanted = ChunkStorageMetadata(torch.Size(offset), torch.Size(size))
        items = create_read_items_for_chunk_list(key, entry, [wanted])
        try:
            for item in items:
                self._check_honest(self._reader.storage_data[item.storage_index])
            self._reader.read_data(LoadPlan(items), _into(block))
        except Exception as error:  # torch.load raises anything on a broken file
            raise ValueError(
                f"initstats.{self._command}: expected chunks of {name} that torch.load reads with "
                f"weights_only=True, got {str(self._folder)!r} ({_first_line(error)})"
            ) from error
        if block.nbytes >= _WORTH_COLLECTING:
            gc.collect(1)
        return block

    def _check_honest(self, place: Any) -> None:
        """Raise ValueError for a chunk that unpacks to more than its own size."""
        at = (str(place.relative_path), place.offset)
        if at in self._honest:
            return
        with (self._folder / at[0]).open("rb") as file:
            why = why_dishonest(_Slice(file, place.offset, place.length), place.length)
        if why:
            raise ValueError(f"a chunk {why}")
        self._honest.add(at)


class _Slice(io.RawIOBase):
    """A part of a file, as a file: torch's own view of one cannot be read by zipfile."""

    def __init__(self, file: IO[bytes], first: int, length: int) -> None:
        self._file, self._first, self._length, self._at = file, first, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, (0, self._at, self._length)[whence] + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._first + self._at)
        n = min(len(buffer), max(0, self._length - self._at))
        found = self._file.read(n)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _into(block: Tensor) -> Any:
    """Return a planner that puts what is read where it belongs in a block."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.planner import ReadItem

    class Planner(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: ReadItem) -> Tensor:
            where = block
            places = zip(read_item.dest_offsets, read_item.lengths, strict=True)
            for dim, (start, length) in enumerate(places):
                where = where.narrow(dim, start, length)
            return where

        def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
            del read_item, tensor  # it is in the block already

    return Planner()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
