"""The numbers of the recipes of width transfer, written out from their sources."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from initstats import recipes
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Constant, Multipliers, Recipe
from initstats.recipes.parameters import slots
from initstats.verification.verifier import verify
from promises import ONE, ZERO, assert_same, check, normal, planned, uniform
from width_models import HEAD_WIDTH, Gpt, perceptron

BASE, LAYERS = 32, 2
WIDTHS = (32, 64, 128)
REST = {"*ln_*.weight": ONE, "*.bias": ZERO}


@pytest.mark.parametrize("width", WIDTHS)
def test_mup(width: int) -> None:
    m = width / BASE
    promises = {
        **REST,
        "*q_proj.weight": ZERO,
        "lm_head.weight": ZERO,
        "w?e.weight": normal(0.02),
        "*": normal(0.02 / math.sqrt(m)),
    }
    check(Gpt(width), recipes.mup(base=BASE), promises)
    full = {**promises, "*q_proj.weight": normal(0.02 / math.sqrt(m))}
    # The readout keeps its standard deviation, and with absorb=True has 1 / m in it.
    for absorb, std in ((False, 0.02), (True, 0.02 / m)):
        made = recipes.mup(base=BASE, zero_query=False, zero_readout=False, absorb=absorb)
        check(Gpt(width), made, {**full, "lm_head.weight": normal(std)})


@pytest.mark.parametrize("width", WIDTHS)
def test_mup_of_nanogpt(width: int) -> None:
    m = width / BASE
    promises = {
        **REST,
        "*attn.o_proj.weight": normal(0.02 / math.sqrt(2 * LAYERS * m)),
        "*c_proj.weight": normal(0.02 / math.sqrt(2 * LAYERS * m)),
        "w?e.weight": normal(0.02),
        "h.*": normal(0.02 / math.sqrt(m)),
    }
    check(Gpt(width, tied=True), recipes.mup(base=BASE, form="nanogpt"), promises)


@pytest.mark.parametrize("width", WIDTHS)
def test_mup_of_megatron(width: int) -> None:
    m = width / BASE
    promises = {
        **REST,
        "*o_proj.weight": normal(0.01 / math.sqrt(2 * LAYERS * m)),
        "*c_proj.weight": normal(0.01 / math.sqrt(2 * LAYERS * m)),
        "w?e.weight": normal(0.01),
        "lm_head.weight": normal(0.01),  # an untied head has the embedding's
        "h.*": normal(0.01 / math.sqrt(m)),
    }
    check(Gpt(width), recipes.mup(base=BASE, form="megatron", std=0.01), promises)


@pytest.mark.parametrize("width", WIDTHS)
def test_completep(width: int) -> None:
    m = width / BASE
    promises = {
        **REST,
        "w?e.weight": normal(0.02),
        "h.*": normal(0.02 / math.sqrt(m)),  # residual projections have no 2 L
    }
    check(Gpt(width, tied=True, layers=4), recipes.completep(base=BASE, base_layers=2), promises)


@pytest.mark.parametrize("width", WIDTHS)
def test_spectral(width: int) -> None:
    promises = {
        **REST,
        "w?e.weight": normal(1.0),
        "*c_fc.weight": normal(width**-0.5),
        "*c_proj.weight": normal((4 * width) ** -0.5 * 0.5),
        "lm_head.weight": normal(width**-0.5 * min(1.0, math.sqrt(64 / width))),
        "h.*": normal(width**-0.5),
    }
    check(Gpt(width), recipes.spectral(), promises)
    assert planned(Gpt(width), recipes.spectral(embedding_std=0.5))["wte.weight"].distribution == (
        normal(0.5)
    )


def test_u_mup() -> None:
    check(Gpt(64), recipes.u_mup(), {**REST, "*": normal(1.0)})


# ---- multipliers


def multipliers(model: nn.Module, recipe: Recipe, optimizer: str) -> dict[str, Multipliers]:
    found = {}
    for (slot, *_), *_ in ((group,) for group in slots(model, base=recipe.base)):
        index, _why = recipe.matches(slot)[0]
        found[slot.name] = recipe.rules[index].multipliers_of(slot, optimizer)
    return found


def expect(model: nn.Module, recipe: Recipe, optimizer: str, **expected: Any) -> None:
    """Compare lr, weight_decay and eps of parameters by the end of their names, `_` for a dot."""
    found = multipliers(model, recipe, optimizer)
    for ending, numbers in expected.items():
        names = [name for name in found if name.replace(".", "_").endswith(ending)]
        assert names, ending
        for name in names:
            got = found[name]
            values = (got.lr, got.weight_decay, got.eps)
            assert values == pytest.approx(numbers, rel=1e-12), (name, optimizer)


def test_multipliers_of_mup() -> None:
    model, recipe = Gpt(128), recipes.mup(base=BASE)
    rest: dict[str, Any] = {"wte_weight": (1, 1, 1), "lm_head_weight": (1, 1, 1)}
    for optimizer in ("adam", "adamw"):
        expect(model, recipe, optimizer, **rest, ln_1_weight=(1, 1, 1), c_fc_weight=(1 / 4, 4, 1))
    expect(model, recipe, "muon", **rest, c_fc_weight=(1, 1, 1))
    # SGD: everything with one side that grows times the width, square matrices as they are.
    vectors = dict.fromkeys(("wte_weight", "lm_head_weight", "c_fc_bias"), (4, 1 / 4, 1))
    expect(model, recipe, "sgd", **vectors, c_fc_weight=(1, 1, 1), c_proj_weight=(1, 1, 1))
    absorbed = recipes.mup(base=BASE, absorb=True)
    expect(model, absorbed, "adamw", lm_head_weight=(1 / 4, 4, 1))
    expect(model, absorbed, "sgd", lm_head_weight=(1 / 4, 4, 1))


def test_multipliers_of_other_forms() -> None:
    model = Gpt(128, tied=True, layers=4)
    nano = recipes.mup(base=BASE, form="nanogpt")
    expect(model, nano, "adamw", c_fc_weight=(1 / 4, 1, 1), ln_1_weight=(1, 0, 1), bias=(1, 0, 1))
    megatron = recipes.mup(base=BASE, form="megatron")
    expect(model, megatron, "adamw", c_fc_weight=(1 / 4, 1, 1 / 4), ln_f_weight=(1, 1, 1))
    expect(model, megatron, "muon", c_fc_weight=(1, 1, 1))
    deep = recipes.completep(base=BASE, base_layers=2, alpha=0.5)
    root, eps = 2**-0.5, 2**-0.5 / 4
    expect(
        model,
        deep,
        "adamw",
        c_fc_weight=(root / 4, 4, eps),
        ln_1_weight=(root, 0, eps),
        c_fc_bias=(root, 0, eps),
        ln_f_weight=(1, 0, eps),
        wte_weight=(1, 1, eps),
    )
    with pytest.raises(ValueError, match="expected optimizer='adamw', got optimizer='sgd'"):
        multipliers(model, deep, "sgd")


def test_multipliers_of_spectral_and_u_mup() -> None:
    model = Gpt(64)
    absolute = recipes.spectral()
    expect(model, absolute, "adamw", c_proj_weight=(1 / 256, 1, 1), wte_weight=(1, 1, 1))
    expect(model, absolute, "sgd", c_proj_weight=(1 / 4, 1, 1), c_fc_weight=(4, 1, 1))
    expect(model, absolute, "sgd", wte_weight=(64, 1, 1), c_fc_bias=(256, 1, 1))
    expect(model, absolute, "muon", c_proj_weight=(1 / 2, 1, 1), c_fc_weight=(1, 1, 1))
    relative = recipes.spectral(base=BASE)
    expect(model, relative, "adamw", c_proj_weight=(1 / 2, 1, 1), wte_weight=(1, 1, 1))
    depth = 2**-0.5
    expect(
        model,
        recipes.u_mup(),
        "adamw",
        wte_weight=(1 / 8, 8, 1),
        c_proj_weight=(depth / 16, 16 / depth, 1),
        c_fc_bias=(depth, 1 / depth, 1),
        ln_f_weight=(1, 1, 1),
        lm_head_weight=(1, 1, 1),
    )
    found = multipliers(model, recipes.u_mup(), "adamw")
    assert found["h.0.mlp.c_proj.weight"].forward == 256**-0.5
    assert found["lm_head.weight"].forward == 1 / 64
    assert found["wte.weight"].forward == 1


# ---- forward multipliers


def forward(model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    return {one.where: one for one in plan(model, recipe).forward}


def test_the_plan_lists_what_the_model_must_multiply_and_what_it_states() -> None:
    found = forward(Gpt(128, logit_scale=1 / 4), recipes.mup(base=Gpt(BASE)))
    assert found["logits"].value == 1 / 4
    assert found["logits"].ok
    assert found["attention scores"].value == HEAD_WIDTH**-0.5
    assert found["attention scores"].ok
    printed = str(plan(Gpt(128, logit_scale=1 / 4), recipes.mup(base=BASE)))
    assert "logits x 1/m = 0.25: logit_scale is 0.25, as it should be" in printed
    assert "lr x 0.25, decay x 4" in printed
    assert plan(Gpt(128), recipes.mup(base=BASE)).to_dict()["forward"][0]["value"] == 1 / 4


def test_a_model_that_states_another_multiplier_is_told_so() -> None:
    found = forward(Gpt(128), recipes.mup(base=BASE))
    assert found["logits"].ok is False
    assert "logit_scale is 1, expected another number" in str(found["logits"])
    scores = forward(Gpt(128), recipes.mup(base=BASE, form="nanogpt"))["attention scores"]
    assert scores.value == 1 / HEAD_WIDTH
    assert scores.ok is False
    # Nothing is known of the base's heads from a number.
    assert forward(Gpt(128), recipes.mup(base=BASE))["attention scores"].ok is None
    deep = forward(Gpt(64, layers=4), recipes.completep(base=BASE, base_layers=2))
    assert deep["residual branches"].value == 1 / 2
    assert deep["residual branches"].ok is False


def test_an_absorbed_readout_needs_no_multiplier_and_a_head_of_its_own() -> None:
    assert "logits" not in forward(Gpt(128), recipes.mup(base=BASE, absorb=True))
    with pytest.raises(ValueError, match=r"head of its own with absorb=True, got wte.weight = lm"):
        plan(Gpt(128, tied=True), recipes.mup(base=BASE, absorb=True))


def test_multipliers_of_transformers_are_read_from_the_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GraniteConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
        logits_scaling=4.0,
        embedding_multiplier=12.0,
        attention_multiplier=1 / 16,
        residual_multiplier=0.5,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = transformers.GraniteForCausalLM(config)
    recipe = recipes.completep(width_mult=4, base_layers=1, input_mult=12.0)
    found = forward(model, recipe)
    assert {name: one.ok for name, one in found.items()} == {
        "logits": True,
        "embedding output": True,
        "residual branches": True,
        "attention scores": True,
    }
    assert found["attention scores"].value == 1 / 16


# ---- bug reports


def test_a_tied_readout_is_not_scaled_with_the_width() -> None:
    """microsoft/mup#55: MuSharedReadout's rescaling multiplied the shared embedding by sqrt(m)."""
    for form, std in (("torch", 1.0), ("mup", 0.02), ("nanogpt", 0.02), ("megatron", 0.02)):
        model = Gpt(128, tied=True)
        entry = planned(model, recipes.mup(base=Gpt(BASE, tied=True), form=form))["wte.weight"]
        assert entry.tied_to == ("lm_head.weight",)
        assert entry.distribution == normal(std), form
    # Also where the head comes first in the model.
    model = Gpt(128, tied=True)
    turned = nn.ModuleDict({"lm_head": model.lm_head, "wte": model.wte})
    base = nn.ModuleDict({"lm_head": nn.Linear(32, 64, bias=False), "wte": nn.Embedding(64, 32)})
    for recipe in (recipes.mup(base=base), recipes.mup(base=BASE), recipes.u_mup()):
        std = 1.0 if recipe.name == "u_mup" else 0.02
        assert planned(turned, recipe)["lm_head.weight"].distribution == normal(std)


def test_an_untied_readout_of_the_default_is_scaled_with_the_width() -> None:
    entries = planned(Gpt(128), recipes.mup(base=Gpt(BASE), form="torch"))
    bound = 128**-0.5
    assert_same(entries["lm_head.weight"], uniform(2 * bound))
    assert_same(entries["h.0.mlp.c_fc.weight"], uniform(bound))
    assert_same(entries["h.0.mlp.c_fc.bias"], uniform(2 * bound))
    made = recipes.mup(base=Gpt(BASE), form="torch", zero_readout=True)
    assert planned(Gpt(128), made)["lm_head.weight"].distribution == Constant(0.0)


def test_residual_projections_that_were_never_scaled_are_found() -> None:
    """transformers#47478: CLVP's c_proj never got the factor of its own initialisation."""
    model, recipe = Gpt(128), recipes.mup(base=BASE, form="nanogpt")
    init_(model, recipe, seed=0)
    with torch.no_grad():
        for block in model.h:
            block.mlp.c_proj.weight.mul_(math.sqrt(2 * LAYERS))
    names = [entry.name for entry in verify(model, recipe).failures]
    assert names == ["h.0.mlp.c_proj.weight", "h.1.mlp.c_proj.weight"]


# ---- init_ and verify

ALL = {
    "mup": recipes.mup(base=BASE),
    "mup, absorbed": recipes.mup(base=BASE, absorb=True, zero_readout=False, zero_query=False),
    "torch": recipes.mup(base=BASE, form="torch"),
    "nanogpt": recipes.mup(base=BASE, form="nanogpt"),
    "megatron": recipes.mup(base=BASE, form="megatron"),
    "completep": recipes.completep(base=BASE),
    "spectral": recipes.spectral(),
    "u_mup": recipes.u_mup(),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", WIDTHS)
def test_what_init_writes_verify_accepts_and_three_percent_more_it_refuses(
    name: str, width: int
) -> None:
    model, recipe = Gpt(width), ALL[name]
    init_(model, recipe, seed=1)
    assert verify(model, recipe).ok
    with torch.no_grad():
        # Of 4,096 and 16,384 elements the bands are wider.
        model.h[1].mlp.c_fc.weight.mul_(1.03 if width == 128 else 1.08)
    wrong = [entry.name for entry in verify(model, recipe).failures]
    assert wrong == ["h.1.mlp.c_fc.weight"]


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"u_mup", "spectral"}))
def test_verify_refuses_the_standard_deviations_of_another_width(name: str) -> None:
    model = Gpt(128)
    init_(model, ALL[name].with_base(recipes.Base(width=64)), seed=0)
    failures = {entry.name for entry in verify(model, ALL[name]).failures}
    if name == "torch":  # its matrices depend on their fans alone
        assert "lm_head.weight" in failures
    else:
        assert "h.0.mlp.c_fc.weight" in failures


def test_a_perceptron_needs_shapes() -> None:
    entries = planned(perceptron(128), recipes.mup(base=perceptron(BASE), zero_readout=False))
    stds = [entries[f"{i}.weight"].distribution.std for i in (0, 2, 4)]
    assert stds == pytest.approx([0.02, 0.02 / 2, 0.02], rel=1e-12)
    with pytest.raises(ValueError, match=r"base to be a model, or shapes by name.*0\.weight"):
        plan(perceptron(128), recipes.mup(width_mult=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "mupp"}, "expected form among mup, torch, nanogpt, megatron, got form='mupp'"),
        ({"std": 0.0}, "expected std finite and > 0, got std=0.0"),
        ({"base": 32, "width_mult": 2.0}, "expected base or width_mult, got both"),
        ({"width_mult": -1.0}, "expected width_mult finite and > 0, got width_mult=-1.0"),
        ({"base": 0}, "expected base >= 1, got base=0"),
        ({"form": "nanogpt", "zero_query": True}, "zero_query with form='mup', got form='nanogpt'"),
        ({"form": "torch", "zero_query": True}, "zero_query with form='mup', got form='torch'"),
        ({"form": "torch", "absorb": True}, "expected absorb with form='mup', got form='torch'"),
    ],
)
def test_options_of_mup_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.mup(**options)
    if "base" not in options:
        return
    with pytest.raises(TypeError, match="expected base to be a width, a model or shapes by name"):
        recipes.mup(base=0.5)
