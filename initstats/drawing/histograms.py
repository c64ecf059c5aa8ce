"""Small histograms: the density of a record's values over a linear axis, drawn by a template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from initstats.drawing.charts import short

_TAIL = 0.002  # Share of the values outside the picture, so that one outlier does not flatten it.
_SHOWN_ZEROS = 0.001
_STEEP = 0.02  # An end this near to zero is one of half a distribution: its edge is upright.
_Bars: TypeAlias = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class SmallHistogram:
    """One picture with its caption.

    Attributes:
        what: What the values are.
        tip: What hovering shows, also for screen readers.
        note: Second line of the caption.
        is_broken: True when some values are not finite; the note says how many.
        colour: Number of the colour, 1 to 6.
        message: Words to show where there is nothing to draw, else empty.
        outline: Corners of the area.
        zeros: Left edge and height of the bar of exact zeros, or None.
        ends: Place, anchor and value of what is written below the axis.
    """

    WIDTH: ClassVar[int] = 150
    HEIGHT: ClassVar[int] = 62
    BASE: ClassVar[int] = 48

    what: str
    tip: str
    note: str
    is_broken: bool
    colour: int
    message: str = ""
    outline: Sequence[str] = ()
    zeros: tuple[float, float] | None = None
    ends: Sequence[tuple[float, str, float]] = ()


def small_histogram(
    record: Mapping[str, Any], what: str, where: str, colour: int
) -> SmallHistogram:
    """Lay out the histogram of a record.

    Args:
        record: `count`, `mean`, `std`, `nan`, `pos_inf`, `neg_inf`, and `histogram`: None, or
            [low edge, high edge, count] per bar, ascending, with zeros as [0, 0, count].
        what: What the values are.
        where: Whose they are.
        colour: Number of the colour, 1 to 6.

    Returns:
        What a template draws.
    """
    bars, count, std = record["histogram"], record["count"], short(record["std"])
    broken = record["nan"] + record["pos_inf"] + record["neg_inf"]
    shape: dict[str, Any]
    if bars:
        shape = _shape(bars, count)
    else:
        shape = {"message": "no histogram" if bars is None else "no finite value"}
    return SmallHistogram(
        what=what,
        tip=f"{what} of {where}: {count} values, mean {short(record['mean'])}, std {std}",
        note=f"{broken} not finite" if broken else f"std {std}",
        is_broken=broken > 0,
        colour=colour,
        **shape,
    )


def _shape(bars: Sequence[Sequence[float]], count: int) -> dict[str, Any]:
    """Lay out what lies between the two tails, zeros as a bar of their own, and the axis."""
    width, base = SmallHistogram.WIDTH, SmallHistogram.BASE
    exact = sum(n for low, high, n in bars if low == high)
    others = [(low, high, n) for low, high, n in bars if low < high]
    low, high = _range(others)
    span = high - low or 1.0

    def x(value: float) -> float:
        return 4 + (width - 8) * (value - low) / span

    outline: list[str] = []
    inside = [bar for bar in others if bar[0] < high and bar[1] > low]
    if inside:
        densities = [n / (b - a) for a, b, n in inside]
        # Buckets next to zero are so narrow that a few values make a needle: those of two pixels
        # or less share one density.
        least = 2 * span / width
        wide = [d for d, (a, b, _) in zip(densities, inside, strict=True) if b - a >= least]
        corners = _corners(_joined(inside, least), max(wide or densities), low, high)
        outline = [f"{x(value):.1f} {base - (base - 4) * share:.1f}" for value, share in corners]
    zeros = None
    if exact > _SHOWN_ZEROS * count:
        at = x(0.0) if low <= 0 <= high else 4.0
        zeros = (round(at - 1.5, 1), round((base - 4) * exact / count, 1))
    ends = [(2.0, "start", low), (width - 2.0, "end", high)]
    if low == high:
        ends = [(4.0, "middle", 0.0)]
    return {"outline": outline, "zeros": zeros, "ends": ends}


def _range(bars: _Bars) -> tuple[float, float]:
    """Return ends of the axis that leave out thin tails, and take in zero."""
    total = sum(n for _, _, n in bars)
    low = high = 0.0
    seen = 0.0
    for a, b, n in bars:
        if seen <= _TAIL * total < seen + n:
            low = a
        if seen < (1 - _TAIL) * total <= seen + n:
            high = b
        seen += n
    return min(low, 0.0), max(high, 0.0)


def _joined(bars: _Bars, least: float) -> list[tuple[float, float, float]]:
    """Join neighbours until each is at least as wide as asked for."""
    joined: list[tuple[float, float, float]] = []
    for a, b, n in bars:
        if joined and joined[-1][1] - joined[-1][0] < least:
            start, _, before = joined[-1]
            joined[-1] = (start, b, before + n)
        else:
            joined.append((a, b, n))
    return joined


def _corners(bars: _Bars, tallest: float, low: float, high: float) -> Iterator[tuple[float, float]]:
    """Yield the frequency polygon: values, and the density there as a share of the tallest."""
    first, last = max(bars[0][0], low), min(bars[-1][1], high)
    shares = [min(1.0, n / (b - a) / tallest) for a, b, n in bars]
    yield first, 0.0
    if abs(first) < abs(last) * _STEEP:
        yield first, shares[0]
    for (a, b, _), share in zip(bars, shares, strict=True):
        yield (max(a, low) + min(b, high)) / 2, share
    if abs(last) < abs(first) * _STEEP:
        yield last, shares[-1]
    yield last, 0.0
