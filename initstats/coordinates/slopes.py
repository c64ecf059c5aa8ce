"""Slopes of log size against log width, and what a parametrisation promises of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from initstats.coordinates.measure import CHANGE, INPUT, OUTPUT, OWN, WHOLE
from initstats.diagnostics.findings import Finding

_SOURCE = "Yang et al. 2022, Tensor Programs V, appendix F; microsoft/mup, coord_check"
_FEWEST = 2  # widths that make a slope
# Outputs that begin with independent weights may shrink with the root of the width: the sum of an
# initial readout, before anything is learnt.
_INITIAL_SHRINK = 0.5


class Slope(NamedTuple):
    """The exponent of the width by which a size grows.

    Attributes:
        value: The slope; NaN where there are not two widths with a size.
        error: Its standard error; 0 where two points leave none.
    """

    value: float
    error: float

    def within(self, low: float, high: float, errors: float) -> bool:
        """Tell whether it is in an interval, some standard errors given.

        Args:
            low: Lower end.
            high: Upper end.
            errors: Number of standard errors.
        """
        margin = errors * self.error
        return math.isnan(self.value) or low - margin <= self.value <= high + margin


def fit(widths: Sequence[int], sizes: NDArray[np.float64]) -> Slope:
    """Fit log size = a + slope * log width by least squares.

    Args:
        widths: Widths, n of them.
        sizes: float64 `[n, seeds]`; 0 and NaN are left out.

    Returns:
        The slope with its standard error, from the residuals of all widths and seeds.
    """
    x = np.repeat(np.log(np.asarray(widths, dtype=np.float64)), sizes.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(sizes.reshape(-1))
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(set(x.tolist())) < _FEWEST:
        return Slope(math.nan, 0.0)
    centred = x - x.mean()
    square = float(centred @ centred)
    value = float(centred @ y) / square
    rest = y - y.mean() - value * centred
    freedom = len(x) - 2
    error = math.sqrt(float(rest @ rest) / freedom / square) if freedom > 0 else 0.0
    return Slope(value, error)


@dataclass(frozen=True)
class Limits:
    """How far slopes may be from what is promised.

    Attributes:
        tolerance: Largest distance, beside the standard errors.
        errors: Number of standard errors that are given.
        readout: Slope that outputs of a head may have: 1 where the model multiplies logits by
            1 / width after the head, else 0.
        table: Slope that the updates of embeddings have: -1/2 in u-μP, whose learning rate of
            embeddings falls with the root of the width, else 0.
    """

    tolerance: float
    errors: float
    readout: float = 0.0
    table: float = 0.0


def judge(
    slopes: Mapping[str, Mapping[str, Sequence[Slope]]],
    heads: set[str],
    tables: set[str],
    limits: Limits,
) -> list[Finding]:
    """Compare slopes with the promise of μP: outputs and their changes do not depend on the width.

    A layer is to blame where the first update that moves it changes its output by more or less at
    larger widths, or where its first output grows, and its input does not grow. Others follow.

    Args:
        slopes: By layer, in the order of the forward pass, and quantity, one slope per step.
        heads: The layers that are readouts.
        tables: The layers that are embeddings.
        limits: The limits.

    Returns:
        The findings, causes first, in the order of the forward pass.
    """
    causes: list[Finding] = []
    others: list[Finding] = []
    for name, by_quantity in slopes.items():
        more = limits.readout if name in heads else 0.0
        # The change of logits has a part that goes through the first readout, and shrinks with it.
        less = -_INITIAL_SHRINK if name in {*heads, WHOLE} else 0.0
        table = limits.table if name in tables else 0.0
        found = [
            _worst(OWN, by_quantity, 2, (table, more + table), limits),
            _worst(OUTPUT, by_quantity, 1, (-_INITIAL_SHRINK, more), limits),
            _worst(CHANGE, by_quantity, 2, (less + table, more + table), limits),
        ]
        for quantity, step, slope, low, high in filter(None, found):
            own = by_quantity.get(quantity, ())
            first = next((i for i, one in enumerate(own, 1) if not math.isnan(one.value)), step)
            to_blame = (
                quantity != CHANGE and step == first and _input_holds(by_quantity, step, limits)
            )
            finding = _finding(quantity, name, step, slope, (low, high), to_blame=to_blame)
            (causes if to_blame else others).append(finding)
            if to_blame:
                break  # what follows from it in the same layer says nothing more
    severity = "warning" if causes else "error"
    return [*causes, *(Finding(**{**vars(f), "severity": severity}) for f in others)]


def _worst(
    quantity: str,
    slopes: Mapping[str, Sequence[Slope]],
    first: int,
    promised: tuple[float, float],
    limits: Limits,
) -> tuple[str, int, Slope, float, float] | None:
    """Return the first step whose slope is outside of what is promised."""
    low, high = promised[0] - limits.tolerance, promised[1] + limits.tolerance
    for step, slope in enumerate(slopes.get(quantity, ()), 1):
        if step >= first and not slope.within(low, high, limits.errors):
            return quantity, step, slope, low, high
    return None


def _input_holds(slopes: Mapping[str, Sequence[Slope]], step: int, limits: Limits) -> bool:
    """Tell whether the input of a layer does not grow, at a step."""
    entered = slopes.get(INPUT, ())
    return not entered or entered[step - 1].within(-math.inf, limits.tolerance, limits.errors)


def _finding(
    quantity: str,
    name: str,
    step: int,
    slope: Slope,
    limits: tuple[float, float],
    *,
    to_blame: bool,
) -> Finding:
    grows = slope.value > limits[1]
    way = "grows" if grows else "shrinks"
    power = f"width^{slope.value:.2f} (+-{slope.error:.2f})"
    if quantity == OWN and not to_blame:
        cause = f"the effect of its own update {way} with {power} at step {step}, as others moved"
        fix = "see the layers before it"
    elif quantity == OWN:
        cause = f"the effect of its own update on its output {way} with {power} at step {step}"
        fix = (
            f"{'divide' if grows else 'multiply'} the learning rate of its parameters by the width "
            "multiplier (param_groups of the recipe does), or correct its forward multiplier"
        )
    elif quantity == OUTPUT and step == 1:
        cause = f"its output {way} with {power} before any update, its input does not"
        fix = "initialise it by the recipe: its standard deviation does not fit its fan_in"
    else:
        cause = f"its {quantity} {way} with {power} at step {step}"
        fix = "see the layers before it"
    if not to_blame and quantity == OUTPUT and step == 1:
        cause = f"its output {way} with {power} before any update, as its input does"
    return Finding(
        rule=quantity.replace(" ", "-"),
        severity="error",
        where=name,
        value=slope.value,
        threshold=limits[1] if grows else limits[0],
        cause=cause,
        fix=fix,
        source=_SOURCE,
    )
