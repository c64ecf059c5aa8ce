"""Values that a formula gives, without random numbers: tables, ramps, formulas of the layer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from initstats.text import nearest

Make = Callable[..., torch.Tensor]
# What a float32 computation of the same formula may be off by, relative to the largest value.
TOLERANCE = 2.0**-20


class _Formula(NamedTuple):
    make: Make
    tolerance: float


FORMULAS: dict[str, _Formula] = {}


def formula(*, tolerance: float = TOLERANCE) -> Callable[[Make], Make]:
    """Register a function as a formula, under its own name.

    Its first argument is the shape; all others are keywords and literals, such as the index of the
    layer. It returns float64 on the CPU, of that shape or one that expands to it, and always the
    same values: a receipt holds its name and arguments.

    Args:
        tolerance: What another implementation, in float32, may be off by, relative to the largest
            value.

    Returns:
        A decorator that returns the function as it is.
    """

    def register(make: Make) -> Make:
        FORMULAS[make.__name__] = _Formula(make, tolerance)
        return make

    return register


@dataclass(frozen=True)
class Computed:
    """The values of a formula: no random numbers, and `verify` compares every one of them.

    Args:
        formula: Name of a formula: `linspace`, `log_arange`, `sincos`, `sincos_2d`, or what
            `initstats.recipes.formula` registered.
        shape: Shape of the parameter.
        arguments: Keyword arguments of the formula, literals; their order does not matter.

    Raises:
        ValueError: If there is no such formula, or it does not take the arguments.
    """

    formula: str
    shape: tuple[int, ...]
    arguments: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        # Pairs, so that the distribution can be compared and hashed like all others.
        object.__setattr__(self, "arguments", tuple(sorted(dict(self.arguments).items())))
        if self.formula not in FORMULAS:
            raise ValueError(
                f"initstats.Computed: expected a formula among {', '.join(sorted(FORMULAS))}, got "
                f"formula={self.formula!r}{nearest(self.formula, sorted(FORMULAS))}"
            )
        try:
            inspect.signature(FORMULAS[self.formula].make).bind(self.shape, **dict(self.arguments))
        except TypeError as error:
            raise ValueError(
                f"initstats.Computed: expected the arguments of formula {self.formula!r}, got "
                f"arguments={dict(self.arguments)}: {error}"
            ) from None

    def values(self) -> torch.Tensor:
        """Return the values: float64 of the shape, on the CPU, expanded where they repeat.

        Raises:
            ValueError: If the formula gives values of another shape.
        """
        with torch.device("cpu"):
            made = FORMULAS[self.formula].make(self.shape, **dict(self.arguments)).double()
        try:
            return made.expand(self.shape)
        except RuntimeError:
            raise ValueError(
                f"initstats.Computed: expected formula {self.formula!r} to give values of shape "
                f"{self.shape}, got {tuple(made.shape)}"
            ) from None

    @cached_property
    def _moments(self) -> tuple[float, float, float, float]:
        values = self.values()
        low, high = values.aminmax()
        return float(values.mean()), float(values.std(correction=0)), float(low), float(high)

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return self._moments[0]

    @property
    def std(self) -> float:
        """Standard deviation of the values: of all of them, not an estimate."""
        return self._moments[1]

    @property
    def kurtosis(self) -> float:
        """Undefined: nothing is sampled."""
        return math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return self._moments[2:]

    @property
    def tolerance(self) -> float:
        """How far another implementation may be off, in units of the values."""
        return FORMULAS[self.formula].tolerance * max(map(abs, self.bounds))

    def scaled(self, factor: float) -> Computed:
        """Return the same: computed values are no matter of variance."""
        del factor
        return self

    def __str__(self) -> str:
        return f"{self.formula}({', '.join(f'{k}={v}' for k, v in dict(self.arguments).items())})"


def _along(values: torch.Tensor, dim: int, dims: int) -> torch.Tensor:
    """Return a vector as a tensor of several dimensions, all of size 1 but one."""
    shape = [1] * dims
    shape[dim] = len(values)
    return values.view(shape)


@formula()
def linspace(shape: tuple[int, ...], *, start: float, end: float, dim: int = -1) -> torch.Tensor:
    """Return equally spaced values along one dimension, both ends included."""
    return _along(torch.linspace(start, end, shape[dim], dtype=torch.float64), dim, len(shape))


@formula()
def log_arange(shape: tuple[int, ...], *, start: int = 1, dim: int = -1) -> torch.Tensor:
    """Return ln(start), ln(start + 1), ... along one dimension, the same at every other index.

    Source: S4D-real, Gu et al. 2022; mamba `mamba_simple.py`, A_log.
    """
    return _along(torch.arange(start, start + shape[dim]).double().log(), dim, len(shape))


def _angles(positions: torch.Tensor, count: int, base: float, last: int) -> torch.Tensor:
    """Return position * base^(-i / last) for i < count."""
    return positions[:, None] * base ** (-torch.arange(count).double() / max(last, 1))


# float32 holds position * frequency to 2^-24 of up to some thousands: 1e-4 of a radian.
@formula(tolerance=2.0**-13)
def sincos(
    shape: tuple[int, ...],
    *,
    base: float = 10000.0,
    layout: str = "halves",
    spacing: str = "open",
    prefix: int = 0,
) -> torch.Tensor:
    """Return a table of sines and cosines of positions, [..., positions, width].

    Args:
        shape: Shape of the table; an even width.
        base: Ratio of the largest to the smallest period.
        layout: "halves", all sines and then all cosines (Whisper, MAE), or "interleaved", in
            turn (Vaswani et al. 2017).
        spacing: "open", frequencies base^(-i / (width / 2)), or "closed", base^(-i / (width / 2 -
            1)), so that the last is 1 / base (Whisper, tensor2tensor).
        prefix: Rows of zeros before the first position, for class tokens.
    """
    half = shape[-1] // 2
    last = half if spacing == "open" else half - 1
    angles = _angles(torch.arange(shape[-2] - prefix).double(), half, base, last)
    parts = (angles.sin(), angles.cos())
    table = torch.cat(parts, 1) if layout == "halves" else torch.stack(parts, 2).flatten(1)
    return torch.cat([torch.zeros(prefix, table.shape[1], dtype=table.dtype), table])


@formula(tolerance=2.0**-13)
def sincos_2d(
    shape: tuple[int, ...], *, base: float = 10000.0, height: int = 0, prefix: int = 0
) -> torch.Tensor:
    """Return a table for positions on a grid, [..., rows * columns, width]: x, then y.

    The first half of the width encodes the column, the second the row, each as `sincos` in halves.

    Args:
        shape: Shape of the table; a width that is a multiple of 4.
        base: Ratio of the largest to the smallest period.
        height: Rows of the grid; 0 for a square one.
        prefix: Rows of zeros before the first position, for class tokens.

    Source: MAE `util/pos_embed.py`, get_2d_sincos_pos_embed.
    """
    positions = shape[-2] - prefix
    height = height or math.isqrt(positions)
    quarter = shape[-1] // 4
    cells = torch.arange(positions)
    width = positions // height
    parts = [
        f(_angles(at.double(), quarter, base, quarter))
        for at in (cells % width, cells // width)
        for f in (torch.sin, torch.cos)
    ]
    table = torch.cat(parts, 1)
    return torch.cat([torch.zeros(prefix, table.shape[1], dtype=table.dtype), table])
