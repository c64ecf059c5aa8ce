"""Write the pieces of a plan: one launch per distribution and device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch

from initstats.init._distributions import check_trunc_normal, check_uniform
from initstats.init.orthogonal_fills import orthogonal_
from initstats.init.random import foreach_normal_, foreach_trunc_normal_, foreach_uniform_
from initstats.planning.entry import Part, Piece, PlanEntry
from initstats.planning.sources import require_readable
from initstats.recipes import (
    Computed,
    Constant,
    Derived,
    HalfBasis,
    LogUniform,
    Normal,
    NormalisedRows,
    Orthogonal,
    Transformed,
    TruncNormal,
    Uniform,
)
from initstats.recipes.distributions.composite import Simple
from initstats.sharding import Box, is_dtensor, local_tensor

_D = TypeVar("_D", bound=Simple | Derived)


def fill_entries(function: str, entries: Sequence[PlanEntry], seed: int) -> None:
    """Fill the parameters of some entries.

    Normals take one launch per device, truncated normals one, and uniforms, logarithms of uniforms
    and constants one together; orthogonal matrices are one call, whatever their gains. What is
    derived from other parameters is written last. Keys come from the seed and the names.

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
    check_sources(function, written)
    with torch.no_grad():
        _fill(function, pieces, seed)
        for entry in written:
            if (padding := entry.padding) is not None:
                for part in padding.parts(function):
                    part.tensor.zero_()
        for entry in written:
            _derive(entry, seed)


def check_entries(function: str, entries: Sequence[PlanEntry]) -> None:
    """Raise the errors of all fills before the first one.

    Args:
        function: Public function on whose behalf this is done, for messages.
        entries: The entries; those that are kept are left out.

    Raises:
        TypeError: If rows of one norm are cut over ranks, or values are derived from another
            parameter and either is.
        ValueError: If no value of a dtype lies between the bounds of a distribution, or a source
            has no values.
    """
    for piece in (piece for entry in entries if not entry.keep for piece in entry.pieces):
        distribution, dtype = piece.distribution, piece.dtype
        if isinstance(distribution, Uniform):
            check_uniform(function, dtype, distribution.low, distribution.high)
        elif isinstance(distribution, TruncNormal):
            d = distribution
            check_trunc_normal(function, dtype, d.parent_mean, d.parent_std, d.low, d.high)
        elif isinstance(distribution, NormalisedRows):
            _check_rows(function, piece)


def check_sources(
    function: str, entries: Sequence[PlanEntry], *, materialised: bool = False
) -> None:
    """Raise the errors of derived values before the first fill.

    Args:
        function: Public function on whose behalf this is done, for messages.
        entries: The entries; those that are kept, or stay on the meta device, are left out.
        materialised: What is on the meta device will have values.

    Raises:
        TypeError: If either parameter is a DTensor, and it is no copy between two cut alike.
        ValueError: If a source has no values.
    """
    for entry in entries:
        stays = entry.parameter.is_meta and not materialised
        if entry.source is None or entry.keep or stays:
            continue
        assert isinstance(entry.distribution, Derived)
        pair = (entry.parameter, entry.source[1])
        require_readable(function, entry.name, entry.distribution, pair, materialised=materialised)


def _check_rows(function: str, piece: Piece) -> None:
    """Refuse rows of one norm that are cut over ranks: every rank refuses, also one without any."""
    if not is_dtensor(piece.parameter):
        return
    whole = {
        *piece.dropped,
        next(d for d in range(piece.parameter.dim()) if d not in piece.dropped),
    }
    cut = [p.dim % piece.parameter.dim() for p in piece.parameter.placements if hasattr(p, "dim")]
    if not set(cut) <= whole:
        raise TypeError(
            f"initstats.{function}: expected whole rows of {piece.name} on each rank, which are "
            f"normalised, got placements={tuple(piece.parameter.placements)}; shard it along "
            "dimension 0, or initialise before sharding"
        )


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

    _fill_transformed(_of(held, Transformed), seed)
    _fill_rows(_of(held, NormalisedRows), seed)
    for one, halves in _of(held, HalfBasis):
        _fill_half(one, halves, seed)
    for one, computed in _of(held, Computed):
        values = computed.values()
        if one.part.box is not None:
            ends = zip(one.part.box.offset, one.part.tensor.shape, strict=True)
            values = values[tuple(slice(first, first + n) for first, n in ends)]
        one.part.tensor.copy_(values)


def _fill_transformed(todo: Sequence[tuple[_Held, Transformed]], seed: int) -> None:
    """Write functions of uniforms, computed in float64 on the CPU: the same bits on any device."""
    if not todo:
        return
    held = [one for one, _ in todo]
    uniform = [
        torch.empty(one.part.tensor.shape, dtype=torch.float64, device="cpu") for one in held
    ]
    lows, highs = [d.low for _, d in todo], [d.high for _, d in todo]
    foreach_uniform_(uniform, lows, highs, seed=seed, names=_names(held), boxes=_boxes(held))
    for (one, transformed), u in zip(todo, uniform, strict=True):
        one.part.tensor.copy_(transformed.values(u))


def _fill_rows(todo: Sequence[tuple[_Held, NormalisedRows]], seed: int) -> None:
    """Write rows of one norm, normalised before they are rounded to a narrow dtype."""
    if not todo:
        return
    held = [one for one, _ in todo]
    tensors = [
        x if x.dtype is torch.float64 else x.float() for x in map(torch.empty_like, _tensors(held))
    ]
    foreach_normal_(tensors, seed=seed, names=_names(held), boxes=_boxes(held))
    for (one, rows), x in zip(todo, tensors, strict=True):
        norms = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float64)
        scale = (rows.norm / norms).view(-1, *(1,) * (x.dim() - 1))
        one.part.tensor.copy_(x * scale)


def _fill_half(held: _Held, halves: HalfBasis, seed: int) -> None:
    """Write normals in one half of a basis, summed in float64 on the CPU in a fixed order."""
    part, dim = held.part, halves.dim
    with torch.device("cpu"):
        basis = torch.empty(halves.rank, halves.rank, dtype=torch.float64)
        shape = tuple(n for d, n in enumerate(part.tensor.shape) if d != dim)
        normals = torch.empty(*shape, halves.rank // 2, dtype=torch.float64)
        total = torch.zeros(part.tensor.shape, dtype=torch.float64)
    orthogonal_(basis, seed=seed, name=f"{halves.basis}[basis]")
    box, first = None, 0
    if part.box is not None:
        offset, size = list(part.box.offset), list(part.box.size)
        first = offset.pop(dim)
        del size[dim]
        box = Box((*offset, 0), (*size, halves.rank // 2))
    foreach_normal_([normals], seed=seed, names=[held.piece.key_name], boxes=[box])
    rows = basis[0 if halves.half == "odd" else 1 :: 2, first : first + part.tensor.shape[dim]]
    at = [1] * part.tensor.dim()
    at[dim] = -1
    for i, row in enumerate(rows):
        total += row.view(at) * normals[..., i].unsqueeze(dim)
    part.tensor.copy_(total.mul_(halves.scale))


def _derive(entry: PlanEntry, seed: int) -> None:
    """Write values that come from another parameter."""
    if entry.source is None:
        return
    assert isinstance(entry.distribution, Derived)
    target, source = entry.parameter.detach(), entry.source[1].detach()
    if is_dtensor(target) and is_dtensor(source):  # cut alike: see require_readable
        target, source = local_tensor(target), local_tensor(source)
    values = entry.distribution.values(source)
    if entry.distribution.is_sampled:
        u = torch.empty(len(target), dtype=torch.float64, device="cpu")
        foreach_uniform_([u], 0.0, 1.0, seed=seed, names=[entry.key_name])
        values = values[(u * len(values)).long().clamp_(max=len(values) - 1).to(values.device)]
    target.copy_(values.reshape(target.shape))


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
