"""Charts of lines, drawn alike on a page (elements.html.j2) and in a PNG (png.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

_MOST_TICKS = 9
_DECADE = 10.0
_LARGEST = 1e300
_LEAST_RATIO = 10.0  # A logarithmic axis spans a decade: a small change must not look large.
_MANY_MARKS = 60
_PLAIN = (1e-3, 1e5)
_FEW_DECADES = 2.2


@dataclass(frozen=True)
class Mark:
    """One point: place on the x axis, value (None: nothing to draw), and what hovering shows."""

    x: float
    y: float | None
    tip: str


@dataclass(frozen=True)
class Line:
    """Marks of one kind.

    Attributes:
        label: Name in the legend.
        marks: From left to right.
        colour: Number of the colour, 1 to 6.
        joined: Draw a line through the marks.
        hollow: Draw open marks.
        faint: Draw a thin line through the marks.
    """

    label: str
    marks: Sequence[Mark]
    colour: int
    joined: bool = True
    hollow: bool = False
    faint: bool = False

    @property
    def radius(self) -> float:
        """Size of its marks on a page, in pixels."""
        return 3.4 if not self.faint and len(self.marks) <= _MANY_MARKS else 2.6


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        title: Heading, also for screen readers.
        about: A sentence on what is drawn, for screen readers and below the chart.
        lines: The data, the first on top; lines of one label share a place in the legend.
        logarithmic: Scale of the y axis.
        x_label: Text below the x axis.
        y_label: Text beside the y axis of a PNG; on a page `about` says it.
        x_ticks: Places and texts; integers when empty.
        band: Low end, high end and name of a range to shade, or None.
        guide: Height and name of a dashed line, or None.
    """

    title: str
    about: str
    lines: Sequence[Line]
    logarithmic: bool
    x_label: str
    y_label: str = ""
    x_ticks: Sequence[tuple[float, str]] = ()
    band: tuple[float, float, str] | None = None
    guide: tuple[float, str] | None = None

    @cached_property
    def axes(self) -> Axes:
        """The scale of both axes."""
        return Axes(self)

    @property
    def legend(self) -> list[Line]:
        """One line of each label."""
        return [*{line.label: line for line in self.lines}.values()]


class Axes:
    """The scale of a chart: ends, ticks, and places in a picture of WIDTH by HEIGHT pixels."""

    WIDTH: ClassVar[int] = 480
    HEIGHT: ClassVar[int] = 280
    # The frame.
    LEFT: ClassVar[int] = 58
    RIGHT: ClassVar[int] = WIDTH - 14
    TOP: ClassVar[int] = 14
    BOTTOM: ClassVar[int] = HEIGHT - 42
    EMPTY: ClassVar[str] = "no value that this axis can show"

    def __init__(self, chart: Chart) -> None:
        xs = [mark.x for line in chart.lines for mark in line.marks] or [0.0]
        self.x_low, self.x_high = min(xs), max(xs)
        if self.x_low == self.x_high:
            self.x_low, self.x_high = self.x_low - 1, self.x_high + 1
        self.logarithmic = chart.logarithmic
        ys = [
            self._inside(m.y)
            for line in chart.lines
            for m in line.marks
            if m.y is not None and self.has(m.y)
        ]
        self.is_empty = not ys
        if chart.band is not None and ys:
            # What is outside of the band is seen against its near edge.
            ys += [min(max(ys), chart.band[1]), max(min(ys), chart.band[0])]
        ys += (
            [self._inside(chart.guide[0])]
            if chart.guide is not None and self.has(chart.guide[0])
            else []
        )
        low, high = (min(ys), max(ys)) if ys else (1.0, 1.0)
        if self.logarithmic:
            margin = 1.25 * max(1.0, math.sqrt(_LEAST_RATIO) / math.sqrt(high / low))
            self.low, self.high = low / margin, high * margin
        else:
            margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
            self.low, self.high = low - margin, high + margin
        self.y_ticks = [] if self.is_empty and chart.guide is None else self._y_ticks()
        whole = range(math.ceil(self.x_low), math.floor(self.x_high) + 1)
        ticks = chart.x_ticks or whole
        shown = ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
        self.x_ticks = [(float(x), str(x)) if isinstance(x, int) else x for x in shown]

    def has(self, value: float) -> bool:
        """Tell whether the axis can show a value."""
        return math.isfinite(value) and (value > 0 or not self.logarithmic)

    def _inside(self, value: float) -> float:
        """Return the nearest value with which the arithmetic of an axis stays finite."""
        value = min(max(value, -_LARGEST), _LARGEST)
        return max(value, 1 / _LARGEST) if self.logarithmic else value

    def x(self, value: float) -> float:
        """Return the place of a value on the x axis, in tenths of a pixel."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(self.LEFT + 8 + share * (self.RIGHT - self.LEFT - 16), 1)

    def y(self, value: float) -> float:
        """Return the place of a value on the y axis, inside the frame, in tenths of a pixel."""
        if self.logarithmic:
            value = min(max(value, self.low), self.high)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.BOTTOM - min(max(share, 0.0), 1.0) * (self.BOTTOM - self.TOP), 1)

    def path(self, line: Line) -> str:
        """Return the path through the marks of a line, with a gap where the axis has no place."""
        steps, pen = [], "M"
        for mark in line.marks if line.joined else ():
            if mark.y is None:
                continue
            if self.has(mark.y):
                steps.append(f"{pen}{self.x(mark.x)} {self.y(mark.y)}")
                pen = "L"
            else:
                pen = "M"
        return "".join(steps) if len(steps) > 1 else ""

    def _y_ticks(self) -> list[tuple[float, str]]:
        """Return round values inside the y axis, and texts that tell them apart."""
        if self.logarithmic:
            decades = math.log10(self.high / self.low)
            steps = (1.0, 2.0, 5.0) if decades < _FEW_DECADES else (1.0,)
            stride = max(1, math.ceil(decades / 6))
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [s * _DECADE**p for p in powers if p % stride == 0 for s in steps]
        else:
            rough = (self.high - self.low) / 5
            power = _DECADE ** math.floor(math.log10(rough))
            step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
            decimals = max(0, -math.floor(math.log10(step)))
            first = math.ceil(self.low / step)
            values = [step * i for i in range(first, math.floor(self.high / step) + 1)]
        values = [value for value in values if self.low <= value <= self.high]
        texts = [short(value) for value in values]
        if len(set(texts)) < len(texts):  # never on a logarithmic axis
            texts = [f"{value:.{decimals}f}" for value in values]
        return [*zip(values, texts, strict=True)]


def short(value: float | str | None) -> str:
    """Write a number in three digits, or a dash for None.

    Args:
        value: The number; "nan", "inf" and "-inf" as in JSON.
    """
    if value is None:
        return "–"
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if _PLAIN[0] <= abs(value) < _PLAIN[1]:
        return f"{value:.3g}" if abs(value) < 1 / _PLAIN[0] else f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def sortable(value: float | str | None) -> str:
    """Write a number for a script that sorts, empty where there is none.

    Args:
        value: As for `short`.
    """
    return "" if value is None or not math.isfinite(float(value)) else f"{float(value):.6g}"
