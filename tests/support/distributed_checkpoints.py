"""Folders of torch.distributed.checkpoint with many chunks, written by one process."""

from __future__ import annotations

import itertools
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

Cuts = tuple[int, ...]  # parts per dimension


def save(folder: Path, state: Mapping[str, object]) -> Path:
    """Save a dictionary as one process does: every tensor is one chunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a process group
        dcp.save(dict(state), checkpoint_id=folder, no_dist=True)
    return folder


def save_in_chunks(folder: Path, tensors: Mapping[str, Tensor], cuts: Cuts = (2, 2)) -> Path:
    """Save tensors in chunks, as ranks do: one save per chunk, and the metadata of them all.

    A dimension is cut as torch.chunk cuts it; dimensions without a number are not cut.
    """
    stored: dict[MetadataIndex, object] = {}
    entries: dict[str, object] = {}
    for n, (name, whole) in enumerate(tensors.items()):
        chunks = []
        for i, (offset, chunk) in enumerate(cut(whole, cuts)):
            part = f"{n}-{i}"
            save(folder / part, {name: chunk.contiguous()})
            raw = pickle.loads((folder / part / ".metadata").read_bytes())  # our own
            (info,) = raw.storage_data.values()
            info.relative_path = f"{part}/{info.relative_path}"
            stored[MetadataIndex(name, torch.Size(offset))] = info
            chunks.append(ChunkStorageMetadata(torch.Size(offset), chunk.shape))
        properties = TensorProperties.create_from_tensor(whole)
        # Ranks write in any order.
        entries[name] = TensorStorageMetadata(properties, whole.shape, chunks[::-1])
    metadata = Metadata(entries, storage_data=stored)  # type: ignore[arg-type]
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def cut(whole: Tensor, cuts: Cuts) -> list[tuple[tuple[int, ...], Tensor]]:
    """Return the chunks of a tensor with their offsets."""
    starts = []
    for d, size in enumerate(whole.shape):
        most = max(1, -(-size // (cuts[d] if d < len(cuts) else 1)))
        starts.append(range(0, max(1, size), most))
    found = []
    for offset in itertools.product(*starts):
        chunk = whole
        for d, (start, steps) in enumerate(zip(offset, starts, strict=True)):
            chunk = chunk.narrow(d, start, min(steps.step, whole.shape[d] - start))
        found.append((offset, chunk))
    return found
