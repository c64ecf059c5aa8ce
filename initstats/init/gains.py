"""Gains: factors on the std of a weight, so that the nonlinearity keeps the second moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional

Function: TypeAlias = Callable[[torch.Tensor], torch.Tensor]

_LINEAR = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)

# Nonlinearities that torch.nn.init has no gain for; those with a parameter at torch's default.
_FUNCTIONS: dict[str, Function] = {
    "celu": functional.celu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "hardtanh": functional.hardtanh,
    "logsigmoid": functional.logsigmoid,
    "mish": functional.mish,
    "quick_gelu": lambda z: z * torch.sigmoid(1.702 * z),  # CLIP's
    "relu6": functional.relu6,
    "relu_squared": lambda z: functional.relu(z).square(),  # Primer (So et al. 2021)
    "silu": functional.silu,
    "sin": torch.sin,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "swish": functional.silu,
    "tanhshrink": functional.tanhshrink,
}

# The integral goes over [-32, 32] in panels of 1/2, so that the usual kinks (0, 1, 3, 6) are edges.
_RANGE = 32.0  # exp(-32**2 / 2) is 4e-223: what is beyond belongs to functions that explode
_PANELS = 128
_NODES = 16  # Gauss-Legendre nodes in a panel: exact to polynomials of degree 31
_TOLERANCE = 1e-14  # share of the whole by which a panel and its two halves may differ
_HALVINGS = 60  # a jump halves its share each time: 2**-60 of a panel is below float64
_MOST_PANELS = 512  # split at once; more means noise, not a kink
_LARGEST_ERROR = 1e-3  # share of the whole that noise may have, as bfloat16 arithmetic has
_LARGEST_END = 1e-12  # share of the whole that the outermost panels may have


def calculate_gain(nonlinearity: str | Function, param: float | None = None) -> float:
    """Return the gain of a nonlinearity f: of a name as in torch, of a callable E[f(z)^2]^-1/2.

    With weights of std gain / sqrt(fan_in), pre-activations that are standard normal in one layer
    have second moment 1 in the next. torch's own names keep torch's values, which are not all of
    this kind:

    | f | torch's gain of the name | E[f(z)^2]^-1/2, from the callable |
    |---|---|---|
    | "linear", "conv1d", ... | 1 | 1 |
    | "relu" | sqrt(2) | sqrt(2) |
    | "leaky_relu" | sqrt(2 / (1 + slope^2)) | the same |
    | "tanh" | 5/3 | 1.5925 (`torch.tanh`) |
    | "sigmoid" | 1 | 1.8462 (`torch.sigmoid`) |
    | "selu" | 3/4 | 1.0000 (`torch.nn.functional.selu`) |

    Names beyond torch's have the value of their function: "celu", "elu", "gelu", "gelu_tanh",
    "hardsigmoid", "hardswish", "hardtanh", "logsigmoid", "mish", "quick_gelu", "relu6",
    "relu_squared", "silu" or "swish", "sin", "softplus", "softsign", "tanhshrink". For other
    parameters pass a callable: `lambda z: torch.nn.functional.elu(z, alpha=0.5)`.

    Args:
        nonlinearity: A name, or a function (also a module) that maps a float64 CPU tensor [n]
            element by element to a floating tensor [n]. It is called several times, without
            autograd.
        param: The slope of "leaky_relu", default 0.01; not used otherwise, as in torch.

    Returns:
        The gain; for functions computed in float64 within 1e-12 of the exact one, relatively.

    Raises:
        TypeError: a function that returns no floating tensor.
        ValueError: a name that is not known, what is neither a name nor callable, a slope that is
            not a number (torch's messages); a function that changes the shape, or whose second
            moment is 0, infinite or does not converge.

    Determinism: bitwise for torch's names; otherwise as deterministic as the function.
    Source: torch.nn.init for torch's names; He et al. 2015, eq. 7-10 for the second moment.
    """
    if isinstance(nonlinearity, str):
        return _gain_of_name(nonlinearity, param)
    if callable(nonlinearity):
        return _gain_of_function(nonlinearity, repr(nonlinearity))
    # torch compares whatever comes with its names, and says the same.
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def _gain_of_name(name: str, param: object) -> float:
    if name in _LINEAR or name == "sigmoid":
        return 1  # an int, as in torch
    if name == "tanh":
        return 5.0 / 3
    if name == "relu":
        return math.sqrt(2.0)
    if name == "leaky_relu":
        if param is None:
            param = 0.01
        if isinstance(param, bool) or not isinstance(param, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + param**2))
    if name == "selu":
        return 3.0 / 4
    if name in _FUNCTIONS:
        return _gain_of_known(name)
    raise ValueError(f"Unsupported nonlinearity {name}")


def _gain_of_known(name: str) -> float:
    return _computed_gains(name)


# While a function is compiled the gain is computed, not traced. torch.compiler's
# assume_constant_result sets this attribute too, but imports the compiler: two seconds.
_gain_of_known._dynamo_marked_constant = True  # type: ignore[attr-defined]  # noqa: SLF001


@cache
def _computed_gains(name: str) -> float:
    return _gain_of_function(_FUNCTIONS[name], name)


def _gain_of_function(function: Function, name: str) -> float:
    with torch.no_grad():
        moment = _second_moment(function, name)
    if not 0.0 < moment < math.inf:
        raise ValueError(
            "initstats.calculate_gain: expected E[f(z)^2] to be finite and > 0 for a standard"
            f" normal z, got {moment} for {name}"
        )
    return 1 / math.sqrt(moment)


def _second_moment(function: Function, name: str) -> float:
    """Return E[f(z)^2]: Gauss-Legendre in panels, halved where halves and whole disagree."""
    # On the CPU also inside `with torch.device("meta")`, where models are often built.
    edges = torch.linspace(-_RANGE, _RANGE, _PANELS + 1, dtype=torch.float64, device="cpu")
    left, right = edges[:-1], edges[1:]
    whole = _panel_integrals(function, name, left, right)
    total = float(whole.sum())
    ends = float(whole[0] + whole[-1])
    if math.isnan(total) or ends > _LARGEST_END * total:
        return math.nan if math.isnan(total) else math.inf
    settled = 0.0
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        left, right = torch.stack((left, middle)), torch.stack((middle, right))
        halves = _panel_integrals(function, name, left, right)
        error = (halves.sum(0) - whole).abs()
        total = settled + float(halves.sum())
        split = error > _TOLERANCE * total
        settled += float(halves[:, ~split].sum())
        left, right = left[:, split].flatten(), right[:, split].flatten()
        whole = halves[:, split].flatten()
        if not 0 < left.numel() <= _MOST_PANELS:
            break
    if left.numel() and float(error[split].sum()) > _LARGEST_ERROR * total:
        raise ValueError(
            f"initstats.calculate_gain: expected E[f(z)^2] to converge, got an error of"
            f" {float(error[split].sum()) / total:.1g} of it for {name}"
            " (f must map each element by itself, always to the same value)"
        )
    return settled + float(whole.sum())


@cache
def _nodes_and_weights() -> tuple[torch.Tensor, torch.Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def _panel_integrals(
    function: Function, name: str, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Return the integral of f(z)^2 times the normal density over every panel [left, right]."""
    nodes, weights = _nodes_and_weights()
    middle, half = (left + right)[..., None] / 2, (right - left)[..., None] / 2
    z = middle + half * nodes
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    value: object = function(z.flatten())  # may work in place: the values are done with
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(
            f"initstats.calculate_gain: expected f to return a floating tensor, got {kind}"
            f" from {name}"
        )
    if value.shape != (z.numel(),):
        raise ValueError(
            f"initstats.calculate_gain: expected f to keep the shape [{z.numel()}],"
            f" got {list(value.shape)} from {name}"
        )
    integrand = value.detach().to("cpu", torch.float64).reshape(z.shape).square() * density
    return (integrand * weights * half).sum(-1)
