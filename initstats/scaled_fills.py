"""Fills whose std comes from the fans as in torch.nn.init: Xavier (Glorot) and Kaiming (He)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal

import torch

from initstats import _ops
from initstats.fans import TorchMode, fans_of, torch_mode
from initstats.fill_call import Numbers, fill
from initstats.fill_checks import check_normal, check_trunc_normal, check_uniform, number
from initstats.gains import Function, calculate_gain

Distribution = Literal["normal", "truncated_normal", "uniform"]

# Standard deviation of the standard normal truncated to [-2, 2]:
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)). JAX, Keras and TensorFlow write it with these digits.
STD_OF_TRUNCATED_NORMAL = 0.87962566103423978


def xavier_uniform_(
    tensor: torch.Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with uniforms of std gain * sqrt(2 / (fan_in + fan_out)), in place.

    The bounds are ±gain * sqrt(6 / (fan_in + fan_out)).

    Args:
        tensor: weight [out, in / groups, ...], at least 2 dimensions; otherwise as in `uniform_`.
        gain: finite, >= 0; see `calculate_gain`.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.
        groups: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.

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
    fans = fans_of(function, tensor, groups=groups, transposed=transposed, packed=packed)
    std = _gain(function, gain) * math.sqrt(2.0 / float(fans.fan_in + fans.fan_out))
    return fill_of_std(function, tensor, "uniform", std, generator, seed, name)


def xavier_normal_(
    tensor: torch.Tensor,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with normals of std gain * sqrt(2 / (fan_in + fan_out)), in place.

    Args:
        tensor: as in `xavier_uniform_`.
        gain: as in `xavier_uniform_`.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.
        groups: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: as `xavier_uniform_`.
        ZeroDivisionError: as `xavier_uniform_`.

    Determinism: bitwise, as `normal_`.
    Source: Glorot and Bengio 2010, eq. 12; the signature is torch.nn.init.xavier_normal_.
    """
    function = "xavier_normal_"
    fans = fans_of(function, tensor, groups=groups, transposed=transposed, packed=packed)
    std = _gain(function, gain) * math.sqrt(2.0 / float(fans.fan_in + fans.fan_out))
    return fill_of_std(function, tensor, "normal", std, generator, seed, name)


def kaiming_uniform_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: TorchMode = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with uniforms of std gain / sqrt(fan), in place.

    The bounds are ±gain * sqrt(3 / fan). A tensor without elements gives torch's warning.

    Args:
        tensor: weight [out, in / groups, ...], at least 2 dimensions; otherwise as in `uniform_`.
        a: slope of the leaky ReLU behind the layer; other nonlinearities do not use it.
        mode: "fan_in" keeps the second moment in the forward pass, "fan_out" in the backward pass.
        nonlinearity: what gives the gain: any name or function that `calculate_gain` takes.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.
        groups: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: fewer than 2 dimensions, a mode or a nonlinearity that is not known (torch's
            messages); otherwise as `uniform_`, `calculate_gain` and `calculate_fan_in_and_fan_out`.

    Determinism: bitwise, as `uniform_`.
    Source: He et al. 2015, eq. 10 and 14; the signature is torch.nn.init.kaiming_uniform_.
    """
    function = "kaiming_uniform_"
    if is_empty(tensor):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    mode = torch_mode(mode)  # torch's order of errors: mode, dimensions, nonlinearity
    fans = fans_of(function, tensor, groups=groups, transposed=transposed, packed=packed)
    fan = fans.fan_in if mode == "fan_in" else fans.fan_out
    std = calculate_gain(nonlinearity, a) / math.sqrt(fan)
    return fill_of_std(function, tensor, "uniform", std, generator, seed, name)


def kaiming_normal_(
    tensor: torch.Tensor,
    a: float = 0,
    mode: TorchMode = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with normals of std gain / sqrt(fan), in place.

    A tensor without elements gives torch's warning.

    Args:
        tensor: as in `kaiming_uniform_`.
        a: as in `kaiming_uniform_`.
        mode: as in `kaiming_uniform_`.
        nonlinearity: as in `kaiming_uniform_`.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.
        groups: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        transposed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.
        packed: as in `calculate_fan_in_and_fan_out`; the default is torch's rule.

    Returns:
        The tensor.

    Raises:
        ValueError: as `kaiming_uniform_`.

    Determinism: bitwise, as `normal_`.
    Source: He et al. 2015, eq. 10 and 14; the signature is torch.nn.init.kaiming_normal_.
    """
    function = "kaiming_normal_"
    if is_empty(tensor):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=2)
        return tensor
    mode = torch_mode(mode)  # torch's order of errors: mode, dimensions, nonlinearity
    fans = fans_of(function, tensor, groups=groups, transposed=transposed, packed=packed)
    fan = fans.fan_in if mode == "fan_in" else fans.fan_out
    std = calculate_gain(nonlinearity, a) / math.sqrt(fan)
    return fill_of_std(function, tensor, "normal", std, generator, seed, name)


def is_empty(tensor: object) -> bool:
    """Whether it is a tensor without elements; what is no tensor is left to later checks."""
    return isinstance(tensor, torch.Tensor) and 0 in tensor.shape


def fill_of_std(
    function: str,
    tensor: torch.Tensor,
    distribution: Distribution,
    std: float,
    generator: torch.Generator | None,
    seed: int | None,
    name: str | None,
) -> torch.Tensor:
    """Fill with numbers of mean 0 and the std; the truncated normal has it after truncation."""
    op: Callable[..., None]
    check: Callable[..., None]
    parameters: dict[str, Numbers]
    if distribution == "uniform":
        bound = math.sqrt(3.0) * std
        op, check = _ops.uniform_, check_uniform
        parameters = {"a": -bound, "b": bound}
    elif distribution == "normal":
        op, check = _ops.normal_, check_normal
        parameters = {"mean": 0.0, "std": std}
    else:
        before = std / STD_OF_TRUNCATED_NORMAL
        op, check = _ops.trunc_normal_, check_trunc_normal
        parameters = {"mean": 0.0, "std": before, "a": -2.0 * before, "b": 2.0 * before}
    names = None if name is None else [name]
    fill(function, op, check, [tensor], parameters, generator=generator, seed=seed, names=names)
    return tensor


def _gain(function: str, gain: float) -> float:
    value = number(function, "gain", gain)
    if not 0.0 <= value < math.inf:
        raise ValueError(
            f"initstats.{function}: expected gain to be finite and >= 0, got gain={value}"
        )
    return value
