"""Write the pieces of a plan: one launch per distribution and device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from initstats.init._distributions import check_trunc_normal, check_uniform
from initstats.init.orthogonal_fills import orthogonal_
from initstats.init.random import foreach_normal_, foreach_trunc_normal_, foreach_uniform_
from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Constant, LogUniform, Normal, Orthogonal, TruncNormal, Uniform
from initstats.recipes.distributions.composite import Simple

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
        _fill(pieces, seed)
        for entry in written:
            if (padding := entry.padding) is not None:
                padding.zero_()


def check_entries(function: str, entries: Sequence[PlanEntry]) -> None:
    """Raise the errors of all fills before the first one.

    Args:
        function: Public function on whose behalf this is done, for messages.
        entries: The entries; those that are kept are left out.

    Raises:
        ValueError: If no value of a dtype lies between the bounds of a distribution.
    """
    for piece in (piece for entry in entries if not entry.keep for piece in entry.pieces):
        distribution, dtype = piece.distribution, piece.tensor.dtype
        if isinstance(distribution, Uniform):
            check_uniform(function, dtype, distribution.low, distribution.high)
        elif isinstance(distribution, TruncNormal):
            d = distribution
            check_trunc_normal(function, dtype, d.parent_mean, d.parent_std, d.low, d.high)


def _fill(pieces: Sequence[Piece], seed: int) -> None:
    logs = _of(pieces, LogUniform)
    flat: list[tuple[Piece, float, float]] = [
        *((piece, d.low, d.high) for piece, d in _of(pieces, Uniform)),
        *((piece, d.low, d.high) for piece, d in logs),
        # An interval of one value is that value, rounded once.
        *((piece, d.value, d.value) for piece, d in _of(pieces, Constant)),
    ]
    if flat:
        foreach_uniform_(
            [piece.tensor for piece, _, _ in flat],
            [low for _, low, _ in flat],
            [high for _, _, high in flat],
            seed=seed,
            names=[piece.key_name for piece, _, _ in flat],
        )
    for piece, logarithm in logs:
        piece.tensor.log_().mul_(logarithm.sign)
    if normals := _of(pieces, Normal):
        foreach_normal_(
            [piece.tensor for piece, _ in normals],
            [d.mean for _, d in normals],
            [d.std for _, d in normals],
            seed=seed,
            names=[piece.key_name for piece, _ in normals],
        )
    if cut := _of(pieces, TruncNormal):
        parameters: list[Callable[[TruncNormal], float]] = [
            lambda d: d.parent_mean,
            lambda d: d.parent_std,
            lambda d: d.low,
            lambda d: d.high,
        ]
        foreach_trunc_normal_(
            [piece.tensor for piece, _ in cut],
            *([get(d) for _, d in cut] for get in parameters),
            seed=seed,
            names=[piece.key_name for piece, _ in cut],
        )
    if orthogonal := _of(pieces, Orthogonal):
        orthogonal_(
            [piece.tensor for piece, _ in orthogonal],
            [d.gain for _, d in orthogonal],
            seed=seed,
            name=[piece.key_name for piece, _ in orthogonal],
        )


def _of(pieces: Sequence[Piece], kind: type[_D]) -> list[tuple[Piece, _D]]:
    """Return the pieces of one distribution, with it."""
    return [(p, p.distribution) for p in pieces if isinstance(p.distribution, kind)]
