"""Initialisation of a whole model by a recipe: keys, what is written, what is left, the receipt."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.planning.initialize import init_
from initstats.recipes import Constant, Match, Normal, Recipe, Rule, Uniform
from initstats.verification.verifier import verify


def demo_gpt(layers: int = 3, device: str = "cpu") -> DemoGPT:
    with torch.device(device):
        return DemoGPT(DemoConfig(vocabulary=64, context=16, layers=layers, width=32, heads=2))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def everything(std: float) -> Recipe:
    return Recipe([Rule("*", Normal(std), "everything")], name="everything")


def test_a_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, third = demo_gpt(), demo_gpt(), demo_gpt()
    init_(first, "gpt2", seed=1)
    init_(second, "gpt2", seed=1)
    init_(third, "gpt2", seed=2)
    for name, weight in weights(first).items():
        assert torch.equal(weight, weights(second)[name]), name
    assert not torch.equal(first.wte.weight, third.wte.weight)


def test_adding_a_layer_changes_no_other_layer() -> None:
    small, large = demo_gpt(layers=3), demo_gpt(layers=4)
    recipe = everything(0.02)
    init_(small, recipe, seed=0)
    init_(large, recipe, seed=0)
    after = weights(large)
    assert len(after) > len(weights(small))
    for name, weight in weights(small).items():
        assert torch.equal(weight, after[name]), name


def test_parameters_of_one_shape_get_different_values() -> None:
    model = demo_gpt()
    init_(model, "gpt2", seed=0)
    assert not torch.equal(model.h[0].attn.c_attn.weight, model.h[1].attn.c_attn.weight)


def test_without_a_seed_the_default_generator_decides_and_the_receipt_tells() -> None:
    first, second, third, fourth = (nn.Linear(8, 8) for _ in range(4))
    torch.manual_seed(7)
    receipt = init_(first, everything(1.0))
    torch.manual_seed(7)
    init_(second, everything(1.0))
    init_(fourth, everything(1.0))
    assert not torch.equal(first.weight, fourth.weight)
    init_(third, everything(1.0), seed=receipt.seed)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.weight, third.weight)


def test_every_kind_of_distribution_is_written() -> None:
    rules = [
        Rule("0.weight", Normal(2.0, mean=5.0)),
        Rule("1.weight", Uniform(-3.0, -1.0)),
        Rule("*.bias", Constant(0.5)),
    ]
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    init_(model, Recipe(rules), seed=0)
    normal, uniform = (model[i].weight.detach().numpy() for i in (0, 1))
    # Five standard errors of 4096 values, at a fixed seed.
    assert abs(normal.mean() - 5.0) < 5 * 2.0 / 64
    assert abs(normal.std() - 2.0) < 5 * 2.0 / math.sqrt(2 * 4096)
    assert uniform.min() >= -3.0
    assert uniform.max() < -1.0
    assert abs(uniform.mean() + 2.0) < 5 * (2 / math.sqrt(12)) / 64
    assert torch.equal(model[0].bias, torch.full((64,), 0.5))


def test_unmatched_parameters_are_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU())
    before = weights(model)
    recipe = Recipe([Rule(Match("*", nn.Linear), Normal(1.0))])
    with pytest.raises(
        ValueError, match=r"^initstats.init_: expected a rule for every .*'1.weight'"
    ):
        init_(model, recipe, seed=0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())
    init_(model, recipe, seed=0, allow_unmatched=True)
    assert torch.equal(model[1].weight, before["1.weight"])
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_parameters_that_transformers_loaded_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight._is_hf_initialized = True
    before = weights(model)
    receipt = init_(model, everything(1.0), seed=0)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[1].weight, before["1.weight"])
    assert [entry["keep"] for entry in receipt.to_dict()["parameters"]] == [
        True,
        False,
        False,
        False,
    ]
    assert "0.weight" not in {entry.name for entry in verify(model, everything(1.0)).entries}


def test_gradients_and_requires_grad_survive_initialisation() -> None:
    model = nn.Linear(4, 4)
    model(torch.ones(1, 4)).sum().backward()
    gradient = model.weight.grad
    init_(model, everything(1.0), seed=0)
    assert model.weight.grad is gradient
    assert model.weight.requires_grad
    assert model.weight.is_leaf


def test_meta_parameters_stay_meta() -> None:
    model = demo_gpt(device="meta")
    init_(model, "gpt2", seed=0)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_receipt_is_json_with_a_schema_and_tells_everything_again() -> None:
    model = demo_gpt()
    receipt = json.loads(json.dumps(init_(model, "gpt2", seed=3).to_dict()))
    assert receipt["schema"] == "initstats.receipt/1"
    assert receipt["seed"] == 3
    assert receipt["recipe"] == "gpt2"
    by_name = {entry["name"]: entry for entry in receipt["parameters"]}
    assert by_name["wte.weight"]["tied_to"] == ["lm_head.weight"]
    assert by_name["h.0.mlp.c_proj.weight"]["std"] == 0.02 / math.sqrt(6)


def test_the_seed_must_be_an_integer() -> None:
    for seed in (1.5, True, "0"):
        with pytest.raises(
            TypeError, match=r"^initstats.init_: expected seed to be an integer, got seed="
        ):
            init_(nn.Linear(2, 2), everything(1.0), seed=seed)  # type: ignore[arg-type]


def test_a_seed_outside_64_bits_is_refused_also_where_no_key_is_drawn() -> None:
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(
            ValueError, match=r"^initstats.init_: expected seed in \[-2\*\*63, 2\*\*64\)"
        ):
            init_(nn.Linear(2, 2), Recipe([Rule("*", Constant(0.0))]), seed=seed)


def test_an_interval_without_values_is_refused_before_anything_is_written() -> None:
    model = nn.Linear(4, 4).half()
    before = weights(model)
    # No float16 lies between 1 and its successor 1.001.
    recipe = Recipe([Rule("weight", Normal(1.0)), Rule("bias", Uniform(1.0001, 1.0002))])
    with pytest.raises(ValueError, match=r"holds a .*float16 value"):
        init_(model, recipe, seed=0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())
