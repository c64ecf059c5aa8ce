"""Recipes of reinforcement learning: policies and values, whose last layers are told apart."""

from __future__ import annotations

import math
import re

from initstats.recipes.distributions.basic import Constant, Uniform
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.orthogonal_matrices import Orthogonal
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    framework_default,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["ddpg", "dreamerv3", "ppo"]

_POLICY = re.compile(r"(?i)actor|policy|action|(^|_)pi(_|$)|fc_mu|mu$|mean")
_VALUE = re.compile(r"(?i)critic|value|(^|_)(v|vf|q|qf\d?|baseline)(_|$)")
_REWARD = re.compile(r"(?i)reward|rew(_|$)")
# Features that policy and value share, with names of their own inside.
_FEATURES = re.compile(r"(?i)extractor|features")
_PARTS = (("reward", _REWARD), ("policy", _POLICY), ("value", _VALUE))


def part_of(slot: Slot) -> str:
    """Tell of which network a layer is the last: "policy", "value", "reward", or "" of none.

    The network is the innermost module around the layer, or the layer, whose name says so.
    """
    names = slot.name.split(".")[: len(slot.parents) - 1]
    if any(_FEATURES.search(name) for name in names):
        return ""
    for name, network in zip(reversed(names), reversed(slot.parents), strict=False):
        for part, pattern in _PARTS:
            if pattern.search(name):
                layers = [m for m in network.modules() if m.__dict__.get("_parameters")]
                return part if layers[-1] is slot.module else ""
    return ""


@built_in
def ppo(*, gain: float = math.sqrt(2), policy: float = 0.01, value: float = 1.0) -> Recipe:
    """Make the recipe of PPO, as its reference implementations have it.

    Matrices and convolutions orthogonal with gain sqrt(2), the last layer of the policy 0.01, of
    the value function 1; LSTM matrices orthogonal with gain 1, each packed matrix as a whole;
    biases and the logarithm of the policy's std 0. The last layers are known by their names: actor,
    policy, action, pi, mean; critic, value, v, q. A single `Linear` with such a name is a last one.

    Args:
        gain: Of hidden layers, > 0.
        policy: Of the policy's last layer, > 0.
        value: Of the value function's last layer, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If a gain is not finite and > 0.

    Source: CleanRL ppo.py:94 layer_init, Stable-Baselines3 common/policies.py:617 (e05d2db).
    """
    require_positive("ppo", gain=gain, policy=policy, value=value)
    gains = {"policy": policy, "value": value}

    @described(f"orthogonal, gain {gain:.4g}; last of policy {policy:g}, of value {value:g}")
    def matrix(slot: Slot) -> Distribution:
        shape = slot.parameter.shape
        return Orthogonal(shape[0], shape[1:].numel(), gains.get(part_of(slot), gain))

    @described("orthogonal, gain 1, as packed")
    def recurrent(slot: Slot) -> Distribution:
        if slot.kind == "bias":
            return Constant(0.0)
        return Orthogonal(*slot.parameter.shape)

    rules = [
        *norms(),
        rule(Match("*log_std"), 0.0, "logarithm of the std"),
        rule(Match("*logstd"), 0.0, "logarithm of the std"),
        rule(Match(role="recurrent"), recurrent, "recurrent"),
        biases(),
        rule(weights(*MATRICES, "convolution", "other"), matrix, "layer"),
    ]
    source = "CleanRL ppo.py, Stable-Baselines3 common/policies.py (e05d2db)"
    return Recipe(rules, name="ppo", source=source)


@built_in
def ddpg(*, last: float = 3e-3) -> Recipe:
    """Make the recipe of DDPG: hidden layers U(+-1 / sqrt(fan_in)), last ones U(+-0.003).

    Weights and biases alike. The last layers of actor and critic are known as in `ppo`.

    Args:
        last: Bound of the last layers, > 0; 3e-4 when the input is pixels.

    Returns:
        The recipe.

    Raises:
        ValueError: If `last` is not finite and > 0.

    Source: Lillicrap et al. 2015, section 7.
    """
    require_positive("ddpg", last=last)

    @described(f"U(+-1 / sqrt(fan_in)); the last layers U(+-{last:g})")
    def layer(slot: Slot) -> Distribution:
        return Uniform(-last, last) if part_of(slot) else framework_default(slot)

    rules = [
        *norms(),
        rule(Match(role=(*MATRICES, "convolution", "other")), layer, "layer"),
    ]
    return Recipe(rules, name="ddpg", source="Lillicrap et al. 2015, section 7")


@built_in
def dreamerv3(*, policy: float = 0.01) -> Recipe:
    """Make the recipe of DreamerV3: truncated normals by fan_in, heads of reward and value 0.

    Matrices and convolutions N(0, 1 / sqrt(fan_in)) truncated at 2 sigma, with that std after the
    cut; embeddings by fan_out; the last layer of the policy times 0.01, those of reward and value
    0; biases 0; norms 1 and 0.

    Args:
        policy: Factor on the policy's last layer, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `policy` is not finite and > 0.

    Source: dreamerv3 embodied/jax/nets.py:146 and configs.yaml:91 (e3f0224).
    """
    require_positive("dreamerv3", policy=policy)

    @described(f"N(0, 1 / sqrt(fan_in)) cut at 2 sigma; policy * {policy:g}; reward, value 0")
    def layer(slot: Slot) -> Distribution:
        part = part_of(slot)
        if part in {"reward", "value"}:
            return Constant(0.0)
        factor = policy if part == "policy" else 1.0
        return TruncNormal.corrected(factor * slot.fans.fan_in**-0.5)

    @described("N(0, 1 / sqrt(width)) cut at 2 sigma")
    def embedding(slot: Slot) -> Distribution:
        return TruncNormal.corrected(slot.parameter.shape[-1] ** -0.5)

    rules = [
        *norms(),
        biases(),
        rule(weights("embedding"), embedding, "embedding"),
        rule(weights(*MATRICES, "convolution", "other"), layer, "layer"),
    ]
    return Recipe(rules, name="dreamerv3", source="dreamerv3 embodied/jax/nets.py (e3f0224)")
