"""Read checkpoints, and build skeleton modules that hold their tensors, without running code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_EMBEDDING = re.compile(r"emb|wte|wpe|shared|table", re.IGNORECASE)
_POSITION_BIAS = re.compile(r"relative_attention_bias")
_CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_MATRIX_DIMS = 2
_RECURRENT: dict[int, Callable[..., nn.Module]] = {4: nn.LSTM, 3: nn.GRU, 1: nn.RNN}
_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
# Where training frameworks put the parameters beside steps, optimizers and configurations.
CHECKPOINT_KEYS = ("model", "state_dict", "model_state_dict")


@dataclass
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes:
        tensors: By name, on the CPU.
        left_out: Names of what could not be read, with the reason.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def load_checkpoint(path: Path, command: str) -> Checkpoint:
    """Read the tensors of a checkpoint, without running code from it.

    Args:
        path: A file of `torch.save` or of safetensors, or the index of a checkpoint in several such
            files (`model.safetensors.index.json`). Nested dictionaries give dotted names; if one of
            them is called "model", "state_dict" or "model_state_dict", it alone is read. Names
            that are no text become text.
        command: The command that messages name.

    Returns:
        The checkpoint. A tensor that cannot be read does not refuse the others.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it is a safetensors file and safetensors is not installed.
        ValueError: If it holds no tensors, two of one name, or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"initstats.{command}: expected a file, got {str(path)!r}")
    if path.name.endswith(".index.json"):
        found = _load_parts(path, command)
    elif path.suffix == ".safetensors":
        found = _load_safetensors(path, command)
    else:
        found = _load_torch(path, command)
    if not found.tensors and not found.left_out:
        raise ValueError(
            f"initstats.{command}: expected tensors by name, got none in {str(path)!r}"
        )
    return found


def _load_torch(path: Path, command: str) -> Checkpoint:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
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
    for name, tensor in _flattened(values, ""):
        if name in found.tensors:
            raise ValueError(
                f"initstats.{command}: expected every name once, got {name!r} twice in "
                f"{str(path)!r}"
            )
        found.tensors[name] = tensor
    return found


def _flattened(values: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries by dotted name."""
    if isinstance(values, Tensor) and prefix:
        yield prefix, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))


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
        files = dict(json.loads(index.read_text())["weight_map"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"initstats.{command}: expected an index with a weight_map, got {str(index)!r}"
        ) from error
    found = Checkpoint()
    for name in dict.fromkeys(files.values()):
        part = load_checkpoint(index.parent / str(name), command)
        found.tensors |= part.tensors
        found.left_out |= part.left_out
    return found


def skeleton(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Make a module that holds tensors under their names, with layers of the likely classes.

    Names and numbers of dimensions tell embeddings, norms, recurrent layers, Linear and
    convolutions apart, and running statistics batch norms. One row of zeros in an embedding is its
    padding row. The module cannot run.

    Args:
        tensors: Tensors by dotted name. Those of float16, bfloat16, float32 and float64 become
            parameters, but running statistics buffers; `not_judged` names the rest.

    Returns:
        The module. Nothing is copied, so tied tensors stay tied.
    """
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        owners.setdefault(path, {})[own] = tensor
    root: nn.Module = nn.ModuleDict()
    for path, held in owners.items():
        parent, parts = root, path.split(".") if path else []
        if not parts:
            _hold(root, held)
            continue
        # Through the dictionaries: add_module and getattr refuse names such as "keys", or find
        # methods.
        for part in parts[:-1]:
            parent = _children(parent).setdefault(part, nn.ModuleDict())
        known = _children(parent).get(parts[-1])
        if known is None:
            _children(parent)[parts[-1]] = _layer(path, held)
        else:
            _hold(known, held)
    return root


def not_judged(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the tensors that a skeleton has no parameter for, such as quantised ones: dtypes."""
    return {
        name: str(tensor.dtype).removeprefix("torch.")
        for name, tensor in tensors.items()
        if tensor.dtype not in _FLOATS and not name.endswith("num_batches_tracked")
    }


def _children(module: nn.Module) -> dict[str, nn.Module]:
    children: dict[str, nn.Module] = vars(module)["_modules"]
    return children


def _layer(path: str, held: Mapping[str, Tensor]) -> nn.Module:
    """Return a layer of the likely class that holds the tensors."""
    last = path.rpartition(".")[2]
    weight, hidden = held.get("weight"), held.get("weight_hh_l0")
    layer: nn.Module = nn.ModuleDict()
    if "running_mean" in held:
        layer = nn.BatchNorm2d(1, device="meta")
    elif hidden is not None and hidden.dim() == _MATRIX_DIMS and hidden.shape[1] > 0:
        rows, columns = hidden.shape
        layer = _RECURRENT.get(rows // columns, nn.RNN)(1, columns, device="meta")
    elif weight is not None and weight.dim() < _MATRIX_DIMS:
        layer = nn.LayerNorm(1, device="meta")
    elif weight is not None and weight.dim() == _MATRIX_DIMS:
        # A bias tells a Linear, whatever the name.
        named = _EMBEDDING.search(last) or _POSITION_BIAS.search(last)
        if named is not None and "bias" not in held:
            layer = nn.Embedding(1, 1, device="meta")
            layer.padding_idx = _padding_row(weight)
        else:
            layer = nn.Linear(1, 1, device="meta")
    elif weight is not None and weight.dim() in _CONVOLUTIONS:
        layer = _CONVOLUTIONS[weight.dim()](1, 1, 1, device="meta")
    _hold(layer, held)
    return layer


def _padding_row(table: Tensor) -> int | None:
    """Return the only row of zeros of a table; None where there is none, or more."""
    if table.dtype not in _FLOATS:
        return None
    zero = (table == 0).all(dim=1).nonzero().flatten().tolist()
    return zero[0] if len(zero) == 1 and len(table) > 1 else None


def _hold(module: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Replace the parameters and buffers of a module by tensors."""
    own = vars(module)
    if not isinstance(module, nn.ModuleDict):
        for name in own["_parameters"]:
            own["_parameters"][name] = None
        own["_buffers"].clear()
    for name, tensor in held.items():
        if name.startswith("running_"):
            own["_buffers"][name] = tensor
        elif tensor.dtype in _FLOATS:
            own["_parameters"][name] = nn.Parameter(tensor, requires_grad=False)
