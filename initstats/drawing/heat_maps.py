"""Heat maps of a page: size by name and step, one path per colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from initstats.drawing.charts import short

# Twelve colours of matplotlib's viridis, dark to light, told apart with every colour vision.
_COLOURS = (
    *("#440154", "#482173", "#433e85", "#38588c", "#2d708e", "#25858e"),
    *("#1e9b8a", "#2ab07f", "#52c569", "#86d549", "#c2df23", "#fde725"),
)
_BROKEN = "#b3221a"


@dataclass(frozen=True)
class HeatMap:
    """What one heat map shows.

    Attributes:
        title: Heading, also for screen readers.
        about: A sentence on what is drawn.
        rows: Name and what hovering shows, of every line.
        paths: Colour and outline of all cells of one colour.
        ends: Smallest and largest size in words; empty when there is no size.
        steps: First and last step.
    """

    CELL: ClassVar[int] = 12
    LEFT: ClassVar[int] = 250
    WIDTH: ClassVar[int] = 960
    TOP: ClassVar[int] = 4

    title: str
    about: str
    rows: Sequence[tuple[str, str]]
    paths: Sequence[tuple[str, str]]
    ends: tuple[str, str] | tuple[()]
    steps: tuple[int, int]

    MOST_ROWS: ClassVar[int] = 60
    MOST_COLUMNS: ClassVar[int] = 120
    COLOURS: ClassVar[tuple[str, ...]] = _COLOURS

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return self.TOP + self.CELL * len(self.rows) + 34


def heat_map(
    title: str, about: str, names: Sequence[str], steps: Sequence[int], values: Any
) -> HeatMap:
    """Lay out sizes by name and step, on a logarithmic scale of colours.

    Args:
        title: Heading.
        about: A sentence on what is drawn.
        names: Names, n of them, first to last.
        steps: Steps, k of them, ascending.
        values: float64 `[n, k]`; NaN where there is none. Many names or steps share a cell, which
            shows the largest of their sizes.

    Returns:
        What a template draws. What is infinite is red; 0 and what is not there are left out.
    """
    size = np.abs(np.asarray(values, dtype=np.float64))
    per_row = math.ceil(len(names) / HeatMap.MOST_ROWS)
    per_column = math.ceil(len(steps) / HeatMap.MOST_COLUMNS)
    down = range(0, len(names), per_row)
    across = range(0, len(steps), per_column)
    cells = np.fmax.reduceat(np.fmax.reduceat(size, list(down), axis=0), list(across), axis=1)
    known = cells[np.isfinite(cells) & (cells > 0)]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    span = math.log(high / low) or 1.0
    rows = []
    for at, i in enumerate(down):
        name = (
            names[i] if per_row == 1 else f"{names[i]} and {len(names[i : i + per_row]) - 1} more"
        )
        own = cells[at][np.isfinite(cells[at]) & (cells[at] > 0)]
        tip = f"{short(own.min())} to {short(own.max())}" if own.size else "no size"
        rows.append((name, f"{name}\n{tip}"))
    wide = (HeatMap.WIDTH - HeatMap.LEFT) / len(across)
    outlines: dict[str, list[str]] = {}
    for (i, j), cell in np.ndenumerate(cells):
        if np.isnan(cell) or cell == 0:
            continue
        share = math.log(cell / low) / span if math.isfinite(cell) else 0.0
        level = min(int(share * len(_COLOURS)), len(_COLOURS) - 1)
        colour = _COLOURS[level] if math.isfinite(cell) else _BROKEN
        x, y = HeatMap.LEFT + j * wide, HeatMap.TOP + i * HeatMap.CELL
        outlines.setdefault(colour, []).append(
            f"M{x:.1f} {y}h{wide:.1f}v{HeatMap.CELL}h-{wide:.1f}z"
        )
    return HeatMap(
        title,
        about,
        rows,
        [(colour, "".join(parts)) for colour, parts in outlines.items()],
        (short(low), short(high)) if known.size else (),
        (steps[0], steps[-1]),
    )
