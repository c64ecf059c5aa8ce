"""Recipe of Kolmogorov-Arnold networks: splines on the edges."""

from __future__ import annotations

import functools
import math

import torch

from initstats.recipes.distributions.basic import Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Part, Stacked
from initstats.recipes.distributions.computed import Computed
from initstats.recipes.library.building import (
    built_in,
    described,
    framework_default,
    norms,
    require_positive,
    rule,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["kan"]

_NOISE = {"efficient_kan": 0.1, "pykan": 0.5}


@built_in(variants=tuple(_NOISE))
def kan(
    *,
    variant: str = "efficient_kan",
    noise: float | None = None,
    order: int = 3,
    low: float = -1.0,
    high: float = 1.0,
) -> Recipe:
    """Make the recipe of Kolmogorov-Arnold networks.

    Coefficients are those of the spline of least norm through noise U(+-noise / (2 G)) at the
    G + 1 points of the grid: sums of uniforms, in which neighbours are correlated. Here each is
    normal with the standard deviation that follows (far from the ends 1.86 times that of the noise)
    and independent of its neighbours. The grid goes on by `order` intervals on both sides.

    "efficient_kan": base weights and scalers of splines U(+-1 / sqrt(fan_in)), noise 0.1.
    "pykan": base scales U(+-1 / sqrt(fan_in)), scales of splines 1 / sqrt(fan_in), masks 1, noise
    0.5; scales of nodes 1 and their biases 0; symbolic edges off: masks 0. "efficient_kan" holds
    [out, in, coefficient], "pykan" [in, out, coefficient].

    Args:
        variant: "efficient_kan" or "pykan".
        noise: Scale of the noise, > 0; that of the variant when None.
        order: Order of the splines k, >= 1; a parameter has G + k coefficients.
        low: First point of the grid.
        high: Last point of the grid, > low.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: efficient-kan `src/efficient_kan/kan.py`, 7b6ce1c; pykan 0.2.8 `KANLayer.py`,
        `MultKAN.py`, `spline.py`.
    """
    require_positive("kan", noise=noise)
    if order < 1:
        raise ValueError(f"initstats.kan: expected order >= 1, got order={order}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"initstats.kan: expected low < high, got low={low} and high={high}")
    scale = noise if noise is not None else _NOISE[variant]

    @described(f"N of a spline through U(+-{scale:g} / (2 G)), G intervals")
    def coefficients(slot: Slot) -> Distribution:
        intervals = slot.parameter.shape[-1] - order
        if intervals < 1:
            raise ValueError(
                f"initstats.kan: expected more than order={order} coefficients, got "
                f"{slot.name} with {slot.parameter.shape[-1]}"
            )
        dim = slot.parameter.dim() - 1
        std = scale / (2 * math.sqrt(3) * intervals)  # of the noise
        growth = enumerate(_growth(intervals, order))
        return Stacked([Part(Normal(std * factor), 1, f"{i}") for i, factor in growth], dim)

    @described("evenly spaced, with `order` intervals on both sides")
    def grid(slot: Slot) -> Distribution:
        intervals = slot.parameter.shape[-1] - 2 * order - 1
        beyond = order * (high - low) / intervals
        ends = {"start": low - beyond, "end": high + beyond}
        return Computed("linspace", slot.parameter.shape, ends)

    splines = [
        rule(Match(("*.spline_weight", "*.coef", "spline_weight", "coef")), coefficients, "spline"),
        rule(Match(("*.grid", "grid")), grid, "grid"),
    ]
    rules = splines + (_efficient() if variant == "efficient_kan" else _pykan())
    source = {
        "efficient_kan": "efficient-kan kan.py, 7b6ce1c",
        "pykan": "pykan 0.2.8 KANLayer.py",
    }[variant]
    return Recipe(rules, name="kan", source=source)


def _efficient() -> list[Rule]:
    names = ("*base_weight", "*spline_scaler")
    return [*norms(), rule(Match(names), framework_default, "base or scaler")]


def _pykan() -> list[Rule]:
    @described("U(+-1 / sqrt(fan_in))")
    def base(slot: Slot) -> Distribution:
        bound = slot.parameter.shape[0] ** -0.5
        return Uniform(-bound, bound)

    @described("1 / sqrt(fan_in)")
    def scale(slot: Slot) -> Distribution:
        return Computed(
            "linspace",
            slot.parameter.shape,
            dict.fromkeys(("start", "end"), slot.parameter.shape[0] ** -0.5),
        )

    biases = ("*node_bias_?", "*node_bias.?", "*.affine")
    return [
        rule(Match("*symbolic_fun.*.mask"), 0.0, "mask of symbolic edges"),
        rule(Match(("*.mask", "mask")), 1.0, "mask"),
        rule(Match("*scale_base"), base, "scale of the base"),
        rule(Match("*scale_sp"), scale, "scale of the spline"),
        rule(Match(biases), 0.0, "bias of a node"),
        rule(Match("*node_scale_?"), 1.0, "scale of a node"),
    ]


@functools.cache
def _growth(intervals: int, order: int) -> tuple[float, ...]:
    """Return the standard deviation of each coefficient, against that of the noise.

    Coefficients are P u for noise u at the points of the grid, P the pseudo-inverse of the basis
    there; their standard deviations are the norms of its rows.
    """
    knots = torch.arange(-order, intervals + order + 1, dtype=torch.float64)
    points = knots[order : intervals + order + 1, None]
    basis = ((points >= knots[:-1]) & (points < knots[1:])).double()
    for k in range(1, order + 1):
        rising = (points - knots[: -(k + 1)]) / k * basis[:, :-1]
        falling = (knots[k + 1 :] - points) / k * basis[:, 1:]
        basis = rising + falling
    norms: list[float] = torch.linalg.pinv(basis).norm(dim=1).tolist()
    return tuple(norms)
