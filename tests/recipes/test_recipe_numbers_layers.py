"""The numbers of the recipes for recurrent, deep, plain and new layers, and bad options."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import named_models
from initstats import recipes
from initstats.planning.planner import PlanEntry, plan
from initstats.recipes import (
    LogUniform,
    Match,
    Orthogonal,
    Recipe,
)
from named_models import HEADS, HIDDEN, LAYERS, WIDTH, Tree, linear
from promises import (
    GPT_NORMS,
    ONE,
    ZERO,
    D,
    assert_same,
    check,
    glorot,
    normal,
    planned,
    uniform,
)


def parts(entry: PlanEntry) -> list[tuple[str, object]]:
    return [(piece.name.partition("[")[2][:-1], piece.distribution) for piece in entry.pieces]


def test_lstm_of_keras() -> None:
    found = planned(named_models.recurrent(), recipes.lstm())
    assert found["lstm.weight_ih_l0"].distribution == glorot(WIDTH, 4 * 16)
    assert found["lstm.weight_ih_l1_reverse"].distribution == glorot(32, 4 * 16)
    assert found["lstm.weight_hh_l0"].distribution == Orthogonal(64, 16)
    assert found["lstm.bias_hh_l0"].distribution == ZERO
    assert parts(found["lstm.bias_ih_l0"]) == [
        ("input", ZERO),
        ("forget", ONE),
        ("cell", ZERO),
        ("output", ZERO),
    ]
    assert found["gru.weight_hh_l0"].distribution == Orthogonal(48, 16)
    assert found["gru.bias_ih_l0"].distribution == ZERO
    assert found["embedding.weight"].distribution == uniform(0.05)
    assert found["head.weight"].distribution == glorot(16, 5)


def test_lstm_with_one_orthogonal_matrix_per_gate() -> None:
    found = planned(nn.LSTM(8, 16), recipes.lstm(per_gate=True, forget_bias=0.0))
    gates = [distribution for _, distribution in parts(found["weight_hh_l0"])]
    assert gates == [Orthogonal(16, 16)] * 4
    assert found["bias_ih_l0"].distribution == ZERO


def test_lstm_chrono() -> None:
    found = planned(nn.LSTM(8, 16), recipes.lstm_chrono(longest=100))
    assert parts(found["bias_ih_l0"]) == [
        ("input", LogUniform(1, 99, sign=-1)),
        ("forget", LogUniform(1, 99)),
        ("cell", ZERO),
        ("output", ZERO),
    ]
    assert found["bias_hh_l0"].distribution == ZERO


@pytest.mark.parametrize(
    ("variant", "down"),
    [
        ("kaiming", uniform(1 / math.sqrt(24))),
        ("gaussian", normal(1 / 4)),
    ],
)
def test_lora(variant: str, down: object) -> None:
    model = named_models.LoraLinear(24, 16)
    found = {entry.name: entry for entry in plan(model, recipes.lora(variant=variant))}
    assert set(found) == {"lora_A.default.weight", "lora_B.default.weight"}
    assert_same(found["lora_A.default.weight"], down)
    assert found["lora_B.default.weight"].distribution == ZERO


def test_lora_of_an_embedding() -> None:
    model = Tree(lora_embedding_A=torch.zeros(2, 8), lora_embedding_B=torch.zeros(4, 2))
    found = {entry.name: entry.distribution for entry in plan(model, "lora")}
    assert found == {"lora_embedding_A": ZERO, "lora_embedding_B": normal(1.0)}


def test_an_adapter_ends_in_zeros() -> None:
    model = Tree(fc=linear(8, 8), adapter=named_models.Adapter(8))
    found = {entry.name: entry.distribution for entry in plan(model, "adapter")}
    assert found == {
        "adapter.down.weight": normal(0.02),
        "adapter.down.bias": ZERO,
        "adapter.up.weight": ZERO,
        "adapter.up.bias": ZERO,
    }


def test_embedding() -> None:
    model = Tree(wte=nn.Embedding(8, 4, padding_idx=2), head=linear(4, 8))
    (entry,) = plan(model, "embedding")
    assert (entry.name, entry.distribution, entry.zero_row) == ("wte.weight", normal(0.02), 2)
    (entry,) = plan(model, recipes.embedding(bound=0.1))
    assert entry.distribution == uniform(0.1)


def test_new_head_and_new_layers() -> None:
    found = {entry.name: entry.distribution for entry in plan(named_models.timm_vit(), "new_head")}
    assert found == {"head.weight": normal(0.02), "head.bias": ZERO}
    promises = {"*norm*.weight": ONE, "*bias": ZERO, "*": normal(0.02)}
    check(named_models.timm_vit(), recipes.new_layers(), promises)


def test_deepnet() -> None:
    beta = (8 * LAYERS) ** -0.25
    plain = glorot(D, D).scaled(math.sqrt(0.5))
    found = planned(named_models.deep_encoder(), recipes.deepnet())
    names = [name for name, _ in parts(found["encoder.layers.0.self_attn.in_proj_weight"])]
    assert names == ["q", "k", "v"]
    stds = [d.std for _, d in parts(found["encoder.layers.0.self_attn.in_proj_weight"])]  # type: ignore[attr-defined]
    assert stds == pytest.approx([plain.std, plain.std, plain.std * beta])
    for name, expected in {
        "self_attn.out_proj.weight": glorot(D, D).scaled(beta),
        "linear1.weight": glorot(D, HIDDEN).scaled(beta),
        "linear2.weight": glorot(HIDDEN, D).scaled(beta),
        "norm1.weight": ONE,
    }.items():
        assert_same(found[f"encoder.layers.1.{name}"], expected)
    assert_same(found["embedding.weight"], normal(D**-0.5))
    assert recipes.deepnet_alpha(LAYERS) == (2 * LAYERS) ** 0.25


def test_t_fixup() -> None:
    n, m = 4, 2
    found = planned(named_models.fair_transformer(), recipes.t_fixup())
    for stack, factor in (("encoder", 0.67 * n**-0.25), ("decoder", (9 * m) ** -0.25)):
        for name, expected in {
            "self_attn.q_proj.weight": glorot(D, D).scaled(math.sqrt(0.5)),
            "self_attn.v_proj.weight": glorot(D, D).scaled(factor),
            "self_attn.out_proj.weight": glorot(D, D).scaled(factor),
            "fc1.weight": glorot(D, HIDDEN).scaled(factor),
            "fc2.weight": glorot(HIDDEN, D).scaled(factor),
        }.items():
            assert_same(found[f"{stack}.layers.1.{name}"], expected)
    assert_same(found["encoder.embed_tokens.weight"], normal(D**-0.5 * (9 * n) ** -0.25))


def test_rezero() -> None:
    promises = {
        "*resweight": ZERO,
        "*bias": ZERO,
        "head.weight": glorot(D, 4),
        "*": glorot(D, HIDDEN),
    }
    check(named_models.rezero(), recipes.rezero(), promises)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, (math.sqrt(2 / (64 + 128)), math.sqrt(2 / (128 + 96)))),
        ({"gain": None}, (5 / 3 * math.sqrt(2 / 192), 5 / 3 * math.sqrt(2 / 224))),
        ({"activation": "relu"}, (math.sqrt(2 / 64), math.sqrt(2 / 128))),
    ],
)
def test_mlp(options: dict[str, object], numbers: tuple[float, float]) -> None:
    promises = {"*bias": ZERO, "0*": normal(numbers[0]), "2*": normal(numbers[1])}
    check(named_models.tanh_mlp(), recipes.mlp(**options), promises)  # type: ignore[arg-type]


def test_a_scaled_recipe_scales_what_is_random() -> None:
    larger = recipes.gpt2().scaled(2.0)
    promises = {
        **GPT_NORMS,
        "*c_proj.weight": normal(0.04 / math.sqrt(2 * LAYERS)),
        "*": normal(0.04),
    }
    check(named_models.nano_gpt(), larger, promises)
    skip = Match(role=("attention output", "mlp output"))
    promises["*c_proj.weight"] = normal(0.02 * math.sqrt(2))
    promises["*"] = normal(0.02)
    check(named_models.nano_gpt(), recipes.llama().scaled(math.sqrt(2), skip), promises)
    by_heads = recipes.llama().scaled(lambda slot: (slot.heads or 1) ** -0.5, skip)
    promises = {
        **GPT_NORMS,
        "*attn.c_proj.weight": normal(0.02 / math.sqrt(HEADS)),
        "*": normal(0.02),
    }
    check(named_models.nano_gpt(), by_heads, promises)
    with pytest.raises(ValueError, match=r"^initstats.Recipe.scaled: expected factor finite and"):
        recipes.gpt2().scaled(0.0)


def test_every_available_recipe_has_a_test_of_its_numbers() -> None:
    files = Path(__file__).parent.glob("test_recipe_numbers*.py")
    texts = "".join(file.read_text() for file in files)
    # That of torch itself is compared with torch, in test_recipe_references.py.
    for name in set(recipes.available()) - {"torch_default"}:
        assert f"recipes.{name}(" in texts or f'"{name}")' in texts, name


BAD: list[tuple[Callable[[], Recipe], str]] = [
    (lambda: recipes.gpt2(residual="width"), "gpt2: expected residual among depth, heads, none, "),
    (lambda: recipes.megatron(std=-1.0), "megatron: expected std finite and > 0, got std=-1.0"),
    (lambda: recipes.neox(layers=0), "neox: expected layers >= 1, got layers=0"),
    (lambda: recipes.llama(std=0.0), "llama: expected std finite and > 0, got std=0.0"),
    (lambda: recipes.llama_torchtitan(scale="x"), "llama_torchtitan: expected scale among block"),
    (lambda: recipes.t5(head_width=0), "t5: expected head_width finite and > 0, got head_width=0"),
    (lambda: recipes.vit_jax(classes=0), "vit_jax: expected classes finite and > 0, got classes=0"),
    (lambda: recipes.convnext(layer_scale=0.0), "convnext: expected layer_scale finite and > 0"),
    (lambda: recipes.fixup(layers=-1), "fixup: expected layers finite and > 0, got layers=-1"),
    (lambda: recipes.lstm(forget_bias=math.nan), "Constant: expected value finite, got value=nan"),
    (lambda: recipes.lstm_chrono(longest=2), "lstm_chrono: expected longest >= 3, got longest=2"),
    (lambda: recipes.lora(variant="x"), "lora: expected variant among kaiming, gaussian, ortho"),
    (lambda: recipes.embedding(bound=-1.0), "embedding: expected bound finite and > 0, got"),
    (lambda: recipes.deepnet(layers=0), "deepnet: expected layers >= 1, got layers=0"),
    (lambda: recipes.mlp(gain=0.0), "mlp: expected gain finite and > 0, got gain=0.0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_options_are_refused(make: Callable[[], Recipe], message: str) -> None:
    with pytest.raises(ValueError, match=f"^initstats.{message}"):
        make()


def test_depth_is_asked_for_where_the_model_does_not_tell_it() -> None:
    model = Tree(attn=Tree(c_proj=linear(8, 8)))
    for recipe in (recipes.megatron(), recipes.neox(), recipes.deepnet()):
        with pytest.raises(ValueError, match=rf"^initstats.{recipe.name}: expected residual proj"):
            plan(model, recipe)
    for recipe in (recipes.olmo_mitchell(), recipes.llama_torchtitan(), recipes.vit(fix_init=True)):
        with pytest.raises(ValueError, match=rf"^initstats.{recipe.name}: expected residual proj"):
            plan(model, recipe)
