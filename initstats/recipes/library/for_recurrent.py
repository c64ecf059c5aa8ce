"""Recipes of recurrent networks: Keras's LSTM and GRU, and chrono biases."""

from __future__ import annotations

import math

from torch import nn

from initstats.recipes.distributions.basic import Constant, Uniform
from initstats.recipes.distributions.composite import Distribution, Part, Simple, Stacked
from initstats.recipes.distributions.loguniform import LogUniform
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    norms,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["lstm", "lstm_chrono"]

_LSTM_GATES = ("input", "forget", "cell", "output")  # torch's order
_GRU_GATES = ("reset", "update", "new")
_LSTM = (nn.LSTM, nn.LSTMCell)


@built_in
def lstm(*, forget_bias: float = 1.0, per_gate: bool = False) -> Recipe:
    """Make the recipe of Keras's recurrent layers: LSTM, GRU and simple ones.

    Kernel Glorot uniform on the joint (in, 4 H); recurrent kernel orthogonal on the joint (H, 4 H);
    the forget gate's bias 1 in one of torch's two bias vectors (they are added), all other biases
    0. Embeddings U(+-0.05); Linear Glorot uniform; norms 1 and 0.

    Args:
        forget_bias: Bias of the forget gate, finite; 0 for none.
        per_gate: Make the recurrent kernel of each gate orthogonal on its own.

    Returns:
        The recipe.

    Raises:
        ValueError: If `forget_bias` is not finite.

    Source: keras `layers/rnn/lstm.py` (`unit_forget_bias`); Jozefowicz et al. 2015.
    """
    gate = Constant(forget_bias)

    @described(f"0, the forget gate of an LSTM {forget_bias:g}")
    def bias(slot: Slot) -> Distribution:
        if not isinstance(slot.module, _LSTM) or forget_bias == 0:
            return Constant(0.0)
        return _gates(slot, {"forget": gate})

    rules = [*_recurrent_weights(per_gate=per_gate), _input_bias(bias), *_the_rest()]
    return Recipe(rules, name="lstm", source="keras layers/rnn/lstm.py")


@built_in
def lstm_chrono(*, longest: int = 784, per_gate: bool = False) -> Recipe:
    """Make the recipe of an LSTM with chrono biases: memories over the whole sequence.

    Weights as `lstm`; forget bias b_f = ln U(1, T - 1), input bias b_i = -b_f, the other biases 0;
    all in one of torch's two bias vectors.

    Args:
        longest: Longest dependency T in steps, >= 3; 784 is the length of the paper's pixel tasks.
        per_gate: As in `lstm`.

    Returns:
        The recipe.

    Raises:
        ValueError: If `longest` < 3.

    Source: Tallec and Ollivier 2018, arXiv 1804.11188, section 2.
    """
    if longest < 3:  # noqa: PLR2004  # U(1, T - 1) is empty below
        raise ValueError(f"initstats.lstm_chrono: expected longest >= 3, got longest={longest}")
    forget = LogUniform(1.0, longest - 1.0)
    inputs = LogUniform(1.0, longest - 1.0, sign=-1)

    @described(f"forget ln U(1, {longest - 1}), input its negative, else 0")
    def bias(slot: Slot) -> Distribution:
        if not isinstance(slot.module, _LSTM):
            return Constant(0.0)
        return _gates(slot, {"forget": forget, "input": inputs}, key="chrono")

    rules = [*_recurrent_weights(per_gate=per_gate), _input_bias(bias), *_the_rest()]
    return Recipe(rules, name="lstm_chrono", source="Tallec and Ollivier 2018, arXiv 1804.11188")


def _recurrent_weights(*, per_gate: bool) -> list[Rule]:
    @described("orthogonal, each gate on its own" if per_gate else "orthogonal on all gates")
    def recurrent(slot: Slot) -> Distribution:
        rows, columns = slot.parameter.shape
        if not per_gate:
            return Orthogonal(rows, columns)
        size = rows // slot.packed
        part = Orthogonal(size, columns)
        return Stacked([Part(part, size, f"gate {i}") for i in range(slot.packed)])

    @described("Glorot uniform on all gates together")
    def kernel(slot: Slot) -> Distribution:
        bound = math.sqrt(6 / sum(slot.parameter.shape))
        return Uniform(-bound, bound)

    return [
        rule(Match("*weight_hh*", role="recurrent"), recurrent, "recurrent kernel"),
        rule(Match(("*weight_ih*", "*weight_hr*"), role="recurrent"), kernel, "kernel"),
        rule(Match("*bias_hh*", role="recurrent"), 0.0, "second bias"),
    ]


def _input_bias(bias: object) -> Rule:
    assert callable(bias)
    return rule(Match("*bias_ih*", role="recurrent"), bias, "first bias")


def _the_rest() -> list[Rule]:
    @described("Glorot uniform")
    def linear(slot: Slot) -> Distribution:
        return xavier_uniform(slot)

    return [
        *norms(),
        biases(),
        rule(weights("embedding"), Uniform(-0.05, 0.05), "embedding"),
        rule(weights(*MATRICES), linear, "matrix"),
    ]


def _gates(slot: Slot, fills: dict[str, Simple], key: str = "") -> Stacked:
    """Return the bias of a layer with gates: some gates' own values, the others 0."""
    names = _LSTM_GATES if isinstance(slot.module, _LSTM) else _GRU_GATES
    size = slot.parameter.shape[0] // len(names)
    return Stacked([Part(fills.get(name, Constant(0.0)), size, name, key) for name in names])
