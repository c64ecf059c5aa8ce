"""Recipe of xLSTM, as its authors and as transformers have it."""

from __future__ import annotations

import math

import torch

from initstats.recipes.distributions.basic import Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.computed import Computed, formula
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    block_number,
    built_in,
    depth,
    described,
    framework_default,
    norms,
    require_layers,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["xlstm"]

_HEADWISE = ("q_proj", "k_proj", "v_proj")
_GATES = tuple(f"*.xlstm.{letter}gate.weight" for letter in "ifzo")


@formula()
def slstm_bias(
    shape: tuple[int, ...], *, heads: int, power: float, gates_first: bool
) -> torch.Tensor:
    """Return 0 for the gates i, z, o and 5 - 12 (i / (n - 1))^power for f, channel i of n.

    Args:
        shape: Shape of the parameter, 4 gates of `heads` heads of n channels.
        heads: Number of heads.
        power: Exponent.
        gates_first: The order is gates, heads, channels; else heads, gates, channels.
    """
    width = math.prod(shape) // (4 * heads)
    ramp = 5 - 12 * (torch.arange(width).double() / max(1, width - 1)) ** power
    values = torch.zeros(heads, 4, width, dtype=torch.float64)
    values[:, 1] = ramp
    return (values.transpose(0, 1) if gates_first else values).reshape(shape)


@built_in(variants=("transformers", "nx_ai"))
def xlstm(*, variant: str = "transformers", layers: int | None = None) -> Recipe:
    """Make the recipe of xLSTM.

    "transformers" (xLSTM-7B): q, k, v, up projection, embedding and head N(0, sqrt(2 / (5 d))), d
    the width of the residual stream; out_proj and proj_down N(0, 2 / (L sqrt(fan_in))), L the
    number of blocks; weights of every layer whose name contains "gate" 0, that of the output gate
    and of the gated MLP too; bias of the forget gate from 3 to 6 over the heads, of the input gate
    -10; other biases 0; norms 1.

    "nx_ai" (the authors' package, after `reset_parameters()`): the same numbers for matrices, but
    proj_down N(0, 2 / (L sqrt(d))); q, k, v and the gates of sLSTM layers, a matrix per head,
    N(0, sqrt(2 / (5 d))); mLSTM cells: gates 0, bias of the forget gate from 3 to 6, of the input
    gate N(0, 0.1); learnable skip 1; convolutions torch's default. sLSTM cells: recurrent matrices
    0, bias of the forget gate 5 - 12 (i / (n - 1))^(0.3 + 1.3 l / (L - 1)) for channel i of the n
    of a head in block l, other biases 0. Norms 0, as they multiply by 1 + scale.

    Args:
        variant: "transformers" or "nx_ai".
        layers: Number of blocks L, >= 1; found in the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If an option is out of range.

    Source: transformers `models/xlstm/modeling_xlstm.py`, 5.24.0, weight_mode "single" (widths of
        values other than d are not told apart: its out_proj takes d, whatever its fan-in); xlstm
        2.0.6 `blocks/mlstm/layer.py`, `blocks/mlstm/cell.py`, `blocks/slstm/layer.py`,
        `blocks/slstm/cell.py`, `components/init.py`.
    """
    require_layers("xlstm", layers)

    @described("linear over the heads, from 3 to 6")
    def forget(slot: Slot) -> Distribution:
        return Computed("linspace", slot.parameter.shape, {"start": 3.0, "end": 6.0})

    if variant == "nx_ai":
        rules = [
            rule(Match("*.mlstm_cell.fgate.bias"), forget, "bias of the forget gate"),
            rule(Match("*.mlstm_cell.igate.bias"), Normal(0.1), "bias of the input gate"),
            *_authors(layers),
        ]
        return Recipe(rules, name="xlstm", source="xlstm 2.0.6 blocks/*/layer.py, cell.py")

    @described("N(0, 2 / (L sqrt(fan_in))), L the number of blocks")
    def output(slot: Slot) -> Distribution:
        return Normal(2 / (depth("xlstm", slot, layers) * math.sqrt(slot.fans.fan_in)))

    rules = [
        *norms(),
        rule(Match("*fgate_preact.bias"), forget, "bias of the forget gate"),
        rule(Match("*igate_preact.bias"), -10.0, "bias of the input gate"),
        rule(Match(("*gate_preact.weight", "*_gate.weight")), 0.0, "gate"),
        biases(),
        rule(Match(("*.out_proj.weight", "*.proj_down.weight")), output, "output"),
        rule(weights("embedding", "other", *MATRICES), _small, "matrix"),
    ]
    return Recipe(rules, name="xlstm", source="transformers modeling_xlstm.py, 5.24.0")


def _authors(layers: int | None) -> list[Rule]:
    """Return the rules of the authors' package, but for the biases of mLSTM gates."""

    @described("5 - 12 (i / (n - 1))^(0.3 + 1.3 l / (L - 1)) for f, 0 for i, z, o")
    def bias(slot: Slot) -> Distribution:
        blocks = depth("xlstm", slot, layers)
        place = (block_number("xlstm", slot) - 1) / max(1, blocks - 1)
        arguments = {
            "heads": slot.module.get_parameter("_recurrent_kernel_").shape[0],
            "power": 0.3 + 1.3 * place,
            "gates_first": slot.parameter.dim() == 1,  # torch's cell; the CUDA cell has heads first
        }
        return Computed("slstm_bias", slot.parameter.shape, arguments)

    @described("N(0, 2 / (L sqrt(d))), d the width")
    def output(slot: Slot) -> Distribution:
        width = slot.parameter.shape[0]
        return Normal(2 / (depth("xlstm", slot, layers) * math.sqrt(width)))

    @described("N(0, sqrt(2 / (5 d))), d the width")
    def by_layer(slot: Slot) -> Distribution:
        down = getattr(slot.parents[-2], "proj_down", None)  # d, where q and k have 2 d inputs
        heads, _, inputs = slot.parameter.shape
        width = heads * inputs if down is None else down.weight.shape[0]
        return Normal(math.sqrt(2 / (5 * width)))

    headwise = (*_GATES, *(f"*.{name}.weight" for name in _HEADWISE))
    return [
        *norms(),
        rule(Match("*.mlstm_cell.?gate.weight"), 0.0, "gate of an mLSTM"),
        rule(Match("*._recurrent_kernel_"), 0.0, "recurrent matrices"),
        rule(Match("*.slstm_cell._bias_"), bias, "bias of an sLSTM"),
        rule(Match("*.learnable_skip"), 1.0, "skip"),
        rule(Match(role="convolution"), framework_default, "convolution"),
        rule(Match(headwise), by_layer, "matrix per head"),
        rule(Match("*.proj_down.weight"), output, "output"),
        biases(),
        rule(weights("embedding", *MATRICES), _small, "matrix"),
    ]


@described("N(0, sqrt(2 / (5 d))), d the width")
def _small(slot: Slot) -> Distribution:
    return Normal(math.sqrt(2 / (5 * slot.parameter.shape[-1])))
