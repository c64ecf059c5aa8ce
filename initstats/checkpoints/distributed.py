"""Folders of torch.distributed.checkpoint: `.metadata`, and chunks of tensors in files beside it.

torch's own reader and planning are used. Two things are done here: the metadata is unpickled with
the classes that it needs and no other, and chunks are read one at a time.
"""

from __future__ import annotations

import gc
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from initstats.checkpoints.checkpoint import CHECKPOINT_KEYS, Checkpoint, Offset

METADATA = ".metadata"
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
        ValueError: If the metadata cannot be read, holds objects of other classes, or names a file
            outside the folder.
    """
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        reader = _reader(folder)
        metadata = reader.read_metadata()
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        for info in metadata.storage_data.values():
            _check_inside(folder, str(info.relative_path))
        entries = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        names = _names(entries, metadata.planner_data or {})
    except Exception as error:  # the unpickler raises anything on a broken file
        raise ValueError(
            f"initstats.{command}: expected a folder that torch.distributed.checkpoint wrote, got "
            f"{str(folder)!r} ({_first_line(error)})"
        ) from error
    found = Checkpoint(read=_Chunks(command, folder, reader, entries, names))
    for name, key in names.items():
        entry = entries[key]
        chunks = sorted((tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks)
        problem = _gap(tuple(entry.size), chunks)
        if problem:
            found.left_out[name] = problem
            continue
        found.tensors[name] = torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        found.stored[name] = chunks
    return found


def _reader(folder: Path) -> Any:
    """Return torch's reader of a folder, which unpickles the metadata safely."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata

    class Reader(FileSystemReader):
        def read_metadata(self, *_args: Any, **_options: Any) -> Metadata:
            with (folder / METADATA).open("rb") as file:
                metadata = _Unpickler(file).load()
            if not isinstance(metadata, Metadata):
                raise pickle.UnpicklingError(f"it holds a {type(metadata).__name__}")
            return metadata

    return Reader(folder)


def _check_inside(folder: Path, relative: str) -> None:
    """Refuse the file of a chunk that is not in the folder of the metadata."""
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
    whole = torch.Size(shape)
    inside = all(
        len(offset) == len(size) == len(whole)
        and min((*offset, *size), default=0) >= 0
        and all(a + n <= full for a, n, full in zip(offset, size, whole, strict=True))
        for offset, size in chunks
    )
    held = sum(math.prod(size) for _, size in chunks)
    if inside and held == whole.numel() and len(dict(chunks)) == len(chunks):
        return ""
    return f"its chunks hold {held} elements, not the {whole.numel()} of shape {tuple(whole)}"


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
            self._reader.read_data(LoadPlan(items), _into(block))
        except Exception as error:  # torch.load raises anything on a broken file
            raise ValueError(
                f"initstats.{self._command}: expected chunks of {name} that torch.load reads with "
                f"weights_only=True, got {str(self._folder)!r} ({_first_line(error)})"
            ) from error
        if block.nbytes >= _WORTH_COLLECTING:
            gc.collect(1)
        return block


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
