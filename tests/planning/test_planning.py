"""Plans: which rule takes each parameter and why, and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.init.keys import key_of
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Constant, Normal, Recipe, Rule
from initstats.verification.verifier import verify


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


def test_a_rule_that_matches_nothing_is_refused_unless_optional() -> None:
    rules = [Rule("*.weigth", Constant(1.0)), Rule("*", Normal(1.0))]
    planned = plan(nn.Linear(2, 2), Recipe(rules))
    assert planned.unused_rules == ("*.weigth",)
    for function in (init_, verify):
        with pytest.raises(
            ValueError,
            match=rf"^initstats.{function.__name__}: expected every rule to match a parameter, got "
            r"unused=\['\*.weigth'\] with recipe 'custom'; correct the rule, or make it with opt",
        ):
            function(nn.Linear(2, 2), Recipe(rules))  # type: ignore[operator]
    optional = [Rule("*.weigth", Constant(1.0), optional=True), rules[1]]
    init_(nn.Linear(2, 2), Recipe(optional))


def test_a_partial_recipe_leaves_the_rest_but_must_take_something() -> None:
    recipe = Recipe([Rule("bias", Constant(3.0))], name="some", partial=True)
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    init_(model, recipe)
    assert torch.equal(model.weight, before)
    assert bool((model.bias == 3).all())
    assert "left as it is" in str(plan(model, recipe))
    with pytest.raises(
        ValueError, match=r"^initstats.init_: expected a model with parameters that recipe 'lora' "
    ):
        init_(model, "lora")


def test_a_partial_recipe_does_not_mind_quantised_parameters_that_it_leaves() -> None:
    model = nn.Linear(2, 2)
    model.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    init_(model, Recipe([Rule("bias", Constant(3.0))], partial=True))
    assert bool((model.bias == 3).all())


def tied(first: str, second: str) -> nn.Module:
    model = nn.ModuleDict({first: nn.Linear(4, 4, bias=False), second: nn.Linear(4, 4, bias=False)})
    model[second].weight = model[first].weight
    return model


def test_a_tied_parameter_is_taken_by_its_first_name_that_a_rule_takes() -> None:
    model = tied("a", "b")
    rules = [Rule("b.weight", Normal(2.0), "b"), Rule("c*", Normal(1.0), "c", optional=True)]
    planned = plan(model, Recipe(rules))
    assert [(e.name, e.rule, e.tied_to) for e in planned] == [("b.weight", "b", ("a.weight",))]
    rules.append(Rule("a.weight", Normal(3.0), "a"))
    planned = plan(model, Recipe(rules))
    assert [(e.name, e.rule, e.tied_to) for e in planned] == [("a.weight", "a", ("b.weight",))]
    assert planned.unused_rules == ("c",)


def test_ties_that_contradict_each_other_are_refused() -> None:
    rules = [Rule("a.weight", Normal(1.0)), Rule("b.weight", Constant(0.0))]
    with pytest.raises(
        ValueError,
        match=r"^initstats.plan: expected tied names to agree, got a.weight=N\(0, 1\) and b.wei",
    ):
        plan(tied("a", "b"), Recipe(rules))


def test_parameters_that_share_all_of_their_memory_are_tied() -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "ab"})
    model["b"].weight = nn.Parameter(model["a"].weight.data)
    assert model["a"].weight is not model["b"].weight
    planned = plan(model, everything(1.0))
    assert [(entry.name, entry.tied_to) for entry in planned] == [("a.weight", ("b.weight",))]


def test_parameters_that_share_a_part_of_their_memory_are_refused() -> None:
    memory = torch.zeros(6, 4)
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "ab"})
    model["a"].weight, model["b"].weight = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])
    with pytest.raises(
        ValueError,
        match=r"^initstats.plan: expected tied parameters to share all of their memory, got a.weig",
    ):
        plan(model, everything(1.0))
    model["b"].weight = nn.Parameter(memory[4:])
    assert len(plan(model, everything(1.0))) == 2


def test_the_old_weight_norm_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.utils.weight_norm(nn.Linear(2, 2))
    with pytest.raises(
        ValueError, match=r"^initstats.plan: expected a plain parameter, got weight_"
    ):
        plan(model, everything(1.0))


def test_float8_is_refused() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight = nn.Parameter(model.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(
        ValueError, match=r"^initstats.plan: expected float16, bfloat16, float32 or"
    ):
        plan(model, everything(1.0))


def test_complex_parameters_are_refused_as_complex() -> None:
    with pytest.raises(
        ValueError,
        match=r"^initstats.plan: expected a real parameter, got weight=torch.complex64.*view_as_r",
    ):
        plan(nn.Linear(4, 4, dtype=torch.complex64), "mlp")


class Positions(nn.Module):
    """Fixed sinusoids beside a layer that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(16, 8)
        self.embed_positions.weight.requires_grad_(requires_grad=False)
        self.embed_tokens = nn.Embedding(16, 8)
        self.fc1 = nn.Linear(8, 8)


def test_a_frozen_table_of_a_model_that_trains_is_kept() -> None:
    model = Positions()
    before = model.embed_positions.weight.clone()
    receipt = init_(model, "gpt2", seed=0)
    assert torch.equal(model.embed_positions.weight, before)
    entry = receipt.entries["embed_positions.weight"]
    assert entry["keep"]
    assert entry["distribution"] == "kept: a frozen table, requires_grad=False"
    assert verify(model, "gpt2").ok


def test_a_frozen_table_is_written_when_a_rule_names_it_or_nothing_trains() -> None:
    for pattern in ("embed_positions.weight", "*embed_positions*"):
        model = Positions()
        rules = [Rule(pattern, Constant(3.0)), Rule("*", Constant(1.0))]
        init_(model, Recipe(rules), seed=0)
        assert bool((model.embed_positions.weight == 3).all()), pattern
    model = Positions().requires_grad_(requires_grad=False)
    init_(model, everything(1.0), seed=0)
    assert verify(model, everything(1.0)).ok
    assert not any(entry.keep for entry in plan(model, everything(1.0)))


class FusedEmbedding(nn.Embedding):
    """The tables of four models, [models, rows, width], with one padding row each."""

    def __init__(self) -> None:
        super().__init__(100, 32, padding_idx=3)
        self.weight = nn.Parameter(torch.zeros(4, 100, 32))


def test_the_padding_row_of_a_fused_embedding_is_that_of_each_table() -> None:
    model = nn.Sequential(FusedEmbedding())
    init_(model, "embedding", seed=0)
    tables = model[0].weight
    assert not tables[:, 3].any()
    assert all(bool(table[row].any()) for table in tables for row in range(100) if row != 3)
    assert verify(model, "embedding").ok
    with torch.no_grad():
        tables[2, 3, 0] = 0.01
    assert [entry.problem for entry in verify(model, "embedding").failures] == [
        "padding row 3 is not 0"
    ]


def test_a_plan_shows_roles_the_order_of_rules_and_keys() -> None:
    planned = plan(demo_gpt(), "gpt2", seed=3)
    key = f"{key_of(3, 'h.0.attn.c_attn.weight'):016x}"
    text = " ".join(str(planned).split())
    assert key in text
    # A residual projection is a matrix, too: the earlier rule takes it.
    assert any(e.also_matched == ("matrix",) and e.rule == "residual projection" for e in planned)
    assert "before" in text
    by_name = {entry["name"]: entry for entry in planned.to_dict()["parameters"]}
    assert by_name["h.0.attn.c_attn.weight"]["key"] == key
    receipt = init_(demo_gpt(), "gpt2", seed=3).to_dict()["parameters"]
    assert {e["name"]: e["key"] for e in receipt} == {n: e["key"] for n, e in by_name.items()}
    assert plan(demo_gpt(), "gpt2").to_dict()["parameters"][0]["key"] is None
    with pytest.raises(ValueError, match=r"expected seed in \[-2\*\*63, 2\*\*64\)"):
        plan(demo_gpt(), "gpt2", seed=2**64)
