"""The distributions of the elementwise fills: one entry each, which the rest is made from.

An entry names an op, which csrc/math/random/distributions.h lists. Dispatch, `fast_init` and all
tests of fills go through the entries; tests/init/test_distributions.py says what a new one lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import torch

from initstats import _ops


class Family:
    """A family of distributions.

    Attributes:
        name: Of the op and of the public function.
        parameters: Their names, in the order of the op and of the public function.
        check: Takes the name of the function called, a dtype and one number per parameter.
        examples: Numbers for the parameters, which tests fill with and golden values are of. The
            label of the first is the name without its underscore, the others begin with it.
        method: The words that `torch.Tensor`'s method of the same name has for the parameters, or
            nothing if torch has no such method.
        op: Takes tensors, keys and one list per parameter (one number for all tensors or one each);
            by default the op of that name.
    """

    def __init__(
        self,
        name: str,
        parameters: tuple[str, ...],
        check: Callable[..., None],
        examples: Mapping[str, tuple[float, ...]],
        method: tuple[str, ...] = (),
        op: Callable[..., None] | None = None,
    ) -> None:
        self.name = name
        self.parameters = parameters
        self.check = check
        self.examples = examples
        self.method = method
        self.op = op or _ops.fill_op(name)


@lru_cache(maxsize=1024)
def check_uniform(function: str, dtype: torch.dtype, a: float, b: float) -> None:
    """Raise ValueError unless a dtype tensor can hold uniforms in [a, b)."""
    largest = torch.finfo(dtype).max
    for name, value in (("a", a), ("b", b)):
        if not -largest <= value <= largest:
            raise ValueError(
                f"initstats.{function}: expected {name} to be finite in {dtype}, got {name}={value}"
            )
    if a > b:
        raise ValueError(f"initstats.{function}: expected a <= b, got a={a}, b={b}")
    if b - a > (largest if dtype is torch.float64 else torch.finfo(torch.float32).max):
        raise ValueError(f"initstats.{function}: expected b - a to be finite, got a={a}, b={b}")
    if a < b and _ops.smallest_at_least(dtype, a) >= b:
        raise ValueError(
            f"initstats.{function}: expected an interval [a, b) that holds a {dtype} value,"
            f" got a={a}, b={b}"
        )


@lru_cache(maxsize=1024)
def check_normal(function: str, dtype: torch.dtype, mean: float, std: float) -> None:
    """Raise ValueError unless mean and std are a normal distribution."""
    del dtype  # every dtype can hold any normal, overflow becomes infinity as in torch
    if not math.isfinite(mean):
        raise ValueError(f"initstats.{function}: expected mean to be finite, got mean={mean}")
    if not 0.0 <= std < math.inf:
        raise ValueError(f"initstats.{function}: expected std to be finite and >= 0, got std={std}")


@lru_cache(maxsize=1024)
def check_trunc_normal(
    function: str, dtype: torch.dtype, mean: float, std: float, a: float, b: float
) -> None:
    """Raise ValueError unless a dtype tensor can hold a normal truncated to [a, b]."""
    check_normal(function, dtype, mean, std)
    if not a <= b:  # NaN included
        raise ValueError(f"initstats.{function}: expected a <= b, got a={a}, b={b}")
    inside = a == -math.inf or _ops.smallest_at_least(dtype, a) <= b
    if not (inside or a == b) or math.inf in (a, -b):
        raise ValueError(
            f"initstats.{function}: expected an interval [a, b] that holds a {dtype} value,"
            f" got a={a}, b={b}"
        )
    if std == 0.0 and not a <= mean <= b:
        raise ValueError(
            f"initstats.{function}: expected the mean in [a, b] with std=0,"
            f" got mean={mean}, a={a}, b={b}"
        )


def check_sparse(function: str, dtype: torch.dtype, std: float, zeros: float) -> None:
    """Raise ValueError unless std is one; the zeros were counted from the shape."""
    del zeros
    check_normal(function, dtype, 0.0, std)


UNIFORM = Family(
    "uniform_",
    ("a", "b"),
    check_uniform,
    examples={"uniform": (-0.3, 0.7)},
    method=("from", "to"),
)
NORMAL = Family(
    "normal_",
    ("mean", "std"),
    check_normal,
    examples={"normal": (0.1, 0.02)},
    method=("mean", "std"),
)
TRUNC_NORMAL = Family(
    "trunc_normal_",
    ("mean", "std", "a", "b"),
    check_trunc_normal,
    examples={
        "trunc_normal": (0.0, 1.0, -2.0, 2.0),
        "trunc_normal_narrow": (0.0, 1.0, 0.5, 0.625),
        "trunc_normal_tail": (0.0, 1.0, 5.0, math.inf),
    },
)
DISTRIBUTIONS = (UNIFORM, NORMAL, TRUNC_NORMAL)

# Filled in the same way, though its elements are not independent.
SPARSE = Family("sparse_", ("std", "zeros"), check_sparse, examples={}, op=_ops.sparse_)
FAMILIES = {family.name: family for family in (*DISTRIBUTIONS, SPARSE)}
