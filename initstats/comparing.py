"""What only several records together tell: equal parameters, equal shards, ties, rows of zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from initstats.plan_entry import Piece, PlanEntry
from initstats.recipes import Constant
from initstats.record import Stats

# Ranks for which a parameter may have been cut into equal shards.
_RANKS = (2, 4, 8)
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


def views_to_measure(entry: PlanEntry) -> dict[str, torch.Tensor]:
    """Return the rows and columns of a parameter whose records tell shards and padding apart.

    Args:
        entry: The parameter.

    Returns:
        Views by name: the padding row, and the first row and column of each shard of 2, 4, 8.
    """
    parameter = entry.parameter.detach()
    views: dict[str, torch.Tensor] = {}
    if entry.zero_row is not None:
        views[f"{entry.name}@padding"] = parameter[entry.zero_row]
    if parameter.dim() < _MATRIX_DIMS or len(entry.pieces) != 1 or _is_constant(entry):
        return views
    for dim in range(_MATRIX_DIMS):
        size = parameter.shape[dim]
        if parameter.numel() // size < _FEWEST_ELEMENTS:
            continue
        for start in {0, *(size // ranks for ranks in _RANKS if size % ranks == 0)}:
            if start or size > 1:
                views[f"{entry.name}@{dim},{start}"] = parameter.select(dim, start)
    return views


def relations(
    entries: Sequence[PlanEntry], records: Mapping[str, Stats], *, fingerprints: bool
) -> Iterator[Relation]:
    """Find what single records do not tell.

    Args:
        entries: The parameters.
        records: Records of their pieces and of `views_to_measure`, by name.
        fingerprints: The records have fingerprints.

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
            yield from _zeros(entry, piece, records)
            if fingerprints:
                yield from _duplicates(piece, records, seen)
        if fingerprints:
            yield from _shards(entry, records)


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


def _shards(entry: PlanEntry, records: Mapping[str, Stats]) -> Iterator[Relation]:
    """Find a parameter whose equal parts along a dimension hold the same values."""
    for dim in range(_MATRIX_DIMS):
        first = records.get(f"{entry.name}@{dim},0")
        if first is None or first.min == first.max:
            continue
        size = entry.parameter.shape[dim]
        for ranks in _RANKS:
            other = records.get(f"{entry.name}@{dim},{size // ranks}")
            if size % ranks or other is None or other.fingerprint != first.fingerprint:
                continue
            yield Relation(
                entry.name,
                "shards",
                f"the {ranks} parts along dimension {dim} begin with the same values",
                "every rank drew its shard from the same seed (torchtitan#3106)",
                "fill by global index: initstats.init_ does, whatever the shards",
            )
            return


def _is_constant(entry: PlanEntry) -> bool:
    return isinstance(entry.distribution, Constant)
