"""What only several records together tell: equal parameters, equal shards, ties, rows of zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Constant
from initstats.statistics.record import Stats

# Ranks for which a parameter may have been cut into equal shards.
_RANKS = (2, 4, 8, 16, 32, 64)
_COMPARED = 8  # elements of a row; equal by chance once in 2**80 even in bfloat16
_FEWEST_ELEMENTS = 4  # below, two random pieces in a narrow dtype are equal by chance
_MATRIX_DIMS = 2
_LONG_ROW = 8  # a shorter row of a narrow dtype may be zero by chance


class Relation(NamedTuple):
    """A problem that concerns one piece in its relation to others.

    Attributes:
        name: Name of the piece.
        kind: As `VerifyEntry.kind`.
        problem: What is wrong in words.
        cause: The likely cause.
        fix: What to do.
    """

    name: str
    kind: str
    problem: str
    cause: str
    fix: str


def padding_rows(entry: PlanEntry) -> dict[str, torch.Tensor]:
    """Return the padding row of a parameter, by the name of its record; empty without one.

    Args:
        entry: The parameter.

    Returns:
        At most one view.
    """
    if entry.zero_row is None:
        return {}
    return {f"{entry.name}@padding": entry.parameter.detach()[entry.zero_row]}


def relations(
    entries: Sequence[PlanEntry], records: Mapping[str, Stats], *, fingerprints: bool
) -> Iterator[Relation]:
    """Find what single records do not tell.

    Args:
        entries: The parameters.
        records: Records of their pieces and of `padding_rows`, by name.
        fingerprints: The records have fingerprints, and the parameters hold what was measured.

    Yields:
        The problems.
    """
    seen: dict[tuple[int, int], str] = {}
    for entry in entries:
        if entry.tie_problem:
            yield Relation(
                entry.name,
                "tied",
                entry.tie_problem,
                "one module put into several places, as [block] * n does",
                "make a module for each place; pass ignore={'tied'} if it is meant",
            )
        for piece in entry.pieces:
            if fingerprints:
                yield from _zeros(entry, piece, records)
                yield from _duplicates(piece, records, seen)
    if fingerprints:
        yield from _shards(entries)


def _zeros(entry: PlanEntry, piece: Piece, records: Mapping[str, Stats]) -> Iterator[Relation]:
    """Find rows of zeros that should not be, and padding rows that are not zero."""
    padding = records.get(f"{entry.name}@padding")
    if padding is not None and padding.zero != padding.count:
        yield Relation(
            piece.name,
            "padding",
            f"padding row {entry.zero_row} is not 0",
            "initialised after the embedding was made, which sets the row to 0",
            "call initstats.init_, or zero the row",
        )
    record, tensor = records.get(piece.name), piece.tensor
    if record is None or isinstance(piece.distribution, Constant) or tensor.dim() < _MATRIX_DIMS:
        return
    row = tensor[0].numel()
    if row < _LONG_ROW or record.zero < row or record.zero == record.count:
        return
    empty = (tensor == 0).flatten(1).all(dim=1)
    if entry.zero_row is not None:
        empty[entry.zero_row] = False
    found = empty.nonzero().flatten().tolist()
    if found:
        yield Relation(
            piece.name,
            "zero rows",
            f"{len(found)} rows are 0, the first is {found[0]}",
            "rows were added and never written, or their units were pruned",
            "initialise the new rows: see initstats.init_new_",
        )


def _duplicates(
    piece: Piece, records: Mapping[str, Stats], seen: dict[tuple[int, int], str]
) -> Iterator[Relation]:
    """Find pieces with the same random values."""
    record = records.get(piece.name)
    if record is None or isinstance(piece.distribution, Constant):
        return
    # One value everywhere is reported as such.
    if record.count < _FEWEST_ELEMENTS or record.min == record.max:
        return
    first = seen.setdefault((record.count, record.fingerprint), piece.name)
    if first != piece.name:
        yield Relation(
            piece.name,
            "duplicate",
            f"the same values as {first}",
            "blocks copied after initialisation (copy.deepcopy, nn.TransformerEncoder), or the "
            "same seed set again before each",
            "initialise after copying: initstats.init_ gives every name its own values",
        )


def _shards(entries: Sequence[PlanEntry]) -> Iterator[Relation]:
    """Find parameters whose equal parts along a dimension hold the same values.

    With any even number of equal shards the first row equals the middle one; the first elements of
    both tell, of all parameters at once.
    """
    places: dict[torch.device, list[tuple[PlanEntry, int]]] = {}
    for entry in entries:
        parameter = entry.parameter
        if parameter.dim() < _MATRIX_DIMS or len(entry.pieces) != 1 or _is_constant(entry):
            continue
        for dim in range(_MATRIX_DIMS):
            size = parameter.shape[dim]
            if size % 2 == 0 and parameter.numel() >= size * _COMPARED:
                places.setdefault(parameter.device, []).append((entry, dim))
    for here in places.values():
        first, middle = (
            torch.cat([_begin(entry, dim, part).float() for entry, dim in here]).view(-1, _COMPARED)
            for part in (0, 2)
        )
        same = ((first == middle).all(dim=1) & (first != first[:, :1]).any(dim=1)).tolist()
        for (entry, dim), is_same in zip(here, same, strict=True):
            if is_same:
                yield Relation(
                    entry.name,
                    "shards",
                    f"the {_ranks(entry, dim)} parts along dimension {dim} begin alike",
                    "every rank drew its shard from the same seed (torchtitan#3106)",
                    "fill by global index: initstats.init_ does, whatever the shards",
                )


def _begin(entry: PlanEntry, dim: int, parts: int) -> torch.Tensor:
    """Return the first elements of the second of so many parts; of the first part for 0."""
    parameter = entry.parameter.detach()
    start = parameter.shape[dim] // parts if parts else 0
    row = parameter.select(dim, start)
    while row.dim() > 1 and row.shape[-1] >= _COMPARED:
        row = row[0]
    return row.reshape(-1)[:_COMPARED]


def _ranks(entry: PlanEntry, dim: int) -> int:
    """Return the largest number of equal parts, among the usual numbers of ranks."""
    first = _begin(entry, dim, 0)
    size = entry.parameter.shape[dim]
    fits = (n for n in _RANKS if size % n == 0 and torch.equal(_begin(entry, dim, n), first))
    return max(fits, default=2)


def _is_constant(entry: PlanEntry) -> bool:
    return isinstance(entry.distribution, Constant)
