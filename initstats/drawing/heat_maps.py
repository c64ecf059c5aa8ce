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
    title: str,
    about: str,
    names: Sequence[str],
    steps: Sequence[int],
    values: Any,
    *,
    marked: Any = None,
    linear: bool = False,
) -> HeatMap:
    """Lay out numbers by name and step, as sizes on a logarithmic scale of colours or as they are.

    Args:
        title: Heading.
        about: A sentence on what is drawn.
        names: Names, n of them, first to last.
        steps: Steps, k of them, ascending.
        values: float64 `[n, k]`; NaN where there is none. Many names or steps share a cell, which
            shows the largest of them.
        marked: Bool `[n, k]`, cells that are red whatever their number, such as those of tensors
            with NaN; None for none.
        linear: Draw the numbers themselves, also 0 and below, on a linear scale.

    Returns:
        What a template draws. What is marked or infinite is red; what is not there is left out, and
        0 on a logarithmic scale.
    """
    size = np.asarray(values, dtype=np.float64)
    red = np.isinf(size) | (False if marked is None else np.asarray(marked, dtype=bool))
    size = size if linear else np.abs(size)
    per_row = math.ceil(len(names) / HeatMap.MOST_ROWS)
    per_column = math.ceil(len(steps) / HeatMap.MOST_COLUMNS)
    down = range(0, len(names), per_row)
    across = range(0, len(steps), per_column)
    cells = np.fmax.reduceat(np.fmax.reduceat(size, list(down), axis=0), list(across), axis=1)
    red = np.logical_or.reduceat(
        np.logical_or.reduceat(red, list(down), axis=0), list(across), axis=1
    )
    has_colour = np.isfinite(cells) & (linear | (cells > 0))
    known = cells[has_colour]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    span = (high - low if linear else math.log(high / low)) or 1.0
    rows = []
    for at, i in enumerate(down):
        name = (
            names[i] if per_row == 1 else f"{names[i]} and {len(names[i : i + per_row]) - 1} more"
        )
        own = cells[at][has_colour[at]]
        tip = f"{short(own.min())} to {short(own.max())}" if own.size else "no size"
        if red[at].any():
            tip += f"\nNaN or infinity from step {steps[across[int(red[at].argmax())]]}"
        rows.append((name, f"{name}\n{tip}"))
    wide = (HeatMap.WIDTH - HeatMap.LEFT) / len(across)
    outlines: dict[str, list[str]] = {}
    for i, j in np.argwhere(has_colour | red).tolist():
        colour, cell = _BROKEN, float(cells[i, j])
        if not red[i, j]:
            share = (cell - low if linear else math.log(cell / low)) / span
            colour = _COLOURS[min(int(share * len(_COLOURS)), len(_COLOURS) - 1)]
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
