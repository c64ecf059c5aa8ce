"""Fills beyond torch.nn.init: variance scaling, LeCun, truncation in standard deviations."""

from __future__ import annotations

import math
import warnings
from typing import get_args

import torch

from initstats.init._dispatch import fill_one
from initstats.init._distributions import TRUNC_NORMAL, check_normal
from initstats.init._overrides import overridable
from initstats.init._shards import whole_of
from initstats.init._validate import number, tensor_to_fill
from initstats.init.fans import Fans, Mode, fan_for_mode, fans_of
from initstats.init.xavier_kaiming import Distribution, fill_of_std, is_empty
from initstats.sharding import Box


@overridable
def variance_scaling_(
    tensor: torch.Tensor,
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "normal",
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with numbers of mean 0 and variance scale / fan, in place.

    Every distribution has this variance: the truncated normal is cut at two standard deviations and
    widened by 1 / .87962566, the uniform has the bounds ±sqrt(3 * scale / fan). A tensor without
    elements gives torch's warning.

    | fill | scale | mode | distribution |
    |---|---|---|---|
    | `lecun_normal_` | 1 | "fan_in" | "truncated_normal" |
    | `xavier_uniform_`, gain g | g^2 | "fan_avg" | "uniform" |
    | `kaiming_normal_`, "relu" | 2 | "fan_in" | "normal" |

    Args:
        tensor: Weight [out, in / groups, ...], at least 2 dimensions; otherwise as in `uniform_`.
        scale: Finite, >= 0; of the variance, so the square of a gain.
        mode: The fan: "fan_in", "fan_out", their arithmetic mean "fan_avg" or their geometric mean
            "fan_geo_avg".
        distribution: "normal", "truncated_normal" or "uniform".
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
        TypeError: scale is not a number, mode or distribution not a string; otherwise as
            `uniform_`.
        ValueError: scale < 0 or not finite, a mode or a distribution that is not known; otherwise
            as `uniform_` and `calculate_fan_in_and_fan_out`.

    Determinism: bitwise, as `uniform_`.
    Source: jax.nn.initializers.variance_scaling and keras.initializers.VarianceScaling.
    """
    function = "variance_scaling_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    if is_empty(whole):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = variance_scaling_std(function, fans, scale, mode, distribution)
    return fill_of_std(function, tensor, distribution, std, generator, seed, name, box)


def variance_scaling_std(
    function: str, fans: Fans, scale: float, mode: str, distribution: str
) -> float:
    """Return sqrt(scale / fan), or raise for arguments that `variance_scaling_` does not know."""
    fan = fan_for_mode(function, fans, mode)
    scale = number(function, "scale", scale)
    if not 0.0 <= scale < math.inf:
        raise ValueError(
            f"initstats.{function}: expected scale to be finite and >= 0, got scale={scale}"
        )
    if distribution not in get_args(Distribution):
        known = ", ".join(get_args(Distribution))
        raise ValueError(
            f"initstats.{function}: expected distribution to be one of {known},"
            f" got distribution={distribution!r}"
        )
    return math.sqrt(scale / fan)


@overridable
def lecun_normal_(
    tensor: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with truncated normals of std 1 / sqrt(fan_in), in place.

    The normal is cut at two standard deviations and widened, so that the std holds after
    truncation, as in JAX, Keras and timm. `variance_scaling_(tensor)` is the form without
    truncation. A tensor without elements gives torch's warning.

    Args:
        tensor: As in `variance_scaling_`.
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
        ValueError: as `uniform_` and `calculate_fan_in_and_fan_out`.

    Determinism: bitwise, as `trunc_normal_`.
    Source: LeCun et al. 1998, "Efficient BackProp", eq. 16; jax.nn.initializers.lecun_normal.
    """
    function = "lecun_normal_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    if is_empty(whole):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = 1.0 / math.sqrt(fans.fan_in)
    return fill_of_std(function, tensor, "truncated_normal", std, generator, seed, name, box)


@overridable
def lecun_uniform_(
    tensor: torch.Tensor,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> torch.Tensor:
    """Fill with uniforms of std 1 / sqrt(fan_in), in place.

    The bounds are ±sqrt(3 / fan_in). A tensor without elements gives torch's warning.

    Args:
        tensor: As in `variance_scaling_`.
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
        ValueError: as `uniform_` and `calculate_fan_in_and_fan_out`.

    Determinism: bitwise, as `uniform_`.
    Source: LeCun et al. 1998, "Efficient BackProp", eq. 16; jax.nn.initializers.lecun_uniform.
    """
    function = "lecun_uniform_"
    whole = tensor if box is None else whole_of(function, tensor, box)
    if is_empty(whole):
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return tensor
    fans = fans_of(function, whole, groups=groups, transposed=transposed, packed=packed)
    std = 1.0 / math.sqrt(fans.fan_in)
    return fill_of_std(function, tensor, "uniform", std, generator, seed, name, box)


@overridable
def truncated_normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    box: Box | None = None,
) -> torch.Tensor:
    """Fill with normals truncated to [mean + low * std, mean + high * std], in place.

    The bounds are in standard deviations from the mean, as in JAX, Keras and the papers that say
    "truncated at two standard deviations"; those of `trunc_normal_` are absolute values, and at
    std=0.02 its default ±2 cuts nothing. `std` is that of the normal before truncation: at ±2 the
    numbers have .87962566 of it.

    Args:
        tensor: As in `uniform_`.
        mean: Of the normal before truncation, finite.
        std: Of the normal before truncation, finite, >= 0; 0 fills with the mean.
        low: Lower bound in standard deviations from the mean, may be -inf.
        high: Upper bound in standard deviations from the mean, may be inf.
        generator: As in `uniform_`.
        seed: As in `uniform_`.
        name: As in `uniform_`.
        box: As in `uniform_`.

    Returns:
        The tensor.

    Raises:
        TypeError: as `uniform_`.
        ValueError: std < 0, low > high, NaN, mean or std not finite, no value of the dtype between
            the bounds; otherwise as `uniform_`.

    Determinism: bitwise, as `trunc_normal_`.
    Source: jax.nn.initializers.truncated_normal.
    """
    function = "truncated_normal_"
    tensor_to_fill(function, tensor)
    mean, std = number(function, "mean", mean), number(function, "std", std)
    low, high = number(function, "low", low), number(function, "high", high)
    if not torch.compiler.is_compiling():  # which does not trace caches; fills check again
        check_normal(function, tensor.dtype, mean, std)
    if not low <= high:  # NaN included
        raise ValueError(f"initstats.{function}: expected low <= high, got low={low}, high={high}")
    # Without a spread every bound is the mean; 0 * inf would be NaN.
    a, b = (mean + low * std, mean + high * std) if std else (mean, mean)
    return fill_one(function, TRUNC_NORMAL, tensor, (mean, std, a, b), generator, seed, name, box)
