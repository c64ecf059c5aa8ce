"""Cross-parameter checks: duplicates, wrong ties, equal or zero rows, columns and experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Computed, Constant, Derived, HalfBasis
from initstats.statistics.record import Stats
from initstats.verification.segments import COMPARED
from initstats.verification.values import FLOAT32_SLACK, Values

_FEWEST_ELEMENTS = 4  # below, two random pieces in a narrow dtype are equal by chance
_MATRIX_DIMS = 2
_VECTORS = 64  # of each matrix whose product must be 0
# Not random: each value is compared with what it must be.
_MAY_REPEAT = (Constant, Computed, Derived)


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


def relations(
    entries: Sequence[PlanEntry], records: Mapping[str, Stats], values: Values | None
) -> Iterator[Relation]:
    """Find problems that concern several pieces.

    Args:
        entries: The parameters.
        records: Records of their pieces and of their padding, by name.
        values: Where the measured values may be looked at; the records have fingerprints then.

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
            if values is not None:
                yield from _padding(entry, piece, records)
                yield from _duplicates(piece, records, seen)
                if piece.name in records:
                    yield from _repeats(entry, piece, records[piece.name], values)
    if values is not None:
        yield from _copies(entries, records, values)
        yield from _halves(entries, values)


def _padding(entry: PlanEntry, piece: Piece, records: Mapping[str, Stats]) -> Iterator[Relation]:
    """Find padding rows that are not zero."""
    padding = records.get(f"{entry.name}@padding")
    if padding is not None and padding.zero != padding.count:
        yield Relation(
            piece.name,
            "padding",
            f"padding row {entry.zero_row} is not 0",
            "initialised after the embedding was made, which sets the row to 0",
            "call initstats.init_, or zero the row",
        )


def _duplicates(
    piece: Piece, records: Mapping[str, Stats], seen: dict[tuple[int, int], str]
) -> Iterator[Relation]:
    """Find pieces with the same random values."""
    record = records.get(piece.name)
    if record is None or isinstance(piece.distribution, _MAY_REPEAT):
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


def _repeats(entry: PlanEntry, piece: Piece, record: Stats, values: Values) -> Iterator[Relation]:
    """Find slices of a random piece that are zero, or equal to an earlier slice.

    Slices are taken along the first two dimensions: the outputs and inputs of a matrix in either
    orientation, the experts of a bank [experts, ...]; in a bank of matrices along the last, too.
    """
    shape = piece.shape
    if len(shape) < _MATRIX_DIMS or isinstance(piece.distribution, _MAY_REPEAT):
        return
    if record.min == record.max:
        return  # one value everywhere is reported as such
    for dim in values.slice_dims(piece):
        allowed = entry.zero_row if dim == len(shape) - 2 else None
        zero, leaders = values.equal_slices(
            piece, dim, look_for_zero=record.zero >= min(COMPARED, piece.count // shape[dim])
        )
        word = ("row", "column", "slice")[dim]
        empty = [i for i in zero if i != allowed]
        if empty:
            yield Relation(
                piece.name,
                f"zero {word}s",
                f"{len(empty)} {word}s are 0, the first is {empty[0]}",
                "added and never written, or their units were pruned",
                "initialise the new ones: see initstats.init_new_",
            )
            return
        if leaders:
            yield _described(piece.name, leaders, shape[dim], dim, word)
            return


def _copies(
    entries: Sequence[PlanEntry], records: Mapping[str, Stats], values: Values
) -> Iterator[Relation]:
    """Find blocks that were copied within a piece, or from another one."""
    whole: dict[tuple[int, int], str] = {}  # pieces that equal an earlier one are duplicates
    pieces = [
        piece
        for entry in entries
        for piece in entry.pieces
        if (record := records.get(piece.name)) is not None
        and whole.setdefault((record.count, record.fingerprint), piece.name) == piece.name
    ]
    for place, of, others in values.copies(pieces):
        where = str(of) if of.name == place.name else f"{of} of {of.name}"
        yield Relation(
            place.name,
            "copies",
            f"{place} equals {where}, signs aside, and so do {others} more segments",
            "a part was copied after initialisation: heads, experts, tiles, or a transposed matrix",
            "initialise after copying: initstats.init_ gives every element its own value",
        )


def _halves(entries: Sequence[PlanEntry], values: Values) -> Iterator[Relation]:
    """Find matrices of complementary halves of one basis whose product is not 0.

    Looks at 64 rows of one and 64 columns of the other.
    """
    seen: dict[str, tuple[PlanEntry, HalfBasis]] = {}
    for entry in entries:
        mine = entry.distribution
        if not isinstance(mine, HalfBasis):
            continue
        other, theirs = seen.setdefault(mine.basis, (entry, mine))
        if theirs.half == mine.half:
            continue
        a, b = (
            _along_rank(values.whole(e.name, e.parameter), half)
            for e, half in ((other, theirs), (entry, mine))
        )
        # Of each element half a unit is rounded off, and sums in float32 may have made it.
        eps = max(torch.finfo(e.parameter.dtype).eps for e in (other, entry))
        norms = torch.linalg.vector_norm(a, dim=1)[:, None] * torch.linalg.vector_norm(b, dim=1)
        off = float(((a @ b.t()).abs() / norms.clamp_min(torch.finfo(norms.dtype).tiny)).max())
        if off > 2 * eps + FLOAT32_SLACK:
            yield Relation(
                entry.name,
                "orthogonal",
                f"the product with {other.name} is not 0: {off:.2g} of the norms",
                "drawn apart: the two matrices are not in complementary halves of one basis",
                "write both with initstats.init_",
            )


def _along_rank(values: torch.Tensor, half: HalfBasis) -> torch.Tensor:
    """Return up to 64 vectors of the size of the rank, [n, rank], in float64 on the CPU."""
    return values.movedim(half.dim, -1).reshape(-1, half.rank)[:_VECTORS].double().cpu()


def _described(name: str, leaders: Mapping[int, int], size: int, dim: int, word: str) -> Relation:
    """Describe equal slices: equal shards of every rank, or copies of some."""
    begin, first = next(iter(leaders.items()))
    period = begin - first
    copies = (leaders.get(i) == i % period for i in range(period, size))
    if size % period == 0 and first == 0 and all(copies):
        return Relation(
            name,
            "shards",
            f"the {size // period} parts along dimension {dim} are equal",
            "every rank drew its shard from the same seed (torchtitan#3106), or one head, expert "
            "or projection was copied over the others",
            "fill by global index: initstats.init_ does, whatever the shards",
        )
    end = begin
    while leaders.get(end + 1) == first + end + 1 - begin:
        end += 1
    of = f"{word} {begin} equals {word} {first}"
    if end > begin:
        of = f"{word}s {begin} to {end} equal {word}s {first} to {first + end - begin}"
    more = len(leaders) - (end - begin + 1)
    return Relation(
        name,
        f"equal {word}s",
        of + (f", and {more} more are copies" if more else ""),
        "heads, experts, units or packed projections (q = k) copied after initialisation, or drawn "
        "from the same seed",
        "initialise after copying: initstats.init_ gives every element its own value",
    )
