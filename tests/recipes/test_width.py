"""Width against a base, which dimensions grow, and the groups of an optimizer."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from initstats import recipes
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Base, Growth, Match, Multipliers, Normal, Recipe, Rule
from initstats.recipes.parameters import Slot, slots
from initstats.verification.verifier import verify
from width_models import Gpt, mup_gpt, perceptron, text


def growths(model: nn.Module, base: Any) -> dict[str, Growth]:
    found = Base.of("test", base)
    return {group[0].name: group[0].growth for group in slots(model, base=found)}


@pytest.mark.parametrize("base", [32, "model", "meta", "shapes"])
def test_a_base_is_a_width_a_model_or_shapes(base: Any) -> None:
    if base == "model":
        base = Gpt(32)
    elif base == "meta":
        with torch.device("meta"):
            base = Gpt(32)
    elif base == "shapes":
        base = {name: tuple(p.shape) for name, p in Gpt(32).named_parameters()}
    found = growths(Gpt(128), base)
    assert found["wte.weight"] == Growth("input", 1, 4)
    assert found["h.0.attn.q_proj.weight"] == Growth("hidden", 4, 4)
    assert found["h.0.mlp.c_proj.weight"] == Growth("hidden", 4, 4)
    assert found["h.0.mlp.c_fc.bias"] == Growth("vector", 1, 4)
    assert found["lm_head.weight"] == Growth("output", 4, 1)


def test_sides_that_grow_differently_are_told_apart_by_shapes() -> None:
    with_wide_mlp = {name: tuple(p.shape) for name, p in Gpt(32).named_parameters()}
    with_wide_mlp["h.0.mlp.c_fc.weight"] = (64, 32)  # the model's hidden layer grows eightfold
    assert growths(Gpt(128), with_wide_mlp)["h.0.mlp.c_fc.weight"] == Growth("hidden", 4, 8)


def test_a_perceptron_by_shapes() -> None:
    found = growths(perceptron(128), perceptron(32))
    assert found["4.bias"].width_mult == 1
    kinds = {name: growth.kind for name, growth in found.items() if name != "4.bias"}
    assert kinds == {
        "0.weight": "input",
        "0.bias": "vector",
        "2.weight": "hidden",
        "2.bias": "vector",
        "4.weight": "output",
    }


def test_transposed_layers_and_banks_of_experts_have_their_own_layout() -> None:
    from transformers.pytorch_utils import Conv1D

    found = growths(
        nn.ModuleDict({"c_fc": Conv1D(64, 32)}), {"c_fc.weight": (8, 32), "c_fc.bias": (32,)}
    )
    assert found["c_fc.weight"] == Growth("hidden", 4, 2)

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.is_transposed = True
            self.up_proj = nn.Parameter(torch.zeros(3, 32, 128))  # [experts, in, out]

    assert growths(Experts(), {"up_proj": (3, 8, 64)})["up_proj"] == Growth("hidden", 4, 2)


class ExpertBank(nn.Module):
    """Experts as transformers' GPT-OSS has them: [experts, in, out], one bias per expert."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden_size = width
        self.gate_up_proj = nn.Parameter(torch.empty(2, width, 4 * width))
        self.gate_up_proj_bias = nn.Parameter(torch.empty(2, 4 * width))
        self.down_proj = nn.Parameter(torch.empty(2, 2 * width, width))
        self.down_proj_bias = nn.Parameter(torch.empty(2, width))


@pytest.mark.parametrize("base", [32, ExpertBank(32)], ids=["width", "model"])
def test_biases_of_experts_are_vectors_that_grow(base: Any) -> None:
    model = nn.Sequential()
    model.add_module("experts", ExpertBank(128))
    if isinstance(base, nn.Module):
        base = {f"experts.{name}": tuple(p.shape) for name, p in base.named_parameters()}
    assert growths(model, base) == {
        "experts.gate_up_proj": Growth("hidden", 4, 4),
        "experts.gate_up_proj_bias": Growth("vector", 1, 4),
        "experts.down_proj": Growth("hidden", 4, 4),
        "experts.down_proj_bias": Growth("vector", 1, 4),
    }
    roles = {group[0].own_name: group[0].role.name for group in slots(model)}
    assert roles["gate_up_proj_bias"] == "mlp input"
    assert roles["down_proj_bias"] == "mlp output"
    groups = recipes.mup(base=base, form="nanogpt", layers=1).param_groups(
        model, lr=1.0, weight_decay=0.1
    )
    of_vectors = next(g for g in groups if "experts.down_proj_bias" in g["param_names"])
    assert (of_vectors["lr"], of_vectors["weight_decay"]) == (1.0, 0.0)


class Patches(nn.Module):
    """Convolutions from an image to the width, within it, and two that the width does not tell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed_dim = width
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.within = nn.Conv2d(width, width, 3)
        self.narrow = nn.Conv2d(width // 2, width, 3)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)


def test_a_number_tells_how_the_first_convolution_grows() -> None:
    model = Patches(128)
    base = Base(width=32)
    found = {group[0].name: group[0] for group in slots(model, base=base)}
    assert found["patches.weight"].growth == Growth("input", 1, 4)
    assert found["patches.bias"].growth == Growth("vector", 1, 4)
    assert found["within.weight"].growth == Growth("hidden", 4, 4)
    by_shape = growths(model, Patches(32))
    assert by_shape["patches.weight"] == found["patches.weight"].growth
    assert by_shape["within.weight"] == found["within.weight"].growth
    for name in ("narrow.weight", "depthwise.weight"):
        with pytest.raises(ValueError, match="expected base to be a model, or shapes by name"):
            _ = found[name].growth


@pytest.mark.parametrize(
    ("model", "config", "options"),
    [
        (
            "GptOssForCausalLM",
            "GptOssConfig",
            {"vocab_size": 64, "num_local_experts": 2, "num_key_value_heads": 2},
        ),
        ("ViTForImageClassification", "ViTConfig", {"image_size": 16, "patch_size": 4}),
    ],
)
def test_a_number_is_base_enough_for_experts_and_images(
    model: str, config: str, options: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    built = getattr(transformers, model)(getattr(transformers, config)(**sizes, **options))
    recipe = recipes.mup(base=32)
    unknown = {entry.name for entry in plan(built, replace(recipe, partial=True)) if entry.keep}
    assert unknown <= {"model.layers.0.self_attn.sinks"}  # numbers of their own
    groups = recipe.param_groups(built, lr=1.0, allow_unmatched=True)
    assert {group["lr"] for group in groups} == {1.0, 0.5}


def test_a_model_that_is_its_own_base_has_multipliers_of_one() -> None:
    for base in (None, perceptron(64), 64):
        model = perceptron(64) if base != 64 else Gpt(64)
        for group in slots(model, base=Base.of("test", base)):
            assert group[0].width_mult == 1


def test_slot_says_how_much_wider_the_model_is() -> None:
    def fill(slot: Slot) -> Normal:
        return Normal(0.02 * slot.width_mult**-0.5)

    recipe = Recipe([Rule("*", fill)], base=Base(width=16))
    assert {entry.distribution.std for entry in plan(Gpt(64), recipe)} == {0.01}
    recipe = Recipe([Rule("*.c_fc.weight", fill)], base=Base(width_mult=25.0), partial=True)
    assert plan(Gpt(64), recipe).entries[0].distribution == Normal(0.004)


def test_a_base_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="base with the parameters of the model, got no 'wte"):
        growths(Gpt(64), perceptron(32))
    shapes = {name: (*p.shape, 1) for name, p in Gpt(32).named_parameters()}
    with pytest.raises(ValueError, match=r"base with as many dimensions, got 'wte\.weight'"):
        growths(Gpt(64), shapes)
    with pytest.raises(ValueError, match="expected a model that states its width"):
        growths(nn.ModuleDict({"c_fc": nn.Linear(8, 32)}), 4)


def test_a_base_may_have_fewer_blocks() -> None:
    assert growths(Gpt(64, layers=4), Gpt(32))["h.3.mlp.c_fc.weight"] == Growth("hidden", 2, 2)
    assert Base.of_model(Gpt(32, layers=3)).blocks == 3
    recipe = recipes.completep(base=Gpt(32))
    forward = plan(Gpt(32, layers=6), recipe).forward
    assert [one.value for one in forward if one.where == "residual branches"] == [1 / 3]


def test_recipes_with_a_base_pickle_without_the_model() -> None:
    recipe = recipes.mup(base=Gpt(32))
    data = pickle.dumps(recipe)
    assert len(data) < 10_000
    again = pickle.loads(data)
    assert again.base == recipe.base
    assert str(plan(Gpt(64), again)) == str(plan(Gpt(64), recipe))
    rule = pickle.loads(pickle.dumps(recipe.rules[-1]))
    assert rule.label == recipe.rules[-1].label
    with_numbers = Rule("*", Normal(1.0), multipliers=Multipliers(lr=2.0))
    assert pickle.loads(pickle.dumps(with_numbers)) == with_numbers


def test_a_recipe_with_a_base_is_called_by_name() -> None:
    assert recipes.by_name("mup(base=32)").base == Base(width=32)
    model = Gpt(64)
    init_(model, "mup(base=32)", seed=0)
    assert verify(model, "mup(base=32)").ok
    assert not verify(model, "mup(base=16)").ok


def test_a_scaled_recipe_keeps_base_and_multipliers() -> None:
    scaled = recipes.mup(base=32).scaled(2.0)
    model = Gpt(128)
    entry = next(e for e in plan(model, scaled) if e.name == "h.0.mlp.c_fc.weight")
    assert entry.distribution.std == pytest.approx(0.02)
    assert entry.multipliers == Multipliers(lr=1 / 4, weight_decay=4)
    assert plan(model, scaled).forward


# ---- groups of an optimizer


def numbers(groups: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (group,) = (g for g in groups if name in g["param_names"])
    return {key: v for key, v in group.items() if not key.startswith("param")}


def test_groups_have_the_multiplied_numbers() -> None:
    model = Gpt(128)
    groups = recipes.mup(base=32).param_groups(model, lr=0.01, weight_decay=0.1)
    assert len(groups) == 2
    assert numbers(groups, "h.1.mlp.c_fc.weight") == {"lr": 0.0025, "weight_decay": 0.4}
    assert numbers(groups, "wte.weight") == {"lr": 0.01, "weight_decay": 0.1}
    megatron = recipes.mup(base=32, form="megatron").param_groups(model, lr=1.0, eps=1e-6)
    assert numbers(megatron, "h.1.mlp.c_fc.weight")["eps"] == 2.5e-7
    plain = recipes.mup(base=32, form="megatron").param_groups(model, lr=1.0)
    assert numbers(plain, "wte.weight")["eps"] == 1e-8


def test_tied_parameters_are_in_one_group_and_frozen_ones_in_none() -> None:
    model = Gpt(64, tied=True)
    model.wpe.requires_grad_(False)
    groups = recipes.mup(base=32).param_groups(model, lr=0.01)
    held = [p for group in groups for p in group["params"]]
    assert len({id(p) for p in held}) == len(held)
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    names = [name for group in groups for name in group["param_names"]]
    assert "wte.weight" in names
    assert "lm_head.weight" not in names


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon"])
def test_torchs_optimizers_take_the_groups(optimizer: str) -> None:
    model = mup_gpt(32)(64)
    muon = {"other_lr": 0.001} if optimizer == "muon" else {}
    recipe = recipes.mup(base=32)
    groups = recipe.param_groups(model, lr=0.01, weight_decay=0.1, optimizer=optimizer, **muon)
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    if optimizer == "muon":
        made = [
            torch.optim.Muon([g for g in groups if g["use_muon"]]),
            torch.optim.AdamW([g for g in groups if not g["use_muon"]]),
        ]
        names = {name for group in groups if group["use_muon"] for name in group["param_names"]}
        assert all(name.startswith("h.") and name.endswith("weight") for name in names)
        assert numbers(groups, "wte.weight")["lr"] == 0.001
    else:
        made = [kinds[optimizer](groups)]
    ids, targets = text()
    nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
    before = model.lm_head.weight.detach().clone()
    for one in made:
        one.step()
        one.load_state_dict(one.state_dict())
    assert not torch.equal(before, model.lm_head.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "expected lr finite and > 0, got lr=0.0"),
        ({"lr": 1.0, "weight_decay": -1.0}, "weight_decay finite and >= 0, got weight_decay=-1.0"),
        ({"lr": 1.0, "optimizer": "adamm"}, "got optimizer='adamm'; the nearest is 'adam'"),
        ({"lr": 1.0, "optimizer": "muon"}, "expected other_lr with optimizer='muon'"),
        ({"lr": 1.0, "other_lr": 1.0}, "expected other_lr with optimizer='muon' and without"),
        ({"lr": 1.0, "optimizer": "sgd", "eps": 1e-8}, "expected no eps with optimizer='sgd'"),
    ],
)
def test_numbers_of_groups_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.mup(base=32).param_groups(Gpt(64), **options)


@pytest.mark.parametrize("name", ["lr", "weight_decay", "eps", "other_lr"])
@pytest.mark.parametrize("value", ["x", True, [1.0]])
def test_what_is_no_number_is_refused(name: str, value: object) -> None:
    message = rf"^initstats\.Recipe\.param_groups: expected {name} to be a number, got {name}="
    with pytest.raises(TypeError, match=message):
        recipes.mup(base=32).param_groups(Gpt(64), **{"lr": 1.0, name: value})  # type: ignore[arg-type]


def test_what_cannot_be_grouped_is_refused() -> None:
    recipe = recipes.mup(base=32)
    with pytest.raises(
        TypeError, match=r"expected model to be a torch\.nn\.Module, got model=list"
    ):
        recipe.param_groups([], lr=1.0)  # type: ignore[arg-type]
    frozen = Gpt(64).requires_grad_(False)
    with pytest.raises(ValueError, match="trainable parameters, got none"):
        recipe.param_groups(frozen, lr=1.0)
    model = Gpt(64)
    model.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"a rule for every parameter, got unmatched=\['extra'\]"):
        recipe.param_groups(model, lr=1.0)
    groups = recipe.param_groups(model, lr=1.0, allow_unmatched=True)
    assert numbers(groups, "extra") == {"lr": 1.0, "weight_decay": 0.0}


def test_a_rule_of_a_user_has_multipliers() -> None:
    rules = [
        Rule("lm_head.weight", Normal(0.1), multipliers=Multipliers(lr=0.5, weight_decay=0)),
        Rule(Match("*"), Normal(0.1), multipliers=lambda slot, _: Multipliers(lr=slot.width / 64)),
    ]
    groups = Recipe(rules).param_groups(Gpt(64), lr=1.0, weight_decay=1.0)
    assert numbers(groups, "lm_head.weight") == {"lr": 0.5, "weight_decay": 0.0}
    assert numbers(groups, "wte.weight") == {"lr": 1.0, "weight_decay": 1.0}
    bad = Recipe([Rule("*", Normal(1.0), multipliers=lambda *_: 2.0)])  # type: ignore[arg-type, return-value]
    with pytest.raises(
        TypeError, match=r"expected rule 'every parameter' to give Multipliers, got 2.0"
    ):
        bad.param_groups(Gpt(64), lr=1.0)
    with pytest.raises(TypeError, match="expected Multipliers or a function"):
        Rule("*", Normal(1.0), multipliers=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected lr finite and >= 0, got lr=-1"):
        Multipliers(lr=-1)
