"""Fills whose std comes from the fans as in torch.nn.init: Xavier (Glorot) and Kaiming (He)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import torch

from initstats.init._dispatch import fill_one
from initstats.init._distributions import NORMAL, TRUNC_NORMAL, UNIFORM, Family
from initstats.init._errors import as_torch
from initstats.init._overrides import overridable
from initstats.init._shards import whole_of
from initstats.init._validate import number
from initstats.init.fans import Fans, TorchMode, fans_of, torch_mode
from initstats.init.gains import Function, calculate_gain
from initstats.sharding import Box

Distribution = Literal["normal", "truncated_normal", "uniform"]

# Standard deviation of the standard normal truncated to [-2, 2]:
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)). JAX, Keras and TensorFlow write it with these digits.
STD_OF_TRUNCATED_NORMAL = 0.87962566103423978


@overridable
def xavier_uniform_(
    tensor: torch.Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with uniforms of std gain * sqrt(2 / (fan_in + fan_out)), in place.

    The bounds are ±gain * sqrt(6 / (fan_in + fan_out)).

    Args:
        tensor: Weight [out, in / groups, ...], at least 2 dimensions; otherwise as in `uniform_`.
        gain: Finite, >= 0; see `calculate_gain`.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.
        groups: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: fewer than 2 dimensions (torch's message), gain < 0 or not finite; otherwise as
            `uniform_` and `calculate_fan_in_and_fan_out`.
        ZeroDivisionError: both fans are 0, as in torch.

    Determinism: bitwise, as `uniform_`.
    Source: Glorot and Bengio 2010, eq. 16; the signature is torch.nn.init.xavier_uniform_.
    """
    function = "xavier_uniform_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = xavier_std(function, tensor, "uniform_", gain, fans)
    return fill_of_std(function, tensor, "uniform", std, generator, seed, name, box)


@overridable
def xavier_normal_(
    tensor: torch.Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with normals of std gain * sqrt(2 / (fan_in + fan_out)), in place.

    Args:
        tensor: As in `xavier_uniform_`.
        gain: As in `xavier_uniform_`.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.
        groups: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: as `xavier_uniform_`.
        ZeroDivisionError: as `xavier_uniform_`.

    Determinism: bitwise, as `normal_`.
    Source: Glorot and Bengio 2010, eq. 12; the signature is torch.nn.init.xavier_normal_.
    """
    function = "xavier_normal_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = xavier_std(function, tensor, "normal_", gain, fans)
    return fill_of_std(function, tensor, "normal", std, generator, seed, name, box)


@overridable
def kaiming_uniform_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: TorchMode = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with uniforms of std gain / sqrt(fan), in place.

    The bounds are ±gain * sqrt(3 / fan). A tensor without elements gives torch's warning.

    Args:
        tensor: Weight [out, in / groups, ...], at least 2 dimensions; otherwise as in `uniform_`.
        a: Slope of the leaky ReLU behind the layer; other nonlinearities do not use it.
        mode: "fan_in" keeps the second moment in the forward pass, "fan_out" in the backward pass.
        nonlinearity: What gives the gain: any name or function that `calculate_gain` takes.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.
        groups: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: fewer than 2 dimensions, a mode or a nonlinearity that is not known (torch's
            messages); otherwise as `uniform_`, `calculate_gain` and `calculate_fan_in_and_fan_out`.

    Determinism: bitwise, as `uniform_`.
    Source: He et al. 2015, eq. 10 and 14; the signature is torch.nn.init.kaiming_uniform_.
    """
    function = "kaiming_uniform_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    if is_empty(whole):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    mode = torch_mode(mode)  # torch's order of errors: mode, dimensions, nonlinearity
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = kaiming_std(fans, a, mode, nonlinearity)
    return fill_of_std(function, tensor, "uniform", std, generator, seed, name, box)


@overridable
def kaiming_normal_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: TorchMode = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with normals of std gain / sqrt(fan), in place.

    A tensor without elements gives torch's warning.

    Args:
        tensor: As in `kaiming_uniform_`.
        a: As in `kaiming_uniform_`.
        mode: As in `kaiming_uniform_`.
        nonlinearity: As in `kaiming_uniform_`.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.
        groups: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: As in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: as `kaiming_uniform_`.

    Determinism: bitwise, as `normal_`.
    Source: He et al. 2015, eq. 10 and 14; the signature is torch.nn.init.kaiming_normal_.
    """
    function = "kaiming_normal_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    if is_empty(whole):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    mode = torch_mode(mode)  # torch's order of errors: mode, dimensions, nonlinearity
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = kaiming_std(fans, a, mode, nonlinearity)
    return fill_of_std(function, tensor, "normal", std, generator, seed, name, box)


def is_empty(tensor: object) -> bool:
    """Whether it is a tensor without elements; what is no tensor is left to later checks."""
    return isinstance(tensor, torch.Tensor) and 0 in tensor.shape


def family_of_std(
    distribution: Distribution, stds: Sequence[float]
) -> tuple[Family, tuple[list[float], ...]]:
    """Return the fills of mean 0 and these stds, and their parameters, one list each.

    The truncated normal has its std after truncation.
    """
    zeros = [0.0] * len(stds)
    if distribution == "uniform":
        bounds = [math.sqrt(3.0) * std for std in stds]
        return UNIFORM, ([-bound for bound in bounds], bounds)
    if distribution == "normal":
        return NORMAL, (zeros, list(stds))
    before = [std / STD_OF_TRUNCATED_NORMAL for std in stds]
    bounds = [2.0 * std for std in before]
    return TRUNC_NORMAL, (zeros, before, [-bound for bound in bounds], bounds)


def fill_of_std(
    function: str,
    tensor: torch.Tensor,
    distribution: Distribution,
    std: float,
    generator: torch.Generator | None,
    seed: int | None,
    name: str | None,
    box: Box | None,
) -> torch.Tensor:
    """Fill with numbers of mean 0 and the std; the truncated normal has it after truncation."""
    family, lists = family_of_std(distribution, [std])
    values = tuple(numbers[0] for numbers in lists)
    return fill_one(function, family, tensor, values, generator, seed, name, box)


def xavier_std(function: str, tensor: torch.Tensor, kind: str, gain: float, fans: Fans) -> float:
    """Return gain * sqrt(2 / (fan_in + fan_out)); `kind` is the fill below, for torch's errors."""
    value = number(function, "gain", gain)
    std = value * math.sqrt(2.0 / float(fans.fan_in + fans.fan_out))
    if not 0.0 <= value < math.inf:
        error = ValueError(
            f"initstats.{function}: expected gain to be finite and >= 0, got gain={value}"
        )
        bound = math.sqrt(3.0) * std
        numbers = [-bound, bound] if kind == "uniform_" else [0.0, std]
        raise as_torch(error, tensor, kind, numbers)
    return std


def kaiming_std(fans: Fans, a: float, mode: str, nonlinearity: str | Function) -> float:
    """Return gain / sqrt(fan)."""
    fan = fans.fan_in if torch_mode(mode) == "fan_in" else fans.fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)
