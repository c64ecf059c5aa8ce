"""Exact distribution functions of the fills' distributions, independent of the code under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import log_ndtr, ndtr

Floats = npt.NDArray[np.float64]


def trunc_cdf(mean: float, std: float, a: float, b: float) -> Callable[[Floats], Any]:
    """CDF of the truncated normal, from log tail masses so that far tails keep their digits."""
    alpha, beta = (a - mean) / std, (b - mean) / std
    sign = -1.0 if alpha > 0 else 1.0  # work in the lower tail

    def mass_below(z: Any) -> Any:
        if sign < 0:  # Phi(z) - Phi(alpha) = Phi(-alpha) - Phi(-z), scaled by Phi(-alpha)
            return -np.expm1(log_ndtr(-z) - log_ndtr(-alpha))
        return ndtr(z) - ndtr(alpha)

    total = mass_below(np.float64(beta))
    return lambda x: np.clip(mass_below((np.minimum(x, b) - mean) / std) / total, 0, 1)


# By the name of the fill: takes its parameters, returns the distribution function.
CDFS: dict[str, Callable[..., Callable[[Floats], Any]]] = {
    "uniform_": lambda a, b: stats.uniform(a, b - a).cdf,
    "normal_": lambda mean, std: stats.norm(mean, std).cdf,
    "trunc_normal_": trunc_cdf,
}
