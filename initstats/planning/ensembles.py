"""Independent members of an ensemble, each with its own seed from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from initstats.init.keys import key_of
from initstats.planning.initialize import init_, seed_or_draw
from initstats.planning.validate import refuse_sharded
from initstats.recipes import Recipe

M = TypeVar("M", bound=nn.Module)


def ensemble(
    model_fn: Callable[[], M],
    n: int,
    recipe: Recipe | str,
    *,
    seed: int | None = None,
    device: torch.device | str | None = None,
) -> list[M]:
    """Make models with independent weights.

    The seed of member i comes from `seed` and i alone, so that a larger ensemble begins with the
    members of a smaller one, and each can be made on a machine of its own.

    Args:
        model_fn: Makes one model; on the meta device if `device` is given.
        n: Number of members, >= 1.
        recipe: A recipe or its name.
        seed: Seed of the ensemble, as in `init_`.
        device: As in `init_`.

    Returns:
        The models.

    Raises:
        TypeError: As `init_`, or if a model is sharded over ranks.
        ValueError: If `n` < 1, `model_fn` returns one model twice, or as `init_`.

    Determinism: bitwise, as `init_`.
    """
    if n < 1:
        raise ValueError(f"initstats.ensemble: expected n >= 1, got n={n}")
    seed = seed_or_draw("ensemble", seed)
    members: list[M] = []
    for i in range(n):
        model = model_fn()
        if any(model is other for other in members):
            raise ValueError(
                "initstats.ensemble: expected model_fn to make a new model each time, "
                "got one model twice"
            )
        if isinstance(model, nn.Module):
            refuse_sharded("ensemble", model)
        init_(model, recipe, seed=key_of(seed, f"ensemble member {i}"), device=device)
        members.append(model)
    return members
