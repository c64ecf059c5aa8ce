"""Fills with independent random numbers, and their forms for many tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import ParamSpec

import torch

from initstats.init._dispatch import Numbers, fill, fill_one
from initstats.init._distributions import NORMAL, TRUNC_NORMAL, UNIFORM
from initstats.init._overrides import overridable
from initstats.sharding import Box

_Arguments = ParamSpec("_Arguments")

# torch.nn.init.trunc_normal_ says so, in these words.
FAR = (
    "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
    "The distribution of values may be incorrect."
)


def is_far(mean: float, std: float, a: float, b: float) -> bool:
    """Whether torch warns of these parameters; what later checks refuse is left to them."""
    try:
        fillable = math.isfinite(mean) and std > 0 and a <= b and a < math.inf and b > -math.inf
        return fillable and (mean < a - 2 * std or mean > b + 2 * std)
    except TypeError:
        return False


@overridable
def uniform_(
    tensor: torch.Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill the tensor with uniform numbers in [a, b), in place.

    Args:
        tensor: Float16, bfloat16, float32 or float64, any shape and strides, CPU or CUDA; on meta
            nothing happens.
        a: Smallest value, finite in the tensor's dtype.
        b: Bound that is never reached, also not by rounding, finite and >= a; a == b fills with the
            value.
        generator: Where the key is drawn from, of either device; default: torch's default CPU
            generator.
        seed: Integer in [-2**63, 2**64) to take the key from instead; no generator moves then.
        name: With seed, usually the parameter's name: other names give independent numbers.
        box: Where the tensor lies in a larger one that it is a block of: it gets the bits that the
            larger one has there. Of no use with DTensors, which say it themselves.

    Returns:
        The tensor.

    Raises:
        TypeError: not a dense floating tensor of the four dtypes, or an argument of the wrong kind.
        ValueError: a > b, a or b not finite in the dtype, no value of the dtype in [a, b), seed out
            of range, seed and generator together, or a tensor in the middle of an autograd graph.
        RuntimeError: elements of the tensor share memory (expanded tensors).

    Determinism: bitwise. The same key gives the same bits on CPU and CUDA, for any number of
        threads, any strides and any batching. float32 and narrower use 24 random bits per element,
        float64 53.
    Source: the signature is torch.nn.init.uniform_; the stream is Philox4x32-10 (Salmon et al.
        2011).
    """
    return fill_one("uniform_", UNIFORM, tensor, (a, b), generator, seed, name, box)


@overridable
def normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill the tensor with normal numbers of the given mean and standard deviation, in place.

    Args:
        tensor: As in `uniform_`.
        mean: Finite.
        std: Standard deviation, finite, >= 0.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.

    Returns:
        The tensor.

    Raises:
        ValueError: std < 0 or a parameter that is not finite; otherwise as `uniform_`.

    Determinism: bitwise, as `uniform_`. One 32-bit word per element (float64: 54 bits): |z| reaches
        6.3 (8.3), and the value is within 5 ulp of float32 of the exact inverse CDF of the word.
    Source: the signature is torch.nn.init.normal_; inverse CDF after Giles 2010 (float64: Wichura
        1988, AS 241).
    """
    return fill_one("normal_", NORMAL, tensor, (mean, std), generator, seed, name, box)


@overridable
def trunc_normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill the tensor with normal numbers truncated to [a, b], in place.

    The bounds are absolute values, as in torch (at std=0.02 the default ±2 cuts nothing). Any
    interval works, also narrow ones and far tails such as [5, inf]: one write per element, no
    rejection, no host sync. The distribution is right also where torch warns that it may not be; a
    call that torch could get warns as torch does (the mean more than 2 std from [a, b]), one with
    `seed` does not.

    Args:
        tensor: As in `uniform_`.
        mean: Of the normal before truncation, finite.
        std: Of the normal before truncation, finite, >= 0; 0 fills with the mean, which must then
            lie in [a, b].
        a: Smallest value, may be -inf.
        b: Largest value, may be inf; a == b fills with the value.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.

    Returns:
        The tensor.

    Raises:
        ValueError: std < 0, a > b, NaN, mean not finite, no value of the dtype in [a, b]; otherwise
            as `uniform_`.

    Determinism: bitwise, as `uniform_`. Bounds hold in every dtype after rounding.
    Source: the signature is torch.nn.init.trunc_normal_; the method is the inverse CDF between the
        bounds.
    """
    if seed is None and is_far(mean, std, a, b):
        warnings.warn(FAR, stacklevel=3)
    return fill_one(
        "trunc_normal_", TRUNC_NORMAL, tensor, (mean, std, a, b), generator, seed, name, box
    )


_COMMON = {
    "generator": "As in `uniform_`; one draw per tensor, in order.",
    "seed": "As in `uniform_`.",
    "names": "With seed, one per tensor; without names the key comes from the tensor's position.",
    "boxes": "One per tensor, None for those that are whole: `box` of `uniform_`.",
    **dict.fromkeys(
        ("groups", "transposed", "packed"), "As in `calculate_fan_in_and_fan_out`, for all tensors."
    ),
}


def foreach_form(
    one: str, each: Sequence[str] = (), note: str = ""
) -> Callable[[Callable[_Arguments, None]], Callable[_Arguments, None]]:
    """Complete the docstring of a form for many tensors from its first line and its signature.

    Args:
        one: Name of the form for one tensor.
        each: Parameters that may be one per tensor.
        note: Paragraph before the arguments.
    """

    def described(parameter: str) -> str:
        if parameter in each:
            return f"One for all tensors or one per tensor, otherwise as in `{one}`."
        return _COMMON.get(parameter, f"As in `{one}`, for all tensors.")

    def documented(function: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
        assert isinstance(function, FunctionType)
        code = function.__code__
        parameters = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        lines = "".join(f"    {parameter}: {described(parameter)}\n" for parameter in parameters)
        function.__doc__ = f"""{function.__doc__}
{note}
Args:
    tensors: As in `{one}`, of any devices and dtypes; nothing is written unless all are fit.
{lines}
Raises:
    TypeError: as `{one}`.
    ValueError: lists of the wrong length, a tensor that occurs twice; otherwise as `{one}`.

Determinism: bitwise; the bits are those of one call per tensor with the same key.
Source: as `{one}`.
"""
        return function

    return documented


@foreach_form(UNIFORM.name, UNIFORM.parameters)
def foreach_uniform_(
    tensors: Iterable[torch.Tensor],
    a: Numbers = 0.0,
    b: Numbers = 1.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Fill many tensors with uniform numbers in [a, b) in one launch per device and dtype."""
    fill("foreach_uniform_", UNIFORM, tensors, (a, b), generator, seed, names, boxes)


@foreach_form(NORMAL.name, NORMAL.parameters)
def foreach_normal_(
    tensors: Iterable[torch.Tensor],
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Fill many tensors with normal numbers in one launch per device and dtype."""
    fill("foreach_normal_", NORMAL, tensors, (mean, std), generator, seed, names, boxes)


@foreach_form(TRUNC_NORMAL.name, TRUNC_NORMAL.parameters)
def foreach_trunc_normal_(
    tensors: Iterable[torch.Tensor],
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    a: Numbers = -2.0,
    b: Numbers = 2.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> None:
    """Fill many tensors with truncated normal numbers in one launch per device and dtype."""
    values = (mean, std, a, b)
    fill("foreach_trunc_normal_", TRUNC_NORMAL, tensors, values, generator, seed, names, boxes)
