"""Skeleton modules: tensors of a checkpoint under their names, in layers of the likely classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from initstats.checkpoints.checkpoint import FLOATS, Checkpoint

_EMBEDDING = re.compile(r"emb|wte|wpe|shared|table", re.IGNORECASE)
_POSITION_BIAS = re.compile(r"relative_attention_bias")
_CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_MATRIX_DIMS = 2
_RECURRENT: dict[int, Callable[..., nn.Module]] = {4: nn.LSTM, 3: nn.GRU, 1: nn.RNN}


def skeleton(
    tensors: Mapping[str, Tensor], padding_row: Callable[[str], int | None] | None = None
) -> nn.Module:
    """Make a module that holds tensors under their names, with layers of the likely classes.

    Names and numbers of dimensions tell embeddings, norms, recurrent layers, Linear and
    convolutions apart, and running statistics batch norms. One row of zeros in an embedding is its
    padding row. The module cannot run.

    Args:
        tensors: Tensors by dotted name. Those of float16, bfloat16, float32 and float64 become
            parameters, but running statistics buffers; `not_judged` names the rest.
        padding_row: Returns the padding row of a table by its name; `Checkpoint.padding_row` of the
            tensors when None.

    Returns:
        The module. Nothing is copied, so tied tensors stay tied.
    """
    row_of = padding_row or Checkpoint(dict(tensors)).padding_row
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
            _children(parent)[parts[-1]] = _layer(path, held, row_of)
        else:
            _hold(known, held)
    return root


def not_judged(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the tensors that a skeleton has no parameter for, such as quantised ones: why."""
    return {
        name: why
        for name, tensor in tensors.items()
        if (why := _why_no_parameter(tensor)) and not name.endswith("num_batches_tracked")
    }


def _why_no_parameter(tensor: Tensor) -> str:
    """Return the dtype or layout that recipes say nothing about; empty for a parameter's."""
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.dtype not in FLOATS:
        return str(tensor.dtype).removeprefix("torch.")
    return "" if tensor.numel() else "empty"


def _children(module: nn.Module) -> dict[str, nn.Module]:
    children: dict[str, nn.Module] = vars(module)["_modules"]
    return children


def _layer(
    path: str, held: Mapping[str, Tensor], padding_row: Callable[[str], int | None]
) -> nn.Module:
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
            layer.padding_idx = padding_row(f"{path}.weight")
        else:
            layer = nn.Linear(1, 1, device="meta")
    elif weight is not None and weight.dim() in _CONVOLUTIONS:
        layer = _CONVOLUTIONS[weight.dim()](1, 1, 1, device="meta")
    _hold(layer, held)
    return layer


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
        elif not _why_no_parameter(tensor):
            own["_parameters"][name] = nn.Parameter(tensor, requires_grad=False)
