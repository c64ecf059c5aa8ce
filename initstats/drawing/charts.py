"""Line charts of the audit's page, as SVG; the colours are in page.css."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 42
_MOST_TICKS = 9
_DECADE = 10.0
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


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        title: Heading, also for screen readers.
        about: A sentence on what is drawn, for screen readers and below the chart.
        lines: The data, the first on top; lines of one label share a place in the legend.
        logarithmic: Scale of the y axis.
        x_label: Text below the x axis.
        x_ticks: Places and texts; integers when empty.
        band: Low end, high end and name of a range to shade, or None.
        guide: Height and name of a dashed line, or None.
    """

    title: str
    about: str
    lines: Sequence[Line]
    logarithmic: bool
    x_label: str
    x_ticks: Sequence[tuple[float, str]] = ()
    band: tuple[float, float, str] | None = None
    guide: tuple[float, str] | None = None


class _Axes:
    """From values to places in the picture."""

    def __init__(self, chart: Chart) -> None:
        xs = [mark.x for line in chart.lines for mark in line.marks] or [0.0]
        self.x_low, self.x_high = min(xs), max(xs)
        if self.x_low == self.x_high:
            self.x_low, self.x_high = self.x_low - 1, self.x_high + 1
        self.logarithmic = chart.logarithmic
        ys = [m.y for line in chart.lines for m in line.marks if m.y is not None and self.has(m.y)]
        self.is_empty = not ys
        if chart.band is not None and ys:
            # What is outside of the band is seen against its near edge.
            ys += [min(max(ys), chart.band[1]), max(min(ys), chart.band[0])]
        ys += [chart.guide[0]] if chart.guide is not None and self.has(chart.guide[0]) else []
        low, high = (min(ys), max(ys)) if ys else (1.0, 1.0)
        if self.logarithmic:
            margin = 1.25 * max(1.0, math.sqrt(_LEAST_RATIO) / math.sqrt(high / low))
            self.low, self.high = low / margin, high * margin
        else:
            margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
            self.low, self.high = low - margin, high + margin

    def has(self, value: float) -> bool:
        """Tell whether the axis can show a value."""
        return math.isfinite(value) and (value > 0 or not self.logarithmic)

    def x(self, value: float) -> float:
        """Return the place of a value on the x axis."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + 8 + share * (WIDTH - _LEFT - _RIGHT - 16)

    def y(self, value: float) -> float:
        """Return the place of a value on the y axis, inside the frame."""
        if self.logarithmic:
            value = min(max(value, self.low), self.high)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - _TOP - _BOTTOM)

    def ticks(self) -> list[float]:
        """Return round values inside the axis."""
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
            first = math.ceil(self.low / step)
            values = [step * i for i in range(first, math.floor(self.high / step) + 1)]
        return [value for value in values if self.low <= value <= self.high]


def figure(chart: Chart, identity: str) -> str:
    """Draw a chart.

    Args:
        chart: What it shows.
        identity: Letters and digits that no other chart of the page has.

    Returns:
        A `<figure>` with heading, SVG, legend and description.
    """
    axes = _Axes(chart)
    drawn = [_line(line, axes) for line in reversed(chart.lines)]
    legend = "".join(
        f'<li><span class="key c{line.colour}{" hollow" if line.hollow else ""}"></span>'
        f"{escape(line.label)}</li>"
        for line in {line.label: line for line in chart.lines}.values()
    )
    return (
        f'<figure class="chart"><h3 id="{identity}-h">{escape(chart.title)}</h3>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{identity}-h {identity}-d">'
        f'<desc id="{identity}-d">{escape(chart.about)}</desc>'
        f"{_band(chart, axes)}{_grid(chart, axes)}{_guide(chart, axes)}{''.join(drawn)}</svg>"
        f'<ul class="legend">{legend}</ul><figcaption>{escape(chart.about)}</figcaption></figure>'
    )


def short(value: float | None) -> str:
    """Write a number in three digits, or a dash for None."""
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if _PLAIN[0] <= abs(value) < _PLAIN[1]:
        return f"{value:.3g}" if abs(value) < 1 / _PLAIN[0] else f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _grid(chart: Chart, axes: _Axes) -> str:
    """Draw grid lines and the texts of both axes."""
    parts = []
    if axes.is_empty:
        parts.append(
            f'<text class="label" x="{WIDTH / 2:.0f}" y="{HEIGHT / 3:.0f}" text-anchor="middle">'
            "no value that this axis can show</text>"
        )
    for value in [] if axes.is_empty and chart.guide is None else axes.ticks():
        y = axes.y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">'
            f"{short(value)}</text>"
        )
    ticks = list(chart.x_ticks) or [
        (float(x), str(x)) for x in range(math.ceil(axes.x_low), math.floor(axes.x_high) + 1)
    ]
    stride = math.ceil(len(ticks) / _MOST_TICKS)
    for x, text in ticks[::stride]:
        parts.append(
            f'<text class="tick" x="{axes.x(x):.1f}" y="{HEIGHT - _BOTTOM + 17}" '
            f'text-anchor="middle">{escape(text)}</text>'
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{HEIGHT - _BOTTOM}" '
        f'y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>"
    )
    return "".join(parts)


def _band(chart: Chart, axes: _Axes) -> str:
    """Shade the range that is thought good."""
    if chart.band is None:
        return ""
    low, high, name = chart.band
    top, bottom = axes.y(high), axes.y(low)
    width = WIDTH - _LEFT - _RIGHT
    return (
        f'<rect class="band" x="{_LEFT}" width="{width}" y="{top:.1f}" '
        f'height="{max(bottom - top, 0):.1f}"/>'
        f'<text class="note" x="{WIDTH - _RIGHT - 4}" y="{top + 13:.1f}" text-anchor="end">'
        f"{escape(name)}</text>"
    )


def _guide(chart: Chart, axes: _Axes) -> str:
    """Draw the dashed line."""
    if chart.guide is None or not axes.has(chart.guide[0]):
        return ""
    value, name = chart.guide
    y = axes.y(value)
    below = y + 14 if y < _TOP + 16 else y - 5
    return (
        f'<line class="guide" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="note" x="{WIDTH - _RIGHT - 4}" y="{below:.1f}" text-anchor="end">'
        f"{escape(name)}</text>"
    )


def _line(line: Line, axes: _Axes) -> str:
    """Draw one line with its marks; what the axis cannot show is a cross at its edge."""
    path, dots, pen = [], [], "M"
    radius = 3.4 if not line.faint and len(line.marks) <= _MANY_MARKS else 2.6
    for mark in line.marks:
        if mark.y is None:
            continue
        x = axes.x(mark.x)
        tip = escape(mark.tip)
        if not axes.has(mark.y):
            edge = HEIGHT - _BOTTOM - 9 if mark.y == 0 else _TOP + 1
            dots.append(
                f'<path class="cross" data-tip="{tip}" '
                f'd="M{x - 4:.1f} {edge}l8 8m0 -8l-8 8"><title>{tip}</title></path>'
            )
            pen = "M"
            continue
        y = axes.y(mark.y)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
        kind = f"dot c{line.colour}{' hollow' if line.hollow else ''}"
        dots.append(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" data-tip="{tip}"/>'
        )
    joined = (
        f'<path class="line c{line.colour}{" faint" if line.faint else ""}" d="{"".join(path)}"/>'
        if line.joined and len(path) > 1
        else ""
    )
    return f'<g class="series">{joined}{"".join(dots)}</g>'
