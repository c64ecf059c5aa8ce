"""Likely causes of deviations from a recipe: known mistakes and the ratios they leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from initstats.planning.entry import Piece, PlanEntry
from initstats.recipes import Stacked, TruncNormal
from initstats.recipes.distributions.composite import Simple
from initstats.recipes.distributions.truncated import TRUNCATED_AT_TWO
from initstats.recipes.library.building import RESIDUAL, framework_default
from initstats.statistics.record import Stats

_FIX = "call initstats.init_ with this recipe last, after the model is built and its ties are made"
_GARBAGE = 1e3  # times the promised std: no initialiser writes that
_SHARDS = (2, 4, 8, 16)
# A sample whose std is known no better than this tells no cause by its ratio, unless that is large.
_RESOLVED = 0.25


class Cause(NamedTuple):
    """The likely cause of a deviation, and what to do."""

    cause: str
    fix: str


_ABSOLUTE_BOUNDS = Cause(
    "not truncated: the bounds of torch's trunc_normal_ are absolute, a=-2 and b=2 whatever std is",
    "pass bounds in units of std (a=-2 * std, b=2 * std), or call initstats.init_ last",
)


def cause_of_std(
    entry: PlanEntry,
    piece: Piece,
    std: float,
    tolerance: float,
    others: Iterable[tuple[str, float]],
) -> Cause:
    """Tell a likely cause by the ratio of the measured to the promised standard deviation.

    Args:
        entry: The parameter.
        piece: The piece of it that was measured.
        std: Measured standard deviation.
        tolerance: Relative width of the sampling band of `std`.
        others: Label and promised standard deviation of the other rules in the model.

    Returns:
        The first cause whose ratio fits; else that nothing known fits.
    """
    expected = piece.distribution.std
    if tolerance < max(_RESOLVED, abs(math.log(std / expected)) / 4):
        for ratio, cause in _known(entry, piece, others):
            if ratio > 0 and abs(math.log(std / expected / ratio)) <= tolerance:
                return cause
    if std > _GARBAGE * expected:
        return Cause("memory that was never written: to_empty leaves what was there before", _FIX)
    return Cause("another initialiser wrote it, or it was trained", _FIX)


def cause_of_bounds(distribution: Simple) -> Cause:
    """Tell why values lie beyond the bounds of a distribution although mean and std are right."""
    if isinstance(distribution, TruncNormal):
        return _ABSOLUTE_BOUNDS
    return Cause("another distribution of the same mean and std", _FIX)


def cause_of_constant(record: Stats) -> Cause:
    """Tell why a parameter that should be random holds one value."""
    if record.zero == record.count:
        return Cause(
            "never written (fresh memory is zero; to_empty writes nothing), or set to 0 on purpose",
            _FIX,
        )
    return Cause("filled with one value: its units can never learn different things", _FIX)


def cause_of_values(record: Stats) -> Cause:
    """Tell why values are not those of a formula, or of another parameter."""
    if record.zero == record.count:
        return Cause("never written: fresh memory is zero, and to_empty writes nothing", _FIX)
    if record.min == record.max:
        return Cause("a generic initialiser filled it with one value", _FIX)
    return Cause("another initialiser wrote it, or it was trained", _FIX)


def _known(
    entry: PlanEntry, piece: Piece, others: Iterable[tuple[str, float]]
) -> Iterator[tuple[float, Cause]]:
    """Yield (ratio, cause), the most specific first."""
    slot, distribution = entry.slot, piece.distribution
    expected = distribution.std
    if isinstance(distribution, TruncNormal):
        yield distribution.parent_std / expected, _ABSOLUTE_BOUNDS
    residual = entry.role in RESIDUAL
    if slot.blocks and slot.blocks > 1:
        yield from _by_depth(residual=residual, root=math.sqrt(2 * slot.blocks))
    if slot.packed > 1 or isinstance(entry.distribution, Stacked):
        as_one = Cause(
            "packed projections initialised as one matrix: its fan_out counts all of them "
            "(pytorch#166378)",
            "initialise each of q, k and v with its own fans",
        )
        yield 1 / math.sqrt(2), as_one
    if entry.parameter.dim() > 1:
        default = framework_default(slot).std
        yield (
            default / expected,
            Cause("as torch leaves it: no initialiser reached it", _FIX),
        )
        fans = slot.fans
        swapped = math.sqrt(fans.fan_out / fans.fan_in)
        for ratio in (swapped, 1 / swapped):
            yield ratio, Cause("fan_in and fan_out are swapped", "check the layout of the weight")
    if entry.role == "head":
        yield (
            1 / expected,
            Cause(
                "a head with std 1: logits of std sqrt(d) and a loss of many times ln(classes) "
                "(transformers#26441)",
                "use std d^-1/2",
            ),
        )
    for label, std in others:
        if label != entry.rule and std > 0:
            yield (
                std / expected,
                Cause(
                    f"initialised twice, the last call wins: it holds what rule {label!r} writes",
                    _FIX,
                ),
            )
    for shards in _SHARDS:
        yield (
            math.sqrt(shards),
            Cause(
                f"std from the fans of one of {shards} shards instead of the whole matrix "
                "(Megatron-Bridge#5840)",
                "take the fans from the full shape",
            ),
        )
    yield (
        TRUNCATED_AT_TWO,
        Cause("truncated at two standard deviations without correction", "divide std by .87962566"),
    )
    yield expected, Cause("the variance was passed as standard deviation", "pass its square root")


def _by_depth(*, residual: bool, root: float) -> Iterator[tuple[float, Cause]]:
    """Yield the ratios that mistakes with the scaling of residual projections leave."""
    if residual:
        yield (
            root,
            Cause(
                "the scaling of residual projections with depth was not applied "
                "(transformers#47458)",
                "divide by sqrt(2 L) after all other initialisation",
            ),
        )
        yield (
            1 / root,
            Cause("residual projections were scaled twice", "divide by sqrt(2 L) once"),
        )
    else:
        yield (
            1 / root,
            Cause(
                "scaled like a residual projection, which it is not (llama2.c#579)",
                "scale the matrix that writes to the residual stream instead",
            ),
        )
