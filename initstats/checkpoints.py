"""Models without code: modules that hold the tensors of a checkpoint under their names."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

_EMBEDDING = re.compile(r"emb|wte|wpe|shared|table", re.IGNORECASE)
_POSITION_BIAS = re.compile(r"relative_attention_bias")
_CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_MATRIX_DIMS = 2
_RECURRENT: dict[int, Callable[..., nn.Module]] = {4: nn.LSTM, 3: nn.GRU, 1: nn.RNN}


def load_model(where: str) -> nn.Module:
    """Load a model: from a function that makes it, or a skeleton of a checkpoint.

    Args:
        where: `package.module:function`, where the function takes no arguments and returns a
            module; or the path of a file that `torch.load` reads with `weights_only=True`, or of a
            safetensors file.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the module cannot be imported, or safetensors is not installed.
        ValueError: If the function is missing or returns no module, or the file holds no tensors
            by name.
    """
    package, colon, function = where.partition(":")
    if colon and not Path(where).exists():
        make = getattr(import_module(package), function, None)
        model = make() if callable(make) else None
        if not isinstance(model, nn.Module):
            raise ValueError(
                "initstats.verify: expected module:function to name a function that returns a "
                f"torch.nn.Module, got {where!r}"
            )
        return model
    return skeleton(load_tensors(Path(where)))


def load_tensors(path: Path, command: str = "verify") -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without running code from it.

    Args:
        path: A file of `torch.save` or of safetensors, or the index of a checkpoint in several such
            files (`model.safetensors.index.json`). A nested dictionary is searched for one under
            "model", "state_dict" or "model_state_dict".
        command: The command that messages name.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it is a safetensors file and safetensors is not installed.
        ValueError: If it holds no tensors by name, or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"initstats.{command}: expected a file, got {str(path)!r}")
    if path.name.endswith(".index.json"):
        return _load_parts(path, command)
    if path.suffix == ".safetensors":
        return _load_safetensors(path, command)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"initstats.{command}: expected a safetensors file, or one that torch.load reads with"
            f" weights_only=True, got {str(path)!r}"
        ) from error
    for key in ("model", "state_dict", "model_state_dict"):
        inner = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(inner, Mapping):
            values = inner
    tensors = {}
    if isinstance(values, Mapping):
        tensors = {n: t for n, t in values.items() if isinstance(t, Tensor)}
    if not tensors:
        raise ValueError(
            f"initstats.{command}: expected tensors by name, got none in {str(path)!r}"
        )
    return tensors


def _load_safetensors(path: Path, command: str) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"initstats.{command}: expected safetensors to be installed, got none; "
            "pip install initstats[safetensors]"
        ) from error
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(
            f"initstats.{command}: expected a safetensors file, got {str(path)!r} ({error})"
        ) from error


def _load_parts(index: Path, command: str) -> dict[str, Tensor]:
    """Read the files that an index of transformers names."""
    try:
        files = dict(json.loads(index.read_text())["weight_map"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"initstats.{command}: expected an index with a weight_map, got {str(index)!r}"
        ) from error
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(files.values()):
        tensors |= load_tensors(index.parent / name, command)
    return tensors


def skeleton(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Make a module that holds tensors under their names, with layers of the likely classes.

    Names and numbers of dimensions tell embeddings, norms, recurrent layers, Linear and
    convolutions apart, and running statistics batch norms. It cannot run.

    Args:
        tensors: Tensors by dotted name; floating ones become parameters, the rest is left out.

    Returns:
        The module. Nothing is copied, so tied tensors stay tied.
    """
    owners: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        owners.setdefault(path, {})[own] = tensor
    root: nn.Module = nn.ModuleDict()
    for path, held in owners.items():
        layer = _layer(path, held)
        parts = path.split(".") if path else []
        if not parts:
            _hold(root, held)
            continue
        parent = root
        for part in parts[:-1]:
            if part not in parent._modules:  # noqa: SLF001  # names that ModuleDict refuses, too
                parent.add_module(part, nn.ModuleDict())
            parent = parent.get_submodule(part)
        known = vars(parent)["_modules"].get(parts[-1])
        if known is None:
            parent.add_module(parts[-1], layer)
        else:
            _hold(known, held)
    return root


def _layer(path: str, held: Mapping[str, Tensor]) -> nn.Module:
    """Return a layer of the likely class that holds the tensors."""
    last = path.rpartition(".")[2]
    weight = held.get("weight")
    layer: nn.Module = nn.ModuleDict()
    if "running_mean" in held:
        layer = nn.BatchNorm2d(1, device="meta")
    elif "weight_hh_l0" in held:
        rows, columns = held["weight_hh_l0"].shape
        layer = _RECURRENT.get(rows // columns, nn.RNN)(1, columns, device="meta")
    elif weight is not None and weight.dim() < _MATRIX_DIMS:
        layer = nn.LayerNorm(1, device="meta")
    elif weight is not None and weight.dim() == _MATRIX_DIMS:
        # A bias tells a Linear, whatever the name.
        named = _EMBEDDING.search(last) or _POSITION_BIAS.search(last)
        is_embedding = named is not None and "bias" not in held
        layer = (
            nn.Embedding(1, 1, device="meta") if is_embedding else nn.Linear(1, 1, device="meta")
        )
    elif weight is not None and weight.dim() in _CONVOLUTIONS:
        layer = _CONVOLUTIONS[weight.dim()](1, 1, 1, device="meta")
    _hold(layer, held)
    return layer


def _hold(module: nn.Module, held: Mapping[str, Tensor]) -> None:
    """Replace the parameters of a module by tensors, and drop its buffers."""
    if not isinstance(module, nn.ModuleDict):
        for name, _ in list(module.named_parameters(recurse=False)):
            if name not in held:
                module.register_parameter(name, None)
        for name, _ in list(module.named_buffers(recurse=False)):
            delattr(module, name)
    for name, tensor in held.items():
        if tensor.is_floating_point() and not name.startswith("running_"):
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
