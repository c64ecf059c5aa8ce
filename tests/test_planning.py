"""Plans: which rule takes each parameter and why, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from initstats.auditing.demo_model import DemoConfig, DemoGPT
from initstats.planning import plan
from initstats.recipes import Constant, Normal, Recipe, Rule


def demo_gpt(layers: int = 3, device: str = "cpu") -> DemoGPT:
    with torch.device(device):
        return DemoGPT(DemoConfig(vocabulary=64, context=16, layers=layers, width=32, heads=2))


def everything(std: float) -> Recipe:
    return Recipe([Rule("*", Normal(std), "everything")], name="everything")


def test_the_first_rule_wins_and_the_plan_names_the_others() -> None:
    rules = [Rule("*.weight", Normal(1.0), "first"), Rule("*", Normal(2.0), "second")]
    entries = {entry.name: entry for entry in plan(nn.Sequential(nn.Linear(2, 2)), Recipe(rules))}
    assert entries["0.weight"].rule == "first"
    assert entries["0.weight"].also_matched == ("second",)
    assert entries["0.weight"].why == "name matches *.weight"
    assert entries["0.bias"].rule == "second"
    assert entries["0.bias"].also_matched == ()


def test_a_plan_lists_unmatched_parameters_and_unused_rules() -> None:
    rules = [Rule("*.weight", Normal(1.0)), Rule("*.gate", Normal(1.0), "gates")]
    planned = plan(nn.Sequential(nn.Linear(2, 2)), Recipe(rules))
    assert planned.unmatched == ("0.bias",)
    assert planned.unused_rules == ("gates",)
    assert "no rule takes it" in str(planned)


def test_a_plan_is_the_same_on_meta() -> None:
    on_meta = plan(demo_gpt(device="meta"), "gpt2").to_dict()
    assert on_meta == plan(demo_gpt(), "gpt2").to_dict()
    json.dumps(on_meta)


def test_a_printed_plan_says_which_rule_takes_what_and_why() -> None:
    text = str(plan(demo_gpt(layers=3), "gpt2"))
    for words in ("3 x h.*.mlp.c_fc.weight", "N(0, 0.008165)", "residual projection", "Embedding"):
        assert words in text


def test_of_tied_names_the_first_that_a_rule_takes_decides() -> None:
    model = demo_gpt()
    recipe = Recipe([Rule("lm_head.weight", Normal(1.0), "head"), Rule("h.*", Constant(0.0))])
    head = next(entry for entry in plan(model, recipe) if entry.rule == "head")
    assert head.name == "lm_head.weight"
    assert head.tied_to == ("wte.weight",)


def test_a_module_under_two_names_is_planned_once() -> None:
    shared = nn.Linear(2, 2, bias=False)
    planned = plan(nn.ModuleDict({"a": shared, "b": shared}), everything(1.0))
    assert [(entry.name, entry.tied_to) for entry in planned] == [("a.weight", ("b.weight",))]


def parametrized() -> nn.Module:
    return nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))


def of_size_zero() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.empty(0)
    return layer


def of_integers() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    return layer


def sparse() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.eye(2).to_sparse())
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (parametrized, "expected a plain parameter, got parametrizations.weight.original="),
        (of_size_zero, "expected at least one element, got weight=an empty one"),
        (of_integers, "expected a floating-point parameter, got weight=torch.int8"),
        (sparse, "expected a dense parameter, got weight=torch.sparse_coo"),
        (lambda: nn.LazyLinear(2), "expected a shape, got weight=lazy; run one batch first"),
        (nn.ReLU, "expected a model with parameters, got model=ReLU with none"),
    ],
)
def test_what_a_fill_would_not_reach_is_refused(
    make: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^initstats.plan: {message}"):
        plan(make(), everything(1.0))


def test_a_plan_needs_a_module_and_a_recipe() -> None:
    with pytest.raises(TypeError, match=r"^initstats.plan: expected model to be a torch.nn.Module"):
        plan(3, "gpt2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^initstats.plan: expected recipe to be a Recipe or its"):
        plan(nn.Linear(2, 2), 0.02)  # type: ignore[arg-type]
