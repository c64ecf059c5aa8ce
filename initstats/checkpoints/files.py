"""Files of torch.save and safetensors, and indices of several files, without running code."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from initstats.checkpoints.checkpoint import CHECKPOINT_KEYS, Checkpoint
from initstats.checkpoints.distributed import is_distributed_checkpoint, load_distributed
from initstats.untrusted import flattened, read_json, require_honest_size, why_pretended


def load_checkpoint(path: Path, command: str) -> Checkpoint:
    """Read the tensors of a checkpoint, without running code from it.

    Args:
        path: A file of `torch.save` or of safetensors, the index of a checkpoint in several such
            files (`model.safetensors.index.json`), or a folder of `torch.distributed.checkpoint`.
            Nested dictionaries give dotted names; if one of them is called "model", "state_dict" or
            "model_state_dict", it alone is read. Names that are no text become text.
        command: The command that messages name.

    Returns:
        The checkpoint. A tensor that cannot be read does not refuse the others. Files are mapped
        into memory, of which the system drops what it needs for others; chunks of a folder are read
        when they are asked for.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it is a safetensors file and safetensors is not installed.
        ValueError: If it holds no tensors, two of one name, or cannot be read.
    """
    if not os.path.exists(path):  # noqa: PTH110  # Path.exists raises for loops and long names
        raise FileNotFoundError(f"initstats.{command}: expected a file, got {str(path)!r}")
    if path.is_dir() and not is_distributed_checkpoint(path):
        raise FileNotFoundError(
            f"initstats.{command}: expected a file, or a folder of torch.distributed.checkpoint, "
            f"got {str(path)!r} without .metadata"
        )
    if path.is_dir():
        found = load_distributed(path, command)
    elif not path.is_file():
        raise ValueError(
            f"initstats.{command}: expected a file, got {str(path)!r}, which is a pipe or a device;"
            " write it to a file first"
        )
    elif path.name.endswith(".index.json"):
        found = _load_parts(path, command)
    elif path.suffix.lower() == ".safetensors" or _looks_like_safetensors(path):
        found = _load_safetensors(path, command)
    else:
        found = _load_torch(path, command)
    if not found.tensors and not found.left_out:
        raise ValueError(
            f"initstats.{command}: expected tensors by name, got none in {str(path)!r}"
        )
    return found


def _looks_like_safetensors(path: Path) -> bool:
    """Tell whether a file begins as one of safetensors does: a length, then JSON."""
    with path.open("rb") as file:
        length, begin = int.from_bytes(file.read(8), "little"), file.read(2)
    return begin == b'{"' and length < path.stat().st_size


def _load_torch(path: Path, command: str) -> Checkpoint:
    require_honest_size(path, command)
    try:
        # The format before torch 1.6 is no zip file, and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler raises anything on a broken file
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        reason = "not a file of torch.save"
        if unsafe:
            reason = f"it holds objects of {unsafe[1]}, and code of a file is not run"
        raise ValueError(
            f"initstats.{command}: expected a safetensors file, or one that torch.load reads with"
            f" weights_only=True, got {str(path)!r} ({reason})"
        ) from error
    for key in CHECKPOINT_KEYS:
        inner = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(inner, Mapping):
            values = inner
    found = Checkpoint()
    for name, tensor in flattened(values, command):
        if name in found.tensors or name in found.left_out:
            raise ValueError(
                f"initstats.{command}: expected every name once, got {name!r} twice in "
                f"{str(path)!r}"
            )
        if why := why_pretended(tensor, path.stat().st_size):
            found.left_out[name] = why
        else:
            found.tensors[name] = tensor
    return found


def _load_safetensors(path: Path, command: str) -> Checkpoint:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"initstats.{command}: expected safetensors to be installed, got none; "
            "pip install initstats[safetensors]"
        ) from error
    found = Checkpoint()
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                try:
                    found.tensors[name] = file.get_tensor(name)
                except Exception as error:  # noqa: BLE001, PERF203  # a dtype that torch lacks, ...
                    found.left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"initstats.{command}: expected a safetensors file, got {str(path)!r} ({error})"
        ) from error
    return found


def _load_parts(index: Path, command: str) -> Checkpoint:
    """Read the files that an index of transformers names."""
    try:
        files = {str(k): str(v) for k, v in read_json(index, command)["weight_map"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"initstats.{command}: expected an index with a weight_map, got {str(index)!r}"
        ) from error
    if nested := [name for name in files.values() if name.endswith(".index.json")]:
        raise ValueError(
            f"initstats.{command}: expected an index with a weight_map to files of tensors, got "
            f"{nested[0]!r} in {str(index)!r}"
        )
    found = Checkpoint()
    for name in dict.fromkeys(files.values()):
        part = load_checkpoint(index.parent / name, command)
        found.tensors |= part.tensors
        found.left_out |= part.left_out
    return found
