"""Recipe of graph networks."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Constant, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept
from initstats.recipes.library.building import (
    built_in,
    described,
    norms,
    rule,
)
from initstats.recipes.library.for_mlp import torch_default
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["gnn"]

_MATRIX_DIMS = 2
_LINEARS = ("Linear", "HeteroLinear")


@built_in
def gnn() -> Recipe:
    """Make the recipe of graph networks in PyTorch Geometric (GCN, GAT, GIN, RGCN, ...).

    Parameters that a layer of message passing holds itself (weights, vectors of attention, roots,
    bases): Glorot uniform on the last two dimensions, U(+-sqrt(6 / (rows + columns))); its biases
    0; eps of GIN 0; weights of GatedGraphConv U(+-1 / sqrt(channels)). Linear layers what they
    state: `weight_initializer="glorot"` (inside GCN, GAT) Glorot, else U(+-1 / sqrt(fan_in));
    `bias_initializer="zeros"` 0, else U(+-1 / sqrt(fan_in)). RGAT: scales 1, shifts 0, and l2
    1 / channels, which its own code computes and never writes. Priors and skips of HGT 1.
    Everything else torch's default; norms 1 and 0.

    Returns:
        The recipe.

    Source: torch_geometric 2.8.1 `nn/inits.py`, `nn/dense/linear.py`, `nn/conv/*.py`.
    """
    passing = "MessagePassing"
    rules = [
        *norms(),
        rule(Match(("*.weight", "weight"), module="GatedGraphConv"), _by_channels, "gated weight"),
        rule(Match(("*skip.*", "*p_rel.*"), module="ParameterDict"), 1.0, "skip or prior"),
        rule(Match(module=passing), _of_layer, "of the layer itself"),
        rule(Match("*out_proj.bias", "NonDynamicallyQuantizableLinear"), 0.0, "bias of attention"),
        rule(Match(module=_LINEARS, kind="weight"), _linear_weight, "linear layer"),
        rule(Match(module=_LINEARS, kind="bias"), _linear_bias, "bias"),
        *torch_default().rules,
        rule(Match(role=("other", "gate")), _of_layer, "of the layer itself"),
    ]
    return Recipe(rules, name="gnn", source="torch_geometric 2.8.1 nn/inits.py")


def _glorot(slot: Slot) -> Uniform:
    bound = math.sqrt(6 / sum(slot.parameter.shape[-2:]))
    return Uniform(-bound, bound)


@described("Glorot uniform on the last two dimensions; biases and eps 0")
def _of_layer(slot: Slot) -> Distribution:
    name, is_relational = slot.own_name, type(slot.module).__name__ == "RGATConv"
    if "bias" in name or name == "eps" or (is_relational and name in {"b1", "b2"}):
        return Constant(0.0)
    if is_relational and name in {"w", "l1"}:
        return Constant(1.0)
    if is_relational and name == "l2":
        return Constant(1 / slot.parameter.shape[-1])
    if slot.parameter.dim() < _MATRIX_DIMS:
        return Kept("as the layer makes it")
    return _glorot(slot)


@described("U(+-1 / sqrt(channels))")
def _by_channels(slot: Slot) -> Distribution:
    bound = slot.parameter.shape[-1] ** -0.5
    return Uniform(-bound, bound)


def _inputs(slot: Slot) -> int:
    """Return the inputs of a linear layer, which those of PyTorch Geometric state."""
    stated = getattr(slot.module, "in_channels", None)
    return stated if isinstance(stated, int) else slot.module.get_parameter("weight").shape[-1]


@described("Glorot uniform where the layer states it, else U(+-1 / sqrt(fan_in))")
def _linear_weight(slot: Slot) -> Distribution:
    if getattr(slot.module, "weight_initializer", None) == "glorot":
        return _glorot(slot)
    bound = _inputs(slot) ** -0.5
    return Uniform(-bound, bound)


@described("0 where the layer states it, else U(+-1 / sqrt(fan_in))")
def _linear_bias(slot: Slot) -> Distribution:
    if getattr(slot.module, "bias_initializer", None) == "zeros":
        return Constant(0.0)
    bound = _inputs(slot) ** -0.5
    return Uniform(-bound, bound)
