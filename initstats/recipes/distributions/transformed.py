"""Functions of a uniform: log-uniforms, and the time constants of recurrent layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from initstats.recipes.distributions.basic import require_finite

_NODES = np.polynomial.legendre.leggauss(64)


class _Transform(NamedTuple):
    """A strictly monotone function of a uniform, and its inverse."""

    of: Callable[[torch.Tensor, float], torch.Tensor]  # float64, and the floor
    inverse: Callable[[float], float]
    sign: int  # 1 for a rising function, -1 for a falling one
    words: str


def softplus_inverse(y: torch.Tensor) -> torch.Tensor:
    """Return ln(exp(y) - 1) of y > 0, without overflow and without loss of digits near 0."""
    return y + torch.log(-torch.expm1(-y))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


TRANSFORMS = {
    "exp": _Transform(
        lambda u, floor: u.exp().clamp_min(floor),
        lambda x: math.log(x) if x > 0 else -math.inf,
        1,
        "exp U({low:.4g}, {high:.4g})",
    ),
    "softplus_inverse_exp": _Transform(
        lambda u, floor: softplus_inverse(u.exp().clamp_min(floor)),
        lambda x: math.log(_softplus(x)) if _softplus(x) > 0 else -math.inf,
        1,
        "softplus^-1 of exp U({low:.4g}, {high:.4g})",
    ),
    "softplus_inverse_half_log": _Transform(
        lambda u, floor: softplus_inverse((-0.5 * u.log()).clamp_min(floor)),
        lambda x: math.exp(-2 * _softplus(x)),
        -1,
        "softplus^-1 of -1/2 ln U({low:.4g}, {high:.4g})",
    ),
}


@dataclass(frozen=True)
class Transformed:
    """A monotone function of U(low, high), by name; its distribution function is exact.

    The three that the field uses have constructors: `log_uniform`, `time_step`, `decay_radius`.

    Args:
        function: "exp", e^u; "softplus_inverse_exp", ln(exp(e^u) - 1); or
            "softplus_inverse_half_log", ln(exp(-(ln u) / 2) - 1).
        low: Lower end of the uniform, finite; > 0 for the last function.
        high: Upper end, finite and > `low`; < 1 for the last function.
        floor: What e^u, or -(ln u) / 2, is raised to where it is smaller, finite and >= 0.

    Raises:
        ValueError: If the function does not exist or a number is out of range.
    """

    function: str
    low: float
    high: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        require_finite("Transformed", low=self.low, high=self.high, floor=self.floor)
        if self.function not in TRANSFORMS:
            raise ValueError(
                f"initstats.Transformed: expected function among {', '.join(TRANSFORMS)}, "
                f"got function={self.function!r}"
            )
        inside = self.low < self.high and self.floor >= 0
        if self.function == "softplus_inverse_half_log":
            inside = inside and self.low > 0 and self.high < 1
        if not inside:
            raise ValueError(
                "initstats.Transformed: expected low < high (0 < low < high < 1 for "
                f"softplus_inverse_half_log) and floor >= 0, got low={self.low}, "
                f"high={self.high}, floor={self.floor}"
            )

    @classmethod
    def log_uniform(cls, low: float, high: float) -> Transformed:
        """Return the log-uniform distribution: the logarithm is uniform.

        Args:
            low: Smallest value, finite and > 0.
            high: Largest value, finite and > `low`.

        Returns:
            The distribution.

        Raises:
            ValueError: If an end is out of range.
        """
        return cls("exp", *_logarithms("log_uniform", low, high))

    @classmethod
    def time_step(cls, low: float = 0.001, high: float = 0.1, floor: float = 1e-4) -> Transformed:
        """Return a bias whose softplus is log-uniform: the time step of Mamba.

        Args:
            low: Smallest time step, finite and > 0.
            high: Largest time step, finite and > `low`.
            floor: What smaller time steps are raised to, >= 0.

        Returns:
            The distribution of ln(exp(dt) - 1), dt = max(e^U(ln low, ln high), floor).

        Raises:
            ValueError: If a number is out of range.

        Source: mamba `mamba_simple.py`, dt_init_floor.
        """
        return cls("softplus_inverse_exp", *_logarithms("time_step", low, high), floor)

    @classmethod
    def decay_radius(cls, low: float = 0.9, high: float = 0.999) -> Transformed:
        """Return the recurrent parameter of an RG-LRU, whose decay is uniform on a ring.

        Args:
            low: Smallest decay, > 0.
            high: Largest decay, > `low` and < 1.

        Returns:
            The distribution of ln(exp(-(ln u) / 2) - 1), u ~ U(low^2, high^2).

        Raises:
            ValueError: If a number is out of range.

        Source: recurrentgemma `layers.py`, rnn_param_init.
        """
        return cls("softplus_inverse_half_log", low * low, high * high)

    def values(self, uniform: torch.Tensor) -> torch.Tensor:
        """Return the values of uniform numbers.

        Args:
            uniform: Numbers in [low, high), float64, any shape.

        Returns:
            A tensor of the same shape, float64.
        """
        return TRANSFORMS[self.function].of(uniform, self.floor)

    def _at(self, *uniform: float) -> list[float]:
        found: list[float] = self.values(torch.tensor(uniform, dtype=torch.float64)).tolist()
        return found

    @cached_property
    def _moments(self) -> tuple[float, float, float]:
        """Mean, variance and fourth central moment, by Gauss's rule on each side of the floor."""
        corner = math.nan
        if self.floor > 0:
            is_log = self.function == "softplus_inverse_half_log"
            corner = math.exp(-2 * self.floor) if is_log else math.log(self.floor)
        ends = [self.low, *([corner] if self.low < corner < self.high else []), self.high]
        nodes, weights = _NODES
        points, shares = [], []
        for a, b in itertools.pairwise(ends):
            points.append((b - a) / 2 * nodes + (a + b) / 2)
            shares.append((b - a) / 2 * weights / (self.high - self.low))
        found = self.values(torch.from_numpy(np.concatenate(points))).numpy()
        share = np.concatenate(shares)
        mean = float(share @ found)
        return mean, float(share @ (found - mean) ** 2), float(share @ (found - mean) ** 4)

    @property
    def mean(self) -> float:
        """Mean."""
        return self._moments[0]

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self._moments[1])

    @property
    def kurtosis(self) -> float:
        """Fourth standardised moment."""
        _, variance, fourth = self._moments
        return fourth / (variance * variance)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest possible value."""
        first, second = sorted(self._at(self.low, self.high))
        return first, second

    def cdf(self, x: float) -> float:
        """Return the probability of a value <= x."""
        low, high = self.bounds
        if x < low:
            return 0.0
        if x >= high:
            return 1.0
        transform = TRANSFORMS[self.function]
        share = (transform.inverse(x) - self.low) / (self.high - self.low)
        share = min(max(share, 0.0), 1.0)
        return share if transform.sign > 0 else 1 - share

    def scaled(self, factor: float) -> Transformed:
        """Return the distribution itself: a time constant is no matter of variance."""
        del factor
        return self

    def __str__(self) -> str:
        words = TRANSFORMS[self.function].words.format(low=self.low, high=self.high)
        return f"{words}, floor {self.floor:g}" if self.floor > 0 else words


def _logarithms(name: str, low: float, high: float) -> tuple[float, float]:
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"initstats.Transformed.{name}: expected 0 < low < high, finite, got low={low}, "
            f"high={high}"
        )
    return math.log(low), math.log(high)
