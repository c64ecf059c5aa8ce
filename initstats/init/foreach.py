"""Fills of many tensors in one call whose stds come from the fans of each tensor."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import torch

from initstats.init._dispatch import Numbers, fill
from initstats.init._shards import wholes_of
from initstats.init.fans import Fans, Mode, TorchMode, fans_of
from initstats.init.gains import Function
from initstats.init.random import foreach_form
from initstats.init.variance_scaling import variance_scaling_std
from initstats.init.xavier_kaiming import (
    Distribution,
    family_of_std,
    is_empty,
    kaiming_std,
    xavier_std,
)
from initstats.sharding import Box

_LECUN = """
LeCun's are `foreach_variance_scaling_(tensors, 1.0, "fan_in", "truncated_normal")` and the same
with "uniform".
"""


@foreach_form("xavier_uniform_", ("gain",))
def foreach_xavier_uniform_(
    tensors: Iterable[torch.Tensor],
    gain: Numbers = 1.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> None:
    """Fill many tensors as `xavier_uniform_` does, in one launch per device and dtype."""
    function = "foreach_xavier_uniform_"
    fans = partial(fans_of, function, groups=groups, transposed=transposed, packed=packed)
    _fill_xavier(function, "uniform", tensors, gain, fans, generator, seed, names, boxes)


@foreach_form("xavier_normal_", ("gain",))
def foreach_xavier_normal_(
    tensors: Iterable[torch.Tensor],
    gain: Numbers = 1.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> None:
    """Fill many tensors as `xavier_normal_` does, in one launch per device and dtype."""
    function = "foreach_xavier_normal_"
    fans = partial(fans_of, function, groups=groups, transposed=transposed, packed=packed)
    _fill_xavier(function, "normal", tensors, gain, fans, generator, seed, names, boxes)


@foreach_form("kaiming_uniform_")
def foreach_kaiming_uniform_(
    tensors: Iterable[torch.Tensor],
    a: float = 0,
    mode: TorchMode = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> None:
    """Fill many tensors as `kaiming_uniform_` does, in one launch per device and dtype."""
    function = "foreach_kaiming_uniform_"
    fans = partial(fans_of, function, groups=groups, transposed=transposed, packed=packed)
    std = partial(kaiming_std, a=a, mode=mode, nonlinearity=nonlinearity)
    _fill_scaled(function, "uniform", tensors, std, fans, generator, seed, names, boxes)


@foreach_form("kaiming_normal_")
def foreach_kaiming_normal_(
    tensors: Iterable[torch.Tensor],
    a: float = 0,
    mode: TorchMode = "fan_in",
    nonlinearity: str | Function = "leaky_relu",
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> None:
    """Fill many tensors as `kaiming_normal_` does, in one launch per device and dtype."""
    function = "foreach_kaiming_normal_"
    fans = partial(fans_of, function, groups=groups, transposed=transposed, packed=packed)
    std = partial(kaiming_std, a=a, mode=mode, nonlinearity=nonlinearity)
    _fill_scaled(function, "normal", tensors, std, fans, generator, seed, names, boxes)


@foreach_form("variance_scaling_", note=_LECUN)
def foreach_variance_scaling_(
    tensors: Iterable[torch.Tensor],
    scale: float = 1.0,
    mode: Mode = "fan_in",
    distribution: Distribution = "normal",
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    boxes: Sequence[Box | None] | None = None,
    groups: int = 1,
    transposed: bool = False,
    packed: int = 1,
) -> None:
    """Fill many tensors as `variance_scaling_` does, in one launch per device and dtype."""
    function = "foreach_variance_scaling_"
    fans = partial(fans_of, function, groups=groups, transposed=transposed, packed=packed)

    def std(of: Fans) -> float:
        return variance_scaling_std(function, of, scale, mode, distribution)

    _fill_scaled(function, distribution, tensors, std, fans, generator, seed, names, boxes)


def _fill_xavier(
    function: str,
    distribution: Literal["uniform", "normal"],
    tensors: Iterable[torch.Tensor],
    gain: Numbers,
    fans: Callable[[torch.Tensor], Fans],
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
    boxes: Sequence[Box | None] | None,
) -> None:
    """Fill with one gain for all tensors or one each; a tensor without elements has fans too."""
    todo = list(tensors)
    gains = list(gain) if isinstance(gain, Sequence) else [gain] * len(todo)
    if len(gains) != len(todo):
        raise ValueError(
            f"initstats.{function}: expected one gain per tensor, {len(todo)}, got {len(gains)}"
        )
    found = [fans(whole) for whole in wholes_of(function, todo, boxes)]
    stds = [
        xavier_std(function, tensor, f"{distribution}_", one, of)
        for tensor, one, of in zip(todo, gains, found, strict=True)
    ]
    family, values = family_of_std(distribution, stds)
    fill(function, family, todo, values, generator, seed, names, boxes)


def _fill_scaled(
    function: str,
    distribution: Distribution,
    tensors: Iterable[torch.Tensor],
    std: Callable[[Fans], float],
    fans: Callable[[torch.Tensor], Fans],
    generator: torch.Generator | None,
    seed: int | None,
    names: Sequence[str | None] | None,
    boxes: Sequence[Box | None] | None,
) -> None:
    """Fill with stds that depend on the fans alone; warn for each tensor without elements."""
    todo = list(tensors)
    found: list[Fans | None] = []
    for whole in wholes_of(function, todo, boxes):
        if is_empty(whole):
            warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
            found.append(None)
        else:
            found.append(fans(whole))
    family, values = family_of_std(distribution, [0.0 if of is None else std(of) for of in found])
    fill(function, family, todo, values, generator, seed, names, boxes)
