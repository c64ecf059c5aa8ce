"""Write the pieces of a plan: one launch per distribution and device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch

from initstats.init._distributions import check_trunc_normal, check_uniform
from initstats.init.orthogonal_fills import orthogonal_
from initstats.init.random import foreach_normal_, foreach_trunc_normal_, foreach_uniform_
from initstats.planning.entry import Part, Piece, PlanEntry
from initstats.recipes import Constant, LogUniform, Normal, Orthogonal, TruncNormal, Uniform
from initstats.recipes.distributions.composite import Simple
from initstats.sharding import Box

_D = TypeVar("_D", bound=Simple)


def fill_entries(function: str, entries: Sequence[PlanEntry], seed: int) -> None:
    """Fill the parameters of some entries.

    Normals take one launch per device, truncated normals one, and uniforms, logarithms of uniforms
    and constants one together; orthogonal matrices are one call, whatever their gains. Keys come
    from the seed and the names.

    Args:
        function: Public function on whose behalf this is done, for messages.
        entries: The entries; those that are kept are left out. Meta parameters stay as they are.
        seed: Seed of all keys.

    Raises:
        ValueError: If no value of a dtype lies between the bounds of a distribution. Nothing has
            been written then.
    """
    written = [entry for entry in entries if not entry.keep and not entry.parameter.is_meta]
    pieces = [piece for entry in written for piece in entry.pieces]
    check_entries(function, written)
    with torch.no_grad():
        _fill(function, pieces, seed)
        for entry in written:
            if (padding := entry.padding) is not None:
                for part in padding.parts(function):
                    part.tensor.zero_()


def check_entries(function: str, entries: Sequence[PlanEntry]) -> None:
    """Raise the errors of all fills before the first one.

    Args:
        function: Public function on whose behalf this is done, for messages.
        entries: The entries; those that are kept are left out.

    Raises:
        ValueError: If no value of a dtype lies between the bounds of a distribution.
    """
    for piece in (piece for entry in entries if not entry.keep for piece in entry.pieces):
        distribution, dtype = piece.distribution, piece.dtype
        if isinstance(distribution, Uniform):
            check_uniform(function, dtype, distribution.low, distribution.high)
        elif isinstance(distribution, TruncNormal):
            d = distribution
            check_trunc_normal(function, dtype, d.parent_mean, d.parent_std, d.low, d.high)


def _fill(function: str, pieces: Sequence[Piece], seed: int) -> None:
    held = [_Held(part, piece) for piece in pieces for part in piece.parts(function)]
    logs = _of(held, LogUniform)
    flat: list[tuple[_Held, float, float]] = [
        *((one, d.low, d.high) for one, d in _of(held, Uniform)),
        *((one, d.low, d.high) for one, d in logs),
        # An interval of one value is that value, rounded once.
        *((one, d.value, d.value) for one, d in _of(held, Constant)),
    ]
    if flat:
        some = [one for one, _, _ in flat]
        foreach_uniform_(
            _tensors(some),
            [low for _, low, _ in flat],
            [high for _, _, high in flat],
            seed=seed,
            names=_names(some),
            boxes=_boxes(some),
        )
    for one, logarithm in logs:
        one.part.tensor.log_().mul_(logarithm.sign)
    if normals := _of(held, Normal):
        some = [one for one, _ in normals]
        foreach_normal_(
            _tensors(some),
            [d.mean for _, d in normals],
            [d.std for _, d in normals],
            seed=seed,
            names=_names(some),
            boxes=_boxes(some),
        )
    if cut := _of(held, TruncNormal):
        some = [one for one, _ in cut]
        parameters: list[Callable[[TruncNormal], float]] = [
            lambda d: d.parent_mean,
            lambda d: d.parent_std,
            lambda d: d.low,
            lambda d: d.high,
        ]
        foreach_trunc_normal_(
            _tensors(some),
            *([get(d) for _, d in cut] for get in parameters),
            seed=seed,
            names=_names(some),
            boxes=_boxes(some),
        )
    if orthogonal := _of(held, Orthogonal):
        some = [one for one, _ in orthogonal]
        orthogonal_(
            _tensors(some),
            [d.gain for _, d in orthogonal],
            seed=seed,
            name=_names(some),
            box=_boxes(some),
        )


class _Held(NamedTuple):
    """What this rank holds of a piece."""

    part: Part
    piece: Piece


def _tensors(held: Sequence[_Held]) -> list[torch.Tensor]:
    return [one.part.tensor for one in held]


def _names(held: Sequence[_Held]) -> list[str]:
    return [one.piece.key_name for one in held]


def _boxes(held: Sequence[_Held]) -> list[Box | None] | None:
    """Return the boxes; None where every piece is held whole."""
    boxes = [one.part.box for one in held]
    return None if all(box is None for box in boxes) else boxes


def _of(held: Sequence[_Held], kind: type[_D]) -> list[tuple[_Held, _D]]:
    """Return what is held of one distribution, with it."""
    found = ((one, one.piece.distribution) for one in held)
    return [(one, d) for one, d in found if isinstance(d, kind)]
