"""More tokens than a checkpoint has: rows like the others, for embeddings and their heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from initstats.init.random import normal_
from initstats.planning.growth import Grown, whole, working_dtype
from initstats.recipes import Slot
from initstats.recipes.library.building import require_choice
from initstats.sharding import Box

# transformers, _init_added_embeddings_weights_with_mean: new rows are this
# part of the covariance apart, and biases this part of the standard deviation.
_SPREAD = 1e-9
_CHUNK = 1 << 24  # normals at a time
METHODS = ("covariance", "mean")


def resized_rows(
    method: str | None,
    groups: Sequence[tuple[Slot, ...]],
    values: Mapping[str, torch.Tensor],
    targets: Mapping[str, torch.Tensor],
) -> dict[str, Grown]:
    """Plan the parameters whose rows are tokens, and of which the model has more or fewer.

    Args:
        method: "covariance", "mean", or None for nothing.
        groups: The parameters of the model, tied names together.
        values: What the checkpoint has, by name in the model, of any shape.
        targets: The parameters of the model by name.

    Returns:
        What is made, by name, of embeddings with other rows, and of heads and their biases with the
        same two numbers of rows.

    Raises:
        ValueError: If `method` is unknown.

    Source: transformers `modeling_utils.py`, _init_added_embeddings_weights_with_mean; Hewitt 2021,
        "Initializing New Word Embeddings for Pretrained Language Models".
    """
    if method is None:
        return {}
    require_choice("warm_start_", "new_rows", method, METHODS)
    slots = {slot.name: (slot, group[0].key_name) for group in groups for slot in group}
    changed = {
        name: (len(x), len(targets[name]))
        for name, x in values.items()
        if name in slots  # buffers of a part of a model have other names there
        and not slots[name][0].is_buffer
        and x.dim() == targets[name].dim() >= 1
        and x.shape[1:] == targets[name].shape[1:]
        and len(x) != len(targets[name])
        and len(x)
    }
    tokens = {
        changes
        for name, changes in changed.items()
        if slots[name][0].role.name == "embedding" and values[name].dim() > 1
    }
    return {
        name: _resized(method, *slots[name], values[name], rows)
        for name, (_, rows) in changed.items()
        if changed[name] in tokens and slots[name][0].role.name in {"embedding", "head"}
    }


def _resized(method: str, slot: Slot, key: str, value: torch.Tensor, rows: int) -> Grown:
    old = len(value)
    if rows < old:
        return Grown((), f"the first {rows} rows of {old}", lambda _: whole(value)[:rows])
    row = getattr(slot.module, "padding_idx", None)
    padding = row % rows if isinstance(row, int) and value.dim() > 1 else None
    name = f"{key}@new rows" if method == "covariance" else ""

    def make(seed: int) -> torch.Tensor:
        return _extended(whole(value), rows, name, seed, padding)

    how = {"covariance": f"N(mean, {_SPREAD:g} covariance)", "mean": "the mean"}[method]
    return Grown((), f"{old} rows copied, {rows - old} new ones {how} of them", make)


def _extended(
    old: torch.Tensor, rows: int, key: str, seed: int, padding: int | None
) -> torch.Tensor:
    """Return the rows of a table and new ones; without a key all new ones are the mean.

    A sum of centred rows with normal weights, divided by the root of their number, has their
    covariance: nothing is factorised, and a singular covariance does no harm.
    """
    dtype = working_dtype(old)
    new = torch.empty(rows, *old.shape[1:], dtype=dtype, device=old.device)
    new[: len(old)] = old
    mean = old.mean(0, dtype=torch.float64).to(dtype)
    new[len(old) :] = mean
    if key and old.dim() == 1:  # biases
        normals = normal_(torch.empty_like(new[len(old) :]), seed=seed, name=key)
        new[len(old) :] += normals * (_SPREAD * old.std().to(dtype)).nan_to_num()
    elif key:
        centred = (old.to(dtype) - mean).flatten(1)
        added = new[len(old) :].view(rows - len(old), -1)
        step = max(1, _CHUNK // len(old))
        for start in range(0, len(added), step):
            part = added[start : start + step]
            weights = torch.empty(len(part), len(old), dtype=dtype, device=old.device)
            box = Box((start, 0), (len(added), len(old)))
            normal_(weights, seed=seed, name=key, box=box)
            part += (weights @ centred) * math.sqrt(_SPREAD / len(old))
    if padding is not None and padding >= len(old):
        new[padding] = 0
    return new
