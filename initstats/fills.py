"""Random fills: `uniform_`, `normal_`, `trunc_normal_`, and their forms for many tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch

from initstats import _ops, keys
from initstats.fill_checks import (
    check_normal,
    check_trunc_normal,
    check_uniform,
    number,
    numbers_for,
    tensor_to_fill,
)

Numbers: TypeAlias = float | Sequence[float]


def uniform_(
    tensor: torch.Tensor,
    a: float = 0.0,
    b: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
) -> torch.Tensor:
    """Fill the tensor with uniform numbers in [a, b), in place.

    Args:
        tensor: float16, bfloat16, float32 or float64, any shape and strides, CPU or CUDA; on meta
            nothing happens.
        a: smallest value, finite in the tensor's dtype.
        b: bound that is never reached, also not by rounding, finite and >= a; a == b fills with the
            value.
        generator: where the key is drawn from, of either device; default: torch's default CPU
            generator.
        seed: integer in [-2**63, 2**64) to take the key from instead; no generator moves then.
        name: with seed, usually the parameter's name: other names give independent numbers.

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
    foreach_uniform_(
        [tensor], a, b, generator=generator, seed=seed, names=_one(name), _function="uniform_"
    )
    return tensor


def normal_(
    tensor: torch.Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
) -> torch.Tensor:
    """Fill the tensor with normal numbers of the given mean and standard deviation, in place.

    Args:
        tensor: as in `uniform_`.
        mean: finite.
        std: standard deviation, finite, >= 0.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.

    Returns:
        The tensor.

    Raises:
        ValueError: std < 0 or a parameter that is not finite; otherwise as `uniform_`.

    Determinism: bitwise, as `uniform_`. One 32-bit word per element (float64: 54 bits): |z| reaches
        6.3 (8.3), and the value is within 5 ulp of float32 of the exact inverse CDF of the word.
    Source: the signature is torch.nn.init.normal_; inverse CDF after Giles 2010 (float64: Wichura
        1988, AS 241).
    """
    foreach_normal_(
        [tensor], mean, std, generator=generator, seed=seed, names=_one(name), _function="normal_"
    )
    return tensor


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
) -> torch.Tensor:
    """Fill the tensor with normal numbers truncated to [a, b], in place.

    The bounds are absolute values, as in torch (at std=0.02 the default ±2 cuts nothing). Any
    interval works, also narrow ones and far tails such as [5, inf]: one write per element, no
    rejection, no host sync.

    Args:
        tensor: as in `uniform_`.
        mean: of the normal before truncation, finite.
        std: of the normal before truncation, finite, >= 0; 0 fills with the mean, which must then
            lie in [a, b].
        a: smallest value, may be -inf.
        b: largest value, may be inf; a == b fills with the value.
        generator: as in `uniform_`.
        seed: as in `uniform_`.
        name: as in `uniform_`.

    Returns:
        The tensor.

    Raises:
        ValueError: std < 0, a > b, NaN, mean not finite, no value of the dtype in [a, b]; otherwise
            as `uniform_`.

    Determinism: bitwise, as `uniform_`. Bounds hold in every dtype after rounding.
    Source: the signature is torch.nn.init.trunc_normal_; the method is the inverse CDF between the
        bounds.
    """
    foreach_trunc_normal_(
        [tensor],
        mean,
        std,
        a,
        b,
        generator=generator,
        seed=seed,
        names=_one(name),
        _function="trunc_normal_",
    )
    return tensor


def foreach_uniform_(
    tensors: Iterable[torch.Tensor],
    a: Numbers = 0.0,
    b: Numbers = 1.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    _function: str = "foreach_uniform_",
) -> None:
    """Fill many tensors with uniform numbers in [a, b) in one launch per device and dtype.

    Args:
        tensors: as in `uniform_`, of any devices and dtypes; nothing is written unless all are fit.
        a: one bound for all tensors or one per tensor.
        b: one bound for all tensors or one per tensor.
        generator: as in `uniform_`; one draw per tensor, in order.
        seed: as in `uniform_`.
        names: with seed, one per tensor; without names the key comes from the tensor's position.

    Raises:
        ValueError: lists of the wrong length, a tensor that occurs twice; otherwise as `uniform_`.

    Determinism: bitwise; the bits are those of one call per tensor with the same key.
    Source: as `uniform_`.
    """
    todo = _Fill(_function, tensors, generator, seed, names)
    low, high = todo.numbers("a", a), todo.numbers("b", b)
    todo.check(check_uniform, low, high)
    todo.run(_ops.uniform_, low, high)


def foreach_normal_(
    tensors: Iterable[torch.Tensor],
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    names: Sequence[str | None] | None = None,
    _function: str = "foreach_normal_",
) -> None:
    """Fill many tensors with normal numbers in one launch per device and dtype.

    Args:
        tensors: as in `foreach_uniform_`.
        mean: one for all tensors or one per tensor.
        std: one standard deviation for all tensors or one per tensor.
        generator: as in `foreach_uniform_`.
        seed: as in `foreach_uniform_`.
        names: as in `foreach_uniform_`.

    Raises:
        ValueError: as `normal_` and `foreach_uniform_`.

    Determinism: bitwise; the bits are those of one call per tensor with the same key.
    Source: as `normal_`.
    """
    todo = _Fill(_function, tensors, generator, seed, names)
    means, stds = todo.numbers("mean", mean), todo.numbers("std", std)
    todo.check(check_normal, means, stds)
    todo.run(_ops.normal_, means, stds)


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
    _function: str = "foreach_trunc_normal_",
) -> None:
    """Fill many tensors with truncated normal numbers in one launch per device and dtype.

    Args:
        tensors: as in `foreach_uniform_`.
        mean: one for all tensors or one per tensor.
        std: one standard deviation for all tensors or one per tensor.
        a: one bound for all tensors or one per tensor.
        b: one bound for all tensors or one per tensor.
        generator: as in `foreach_uniform_`.
        seed: as in `foreach_uniform_`.
        names: as in `foreach_uniform_`.

    Raises:
        ValueError: as `trunc_normal_` and `foreach_uniform_`.

    Determinism: bitwise; the bits are those of one call per tensor with the same key.
    Source: as `trunc_normal_`.
    """
    todo = _Fill(_function, tensors, generator, seed, names)
    means, stds = todo.numbers("mean", mean), todo.numbers("std", std)
    low, high = todo.numbers("a", a), todo.numbers("b", b)
    todo.check(check_trunc_normal, means, stds, low, high)
    todo.run(_ops.trunc_normal_, means, stds, low, high)


class _Fill:
    """One call: checks everything, draws the keys, hands the tensors of each device to the op."""

    def __init__(
        self,
        function: str,
        tensors: Iterable[torch.Tensor],
        generator: torch.Generator | None,
        seed: int | None,
        names: Sequence[str | None] | None,
    ) -> None:
        self.function, self.generator, self.seed, self.names = function, generator, seed, names
        self.tensors = [tensor_to_fill(function, tensor) for tensor in tensors]
        if names is not None and len(names) != len(self.tensors):
            raise ValueError(
                f"initstats.{function}: expected one name per tensor,"
                f" {len(self.tensors)}, got {len(names)}"
            )
        if len({id(tensor) for tensor in self.tensors}) != len(self.tensors):
            raise ValueError(
                f"initstats.{function}: expected every tensor once, got one tensor twice"
            )

    def numbers(self, name: str, value: Numbers) -> list[float]:
        """Return the parameter as a list: one number for all tensors, or one per tensor."""
        if type(value) is not float and isinstance(value, (list, tuple)):
            return numbers_for(self.function, name, value, len(self.tensors))
        return [number(self.function, name, value)]

    def check(self, check: Callable[..., None], *parameters: list[float]) -> None:
        """Check the parameters against the dtype of every tensor they are for."""
        if all(len(values) == 1 for values in parameters):
            for dtype in {tensor.dtype for tensor in self.tensors}:
                check(self.function, dtype, *(values[0] for values in parameters))
            return
        for i, tensor in enumerate(self.tensors):
            check(
                self.function,
                tensor.dtype,
                *(values[i if len(values) > 1 else 0] for values in parameters),
            )

    def run(self, op: Callable[..., None], *parameters: list[float]) -> None:
        """Draw the keys in order, then call the op once per device."""
        places = [i for i, tensor in enumerate(self.tensors) if tensor.device.type != "meta"]
        if not places:
            return
        if self.seed is None:
            drawn = keys.draw_keys(
                self.function, len(places), generator=self.generator, names=self.names
            )
            key_at = dict(zip(places, drawn, strict=True))
        else:
            drawn = keys.draw_keys(
                self.function,
                len(self.tensors),
                generator=self.generator,
                seed=self.seed,
                names=self.names,
            )
            key_at = dict(enumerate(drawn))
        devices = {self.tensors[i].device for i in places}
        with torch.no_grad():
            for device in devices:
                here = [i for i in places if self.tensors[i].device == device]
                tensors = [self.tensors[i] for i in here]
                arguments = [
                    values if len(values) == 1 else [values[i] for i in here]
                    for values in parameters
                ]
                op(tensors, [key_at[i] for i in here], *arguments)
                # The op writes through raw pointers: tell autograd, so that stale saved tensors are
                # noticed.
                torch.autograd.graph.increment_version(tensors)


def _one(name: str | None) -> list[str | None] | None:
    return None if name is None else [name]
