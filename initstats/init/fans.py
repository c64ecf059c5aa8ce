"""Fans of a weight: inputs per output, and outputs per input."""

from __future__ import annotations

import math
import operator
from typing import Literal, NamedTuple, get_args

import torch

TorchMode = Literal["fan_in", "fan_out"]
Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]


class Fans(NamedTuple):
    """The two fans of a weight.

    Attributes:
        fan_in: Inputs that are summed into one output.
        fan_out: Outputs that one input goes to.
    """

    fan_in: int
    fan_out: int


def calculate_fan_in_and_fan_out(
    tensor: torch.Tensor,
    *,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> Fans:
    """Return the fans of a weight, by torch's rule or by what the layer really does.

    torch sees the shape alone: fan_in = shape[1] * k and fan_out = shape[0] * k, where k is the
    product of the sizes from dimension 2 on. Three kinds of layer need more than the shape:

    | weight | shape | torch's rule: fan_in, fan_out | with the argument |
    |---|---|---|---|
    | `Conv2d(64, 64, 3, groups=64)` | [64, 1, 3, 3] | 9, 576 | `groups=64`: 9, 9 |
    | `Conv2d(64, 128, 3, groups=4)` | [128, 16, 3, 3] | 144, 1152 | `groups=4`: 144, 288 |
    | `ConvTranspose2d(8, 4, 3)` | [8, 4, 3, 3] | 36, 72 | `transposed=True`: 72, 36 |
    | query, key, value in one matrix | [3 * 512, 512] | 512, 1536 | `packed=3`: 512, 512 |
    | the four gates of an LSTM | [4 * 256, 64] | 64, 1024 | `packed=4`: 64, 256 |

    Elements that a border cuts off are counted, and a stride is not taken into account: neither is
    in the weight.

    Args:
        tensor: Weight [out, in / groups, ...], at least 2 dimensions, any dtype and device, meta
            too. A matrix that is used as x @ w goes in as w.T.
        groups: Of the convolution, >= 1.
        transposed: The weight is that of a transposed convolution, [in, out / groups, ...].
        packed: How many projections of equal size are stacked along the output dimension, >= 1.

    Returns:
        The fans, a pair (fan_in, fan_out).

    Raises:
        TypeError: not a tensor, groups or packed not an integer, transposed not a bool.
        ValueError: fewer than 2 dimensions (torch's message), groups or packed < 1 or not a divisor
            of the dimension that they split.

    Determinism: bitwise.
    Source: the defaults are torch.nn.init; fan_out / groups for grouped convolutions as in
        EfficientNet's reference code (Tan and Le 2019).
    """
    return fans_of(
        "calculate_fan_in_and_fan_out",
        tensor,
        groups=groups,
        transposed=transposed,
        packed=packed,
    )


def fans_of(
    function: str, tensor: torch.Tensor, *, groups: int, transposed: bool, packed: int
) -> Fans:
    """Return the fans; `function` is the name in messages."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(
            f"initstats.{function}: expected a torch.Tensor, got {type(tensor).__name__}"
        )
    groups = _whole(function, "groups", groups)
    packed = _whole(function, "packed", packed)
    if not isinstance(transposed, bool):
        raise TypeError(
            f"initstats.{function}: expected transposed to be a bool, got transposed={transposed!r}"
        )
    if tensor.dim() < 2:  # noqa: PLR2004  # torch's rule and torch's words
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
        )
    first = _divided(function, "groups", tensor.size(0), groups)
    second = tensor.size(1)
    inputs, outputs = (first, second) if transposed else (second, first)
    outputs = _divided(function, "packed", outputs, packed)
    receptive_field = math.prod(tensor.shape[2:])
    return Fans(inputs * receptive_field, outputs * receptive_field)


def calculate_correct_fan(tensor: torch.Tensor, mode: str) -> int:
    """Return one of the two fans, by torch's rule.

    Args:
        tensor: As in `calculate_fan_in_and_fan_out`.
        mode: "fan_in" or "fan_out", in any case.

    Raises:
        ValueError: as torch, for another mode or fewer than 2 dimensions.
    """
    mode = torch_mode(mode)
    fans = calculate_fan_in_and_fan_out(tensor)
    return fans.fan_in if mode == "fan_in" else fans.fan_out


def torch_mode(mode: str) -> TorchMode:
    """Return the mode in lower case, or raise torch's ValueError if torch does not know it."""
    mode = mode.lower()
    if mode == "fan_in":
        return "fan_in"
    if mode == "fan_out":
        return "fan_out"
    raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")


def fan_for_mode(function: str, fans: Fans, mode: str) -> float:
    """Return the fan of a mode in any case: one of the two, or their arithmetic or geometric mean.

    Raises:
        TypeError: mode is not a string.
        ValueError: mode is none of the four.
    """
    if not isinstance(mode, str):
        raise TypeError(f"initstats.{function}: expected mode to be a string, got mode={mode!r}")
    match mode.lower():
        case "fan_in":
            return fans.fan_in
        case "fan_out":
            return fans.fan_out
        case "fan_avg":
            return (fans.fan_in + fans.fan_out) / 2
        case "fan_geo_avg":
            return math.sqrt(fans.fan_in * fans.fan_out)
    raise ValueError(
        f"initstats.{function}: expected mode to be one of {', '.join(get_args(Mode))},"
        f" got mode={mode!r}"
    )


def _whole(function: str, name: str, value: int) -> int:
    if value is True or value is False or not hasattr(value, "__index__"):
        raise TypeError(
            f"initstats.{function}: expected {name} to be an integer, got {name}={value!r}"
        )
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"initstats.{function}: expected {name} >= 1, got {name}={number}")
    return number


def _divided(function: str, name: str, size: int, by: int) -> int:
    if size % by:
        raise ValueError(
            f"initstats.{function}: expected {name} to divide the dimension of size {size},"
            f" got {name}={by}"
        )
    return size // by
