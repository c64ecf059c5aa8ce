"""The numbers of the recipes of reinforcement learning, implicit and adversarial networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import policy_models
from initstats import recipes
from initstats.recipes import Constant, Normal, Orthogonal, TruncNormal, Uniform
from promises import ONE, ZERO, check, normal, uniform
from recipe_checks import accepts, initialises, rejects, rejects_wrong_std

ROOT_2 = math.sqrt(2)


def test_ppo_as_cleanrl_has_it() -> None:
    promises = {
        "critic.0.weight": Orthogonal(256, 32, ROOT_2),
        "critic.2.weight": Orthogonal(256, 256, ROOT_2),
        "critic.4.weight": Orthogonal(1, 256, 1.0),
        "actor_mean.0.weight": Orthogonal(256, 32, ROOT_2),
        "actor_mean.2.weight": Orthogonal(256, 256, ROOT_2),
        "actor_mean.4.weight": Orthogonal(6, 256, 0.01),
        "*bias": ZERO,
        "actor_logstd": ZERO,
    }
    model = policy_models.CleanRLAgent()
    check(model, recipes.ppo(), dict(promises))


def test_ppo_as_stable_baselines_has_it() -> None:
    promises = {
        "mlp_extractor.*.0.weight": Orthogonal(64, 32, ROOT_2),
        "action_net.weight": Orthogonal(6, 64, 0.01),
        "value_net.weight": Orthogonal(1, 64, 1.0),
        "*bias": ZERO,
        "log_std": ZERO,
    }
    check(policy_models.StablePolicy(), recipes.ppo(), dict(promises))


def test_ppo_with_an_lstm() -> None:
    promises = {
        "network.0.weight": Orthogonal(8, 16, ROOT_2),
        "network.3.weight": Orthogonal(64, 392, ROOT_2),
        "lstm.weight_ih_l0": Orthogonal(128, 64),
        "lstm.weight_hh_l0": Orthogonal(128, 32),
        "lstm.bias*": ZERO,
        "actor.weight": Orthogonal(4, 32, 0.01),
        "critic.weight": Orthogonal(1, 32, 1.0),
        "*.bias": ZERO,
    }
    check(policy_models.RecurrentAgent(), recipes.ppo(), dict(promises))


def layer_init(layer: nn.Linear, std: float = ROOT_2) -> nn.Linear:
    """As CleanRL's function of this name."""
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


def test_ppo_accepts_what_cleanrl_initialises_and_rejects_a_policy_of_gain_one() -> None:
    torch.manual_seed(0)
    model = policy_models.CleanRLAgent()
    for network, last in ((model.critic, 1.0), (model.actor_mean, 0.01)):
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        for layer in layers:
            layer_init(layer, last if layer is layers[-1] else ROOT_2)
    accepts(model, recipes.ppo())
    rejects(model, recipes.ppo(), "actor_mean.4.weight", 100.0)
    rejects(model, recipes.ppo(), "critic.2.weight", 1 / ROOT_2)
    initialises(policy_models.CleanRLAgent, recipes.ppo())


def test_ddpg() -> None:
    promises = {
        "actor.fc1.*": uniform(17**-0.5),
        "actor.fc2.*": uniform(1 / 16),
        "actor.fc_mu.*": uniform(3e-3),
        "critic.0.*": uniform(23**-0.5),
        "critic.2.*": uniform(1 / 16),
        "critic.4.*": uniform(3e-3),
    }
    check(policy_models.Ddpg(), recipes.ddpg(), dict(promises))
    model = initialises(policy_models.Ddpg, recipes.ddpg())
    rejects_wrong_std(model, recipes.ddpg())
    # 256 and 1,536 values of which one lies outside of the bounds
    rejects(model, recipes.ddpg(), "*.fc_mu.weight", 2.0)


def test_dreamerv3() -> None:
    def corrected(fan: int, factor: float = 1.0) -> TruncNormal:
        return TruncNormal.corrected(factor / math.sqrt(fan))

    promises = {
        "actions.weight": corrected(256),
        "encoder.0.weight": corrected(64),
        "encoder.1.weight": ONE,
        "encoder.1.bias": ZERO,
        "reward.4.weight": ZERO,
        "value.4.weight": ZERO,
        "policy.4.weight": corrected(256, 0.01),
        "*.[02].weight": corrected(256),
        "*.bias": ZERO,
    }
    check(policy_models.Dreamer(), recipes.dreamerv3(), dict(promises))
    # 1.1368 of the reference is one over the std of a normal cut at 2 sigma.
    assert corrected(1).std == pytest.approx(1.0, rel=1e-6)
    assert corrected(1).high / 2 == pytest.approx(1.1368, abs=5e-5)
    model = initialises(policy_models.Dreamer, recipes.dreamerv3())
    rejects_wrong_std(model, recipes.dreamerv3())
    rejects(model, recipes.dreamerv3(), "policy.4.weight", 100.0)


def test_siren() -> None:
    hidden = math.sqrt(6 / 256) / 30
    promises = {
        "0.weight": uniform(1 / 2),
        "2.weight": uniform(hidden),
        "4.weight": uniform(hidden),
        "0.bias": uniform(2**-0.5),
        "[24].bias": uniform(1 / 16),
    }
    check(policy_models.siren(), recipes.siren(), dict(promises))
    model = initialises(policy_models.siren, recipes.siren())
    rejects_wrong_std(model, recipes.siren())
    rejects(model, recipes.siren(), "2.weight", 30.0)  # omega forgotten
    x = torch.rand(1000, 2) * 2 - 1
    inner = model[:2](x) @ model[2].weight.t() * 30
    # What the numbers are for: without biases a standard normal before each sine.
    assert float(inner.detach().std()) == pytest.approx(1.0, abs=0.15)


def test_hash_grid() -> None:
    promises = {
        "levels.*.weight": Uniform(-1e-4, 1e-4),
        "coarse_table": Uniform(-1e-4, 1e-4),
        "net.0.weight": uniform(math.sqrt(6 / 70)),
        "net.2.weight": uniform(math.sqrt(6 / 67)),
        "*.bias": ZERO,
    }
    check(policy_models.HashGrid(), recipes.hash_grid(), dict(promises))
    rejects(initialises(policy_models.HashGrid, recipes.hash_grid()), "hash_grid", "levels.*", 1e4)


def test_dcgan() -> None:
    promises = {
        "[036].weight": normal(0.02),
        "[14].weight": Normal(0.02, 1.0),
        "*.bias": ZERO,
    }
    check(policy_models.dcgan(), recipes.dcgan(), dict(promises))
    model = initialises(policy_models.dcgan, recipes.dcgan())
    rejects_wrong_std(model, recipes.dcgan())
    torch.manual_seed(0)
    for module in model:  # as weights_init of pytorch/examples
        if "Conv" in type(module).__name__:
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif "BatchNorm" in type(module).__name__:
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    accepts(model, recipes.dcgan())
    rejects(model, recipes.dcgan(), "1.weight", lambda w: w.fill_(1.0))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (recipes.ppo, {"policy": 0.0}, "initstats.ppo: expected policy finite and > 0"),
        (recipes.ddpg, {"last": -1.0}, "initstats.ddpg: expected last finite and > 0"),
        (recipes.siren, {"omega": math.inf}, "initstats.siren: expected omega finite and > 0"),
        (recipes.dreamerv3, {"policy": 0.0}, "initstats.dreamerv3: expected policy finite"),
        (recipes.dcgan, {"std": 0.0}, "initstats.dcgan: expected std finite and > 0"),
    ],
)
def test_options_are_checked(make, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_the_last_layers_are_those_of_their_networks() -> None:
    model = nn.ModuleDict({"policy": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Tanh())})
    check(
        model,
        recipes.ppo(),
        {
            "policy.0.weight": Orthogonal(4, 4, ROOT_2),
            "policy.1.weight": Orthogonal(2, 4, 0.01),
            "*.bias": Constant(0.0),
        },
    )
