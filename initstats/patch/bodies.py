"""Replacement bodies of functions of torch.nn.init and timm while `fast_init` is on.

A function whose `__code__` is replaced stays the same object, so that every reference to it that
other code captured, wherever it keeps it, runs the new body. The bodies run with the globals of the
module that they are put into: they import what they need.
"""

# ruff: noqa: D103  # each stands for the function of its name

from __future__ import annotations

from typing import Any

Anything = Any  # the signatures must equal torch's; their types are torch's business


def uniform_(
    tensor: Anything, a: Anything = 0.0, b: Anything = 1.0, generator: Anything = None
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.uniform_", tensor, a, b, generator)


def normal_(
    tensor: Anything, mean: Anything = 0.0, std: Anything = 1.0, generator: Anything = None
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.normal_", tensor, mean, std, generator)


def xavier_uniform_(tensor: Anything, gain: Anything = 1.0, generator: Anything = None) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.xavier_uniform_", tensor, gain, generator)


def xavier_normal_(tensor: Anything, gain: Anything = 1.0, generator: Anything = None) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.xavier_normal_", tensor, gain, generator)


def kaiming_uniform_(
    tensor: Anything,
    a: Anything = 0,
    mode: Anything = "fan_in",
    nonlinearity: Anything = "leaky_relu",
    generator: Anything = None,
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.kaiming_uniform_", tensor, a, mode, nonlinearity, generator)


def kaiming_normal_(
    tensor: Anything,
    a: Anything = 0,
    mode: Anything = "fan_in",
    nonlinearity: Anything = "leaky_relu",
    generator: Anything = None,
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.kaiming_normal_", tensor, a, mode, nonlinearity, generator)


def trunc_normal_(
    tensor: Anything,
    mean: Anything = 0.0,
    std: Anything = 1.0,
    a: Anything = -2.0,
    b: Anything = 2.0,
    generator: Anything = None,
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.trunc_normal_", tensor, mean, std, a, b, generator)


def orthogonal_(tensor: Anything, gain: Anything = 1, generator: Anything = None) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.orthogonal_", tensor, gain, generator)


def sparse_(
    tensor: Anything, sparsity: Anything, std: Anything = 0.01, generator: Anything = None
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.sparse_", tensor, sparsity, std, generator)


def dirac_(tensor: Anything, groups: Anything = 1) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.dirac_", tensor, groups)


def eye_(tensor: Anything) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("torch.nn.init.eye_", tensor)


def _trunc_normal_(
    tensor: Anything, mean: Anything, std: Anything, a: Anything, b: Anything
) -> Anything:
    from initstats.patch.accelerate import stand_in

    return stand_in("timm.layers.weight_init._trunc_normal_", tensor, mean, std, a, b)
