"""Cross-parameter checks: duplicates, wrong ties, equal or zero rows, columns and experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Constant
from initstats.statistics.record import Stats

# Elements of a slice that are compared first; equal by chance once in 2**80 even in bfloat16. A
# shorter slice is not looked at: in a narrow dtype it may be zero, or equal to another, by chance.
_COMPARED = 8
_FEWEST_ELEMENTS = 4  # below, two random pieces in a narrow dtype are equal by chance
_MATRIX_DIMS = 2
_BANK_DIMS = 3
_CHUNK = 1 << 22  # elements compared at a time


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
    row = entry.padding
    return {} if row is None else {f"{entry.name}@padding": row}


def relations(
    entries: Sequence[PlanEntry], records: Mapping[str, Stats], *, fingerprints: bool
) -> Iterator[Relation]:
    """Find problems that concern several pieces.

    Args:
        entries: The parameters.
        records: Records of their pieces and of `padding_rows`, by name.
        fingerprints: The records have fingerprints, and the parameters hold the measured values.

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
                yield from _padding(entry, piece, records)
                yield from _duplicates(piece, records, seen)
                if piece.name in records:
                    yield from _repeats(entry, piece, records[piece.name])


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


def _repeats(entry: PlanEntry, piece: Piece, record: Stats) -> Iterator[Relation]:
    """Find slices of a random piece that are zero, or equal to an earlier slice.

    Slices are taken along the first two dimensions: the outputs and inputs of a matrix in either
    orientation, the experts of a bank [experts, ...]; in a bank of matrices along the last, too.
    """
    tensor = piece.tensor
    if tensor.dim() < _MATRIX_DIMS or isinstance(piece.distribution, Constant):
        return
    if record.min == record.max:
        return  # one value everywhere is reported as such
    for dim in range(min(tensor.dim(), _BANK_DIMS)):
        size = tensor.shape[dim]
        if size < 1 or tensor.numel() < size * _COMPARED:
            continue
        allowed = entry.zero_row if dim == tensor.dim() - 2 else None
        zero, leaders = _equal_slices(tensor, dim, look_for_zero=record.zero >= _COMPARED)
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
            yield _described(piece.name, leaders, size, dim, word)
            return


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


def _equal_slices(
    tensor: torch.Tensor, dim: int, *, look_for_zero: bool
) -> tuple[list[int], dict[int, int]]:
    """Return the slices along dim that are all zero, and those that equal an earlier one, by index.

    The first elements of every slice find candidates, which are then compared in full.
    """
    slices = tensor.detach().movedim(dim, 0)
    heads = _beginnings(slices).to("cpu", torch.float64).contiguous()
    candidates: list[int] = []
    if look_for_zero:
        candidates = (heads == 0).all(dim=1).nonzero().flatten().tolist()
    zero = [
        i for i, is_zero in zip(candidates, _all_zero(slices, candidates), strict=True) if is_zero
    ]
    # Equal bits are equal bytes; numpy finds them by sorting.
    keys = heads.numpy().view(f"V{heads.shape[1] * heads.element_size()}").ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    leader = first[inverse]
    dead = set(zero)
    copies = [i for i in np.flatnonzero(leader != np.arange(len(leader))).tolist() if i not in dead]
    leads = [int(leader[i]) for i in copies]
    same = _all_equal(slices, copies, leads)
    return zero, {i: lead for i, lead, is_same in zip(copies, leads, same, strict=True) if is_same}


def _beginnings(slices: torch.Tensor) -> torch.Tensor:
    """Return the first elements of every slice, [n, 8], and no copy of more than that."""
    found = 1
    for d in range(slices.dim() - 1, 0, -1):
        slices = slices.narrow(d, 0, min(slices.shape[d], -(-_COMPARED // found)))
        found *= slices.shape[d]
    return slices.reshape(slices.shape[0], -1)[:, :_COMPARED]


def _all_zero(slices: torch.Tensor, at: Sequence[int]) -> list[bool]:
    """Tell which slices are all zero."""
    return [not bool(slices[i].any()) for i in at]


def _all_equal(slices: torch.Tensor, at: Sequence[int], others: Sequence[int]) -> list[bool]:
    """Tell which of two lists of slices are equal, in chunks."""
    same: list[bool] = []
    step = max(1, _CHUNK * slices.shape[0] // max(1, slices.numel()))
    for i in range(0, len(at), step):
        mine, theirs = (
            slices.index_select(0, torch.tensor(some[i : i + step], device=slices.device))
            for some in (at, others)
        )
        same += (mine == theirs).flatten(1).all(dim=1).tolist()
    return same
