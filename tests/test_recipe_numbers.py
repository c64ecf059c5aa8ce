"""The numbers of every recipe, written out from its source, on models with the source's names."""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from initstats import recipes
from initstats.planning import PlanEntry, plan
from initstats.recipes import (
    Constant,
    Kept,
    LogUniform,
    Match,
    Normal,
    Orthogonal,
    Recipe,
    Stacked,
    TruncNormal,
    Uniform,
)
from tests import named_models
from tests.named_models import HEADS, HIDDEN, LAYERS, VOCABULARY, WIDTH, Tree, linear

D = WIDTH


def planned(model: nn.Module, recipe: Recipe) -> dict[str, PlanEntry]:
    found = plan(model, recipe)
    assert found.unmatched == ()
    return {entry.name: entry for entry in found}


def check(model: nn.Module, recipe: Recipe, promises: dict[str, object]) -> None:
    """Compare the plan with promises by glob pattern, the first that matches; all are used."""
    used = set()
    for name, entry in planned(model, recipe).items():
        pattern = next(p for p in promises if fnmatchcase(name, p))
        used.add(pattern)
        expected = promises[pattern]
        if callable(expected):
            assert entry.slot.block is not None
            expected = expected(entry.slot.block)
        assert_same(entry, expected)
    assert used == set(promises)


def assert_same(entry: PlanEntry, expected: object) -> None:
    got = entry.distribution
    assert type(got) is type(expected), (entry.name, got, expected)
    if isinstance(got, (Kept, Stacked, Orthogonal)):
        assert got == expected, entry.name
        return
    assert got.mean == pytest.approx(expected.mean, rel=1e-12), entry.name  # type: ignore[attr-defined]
    assert got.std == pytest.approx(expected.std, rel=1e-12), entry.name  # type: ignore[attr-defined]
    assert got.bounds == pytest.approx(expected.bounds, rel=1e-12), entry.name  # type: ignore[attr-defined]


def normal(std: float) -> Normal:
    return Normal(std)


def uniform(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def glorot(inputs: int, outputs: int) -> Uniform:
    return uniform(math.sqrt(6 / (inputs + outputs)))


ZERO, ONE = Constant(0.0), Constant(1.0)
GPT_NORMS = {"*ln_*.weight": ONE, "*.bias": ZERO}


def test_gpt2() -> None:
    residual = normal(0.02 / math.sqrt(2 * LAYERS))
    promises = {**GPT_NORMS, "*c_proj.weight": residual, "*wpe*": normal(0.01), "*": normal(0.02)}
    check(named_models.nano_gpt(), recipes.gpt2(position_std=0.01), promises)


def test_gpt2_with_attention_outputs_divided_by_the_root_of_the_heads() -> None:
    promises = {
        **GPT_NORMS,
        "*attn.c_proj.weight": normal(0.02 / math.sqrt(HEADS)),
        "*": normal(0.02),
    }
    check(named_models.nano_gpt(), recipes.gpt2(residual="heads"), promises)
    check(named_models.nano_gpt(), recipes.gpt2(residual="none"), {**GPT_NORMS, "*": normal(0.02)})


def test_megatron() -> None:
    residual = normal(0.02 / math.sqrt(2 * LAYERS))
    promises = {
        "*norm.weight": ONE,
        "*.bias": ZERO,
        "*linear_proj.weight": residual,
        "*linear_fc2.weight": residual,
        "*embeddings.weight": normal(1.0),
        "*": normal(0.02),
    }
    check(named_models.megatron_gpt(), recipes.megatron(embedding_std=1.0), promises)


def test_neox() -> None:
    small, wang = normal(math.sqrt(2 / (5 * D))), normal(2 / (LAYERS * math.sqrt(D)))
    promises = {**GPT_NORMS, "*c_proj.weight": wang, "*": small}
    check(named_models.nano_gpt(), recipes.neox(), promises)


def test_olmo_mitchell() -> None:
    def cut(std: float) -> TruncNormal:
        return TruncNormal(std, -3 * std, 3 * std)

    promises = {
        "*norm.weight": ONE,
        "*ln_f.weight": ONE,
        "*.bias": ZERO,
        "*attn_out.weight": lambda i: cut(1 / math.sqrt(2 * D * (i + 1))),
        "*blocks*ff_out.weight": lambda i: cut(1 / math.sqrt(2 * HIDDEN * (i + 1))),
        "*": cut(1 / math.sqrt(D)),
    }
    check(named_models.olmo(), recipes.olmo_mitchell(), promises)


def test_llama() -> None:
    promises = {"*norm.weight": ONE, "*": normal(0.02)}
    check(named_models.titan_llama(), recipes.llama(), promises)


def test_llama_torchtitan() -> None:
    head = D**-0.5
    promises: dict[str, object] = {
        "*norm.weight": ONE,
        "tok_embeddings*": normal(1.0),
        "output*": TruncNormal(head, -3 * head, 3 * head),
        "*w[qkv1].weight": TruncNormal(0.02, -2, 2),
        "*": lambda i: TruncNormal(0.02 / math.sqrt(2 * (i + 1)), -2, 2),
    }
    check(named_models.titan_llama(), recipes.llama_torchtitan(), promises)
    promises["*"] = TruncNormal(0.02 / math.sqrt(2 * LAYERS), -2, 2)
    check(named_models.titan_llama(), recipes.llama_torchtitan(scale="depth"), promises)


def test_bert_of_google_is_truncated_and_not_corrected() -> None:
    promises = {**GPT_NORMS, "*": TruncNormal(0.02, -0.04, 0.04)}
    check(named_models.nano_gpt(), recipes.bert(), promises)
    # .87962566 of 0.02
    assert TruncNormal(0.02, -0.04, 0.04).std == pytest.approx(0.0175925, rel=1e-6)


def test_bert_of_transformers_leaves_the_padding_row_zero() -> None:
    model = Tree(word_embeddings=nn.Embedding(8, 4, padding_idx=0), dense=linear(4, 4))
    found = planned(model, recipes.bert_transformers())
    assert found["word_embeddings.weight"].zero_row == 0
    assert found["word_embeddings.weight"].promise == "N(0, 0.02), row 0 0"
    assert found["dense.weight"].distribution == normal(0.02)


def t5_attention(width: int, heads: int, head_width: int) -> Tree:
    inner = heads * head_width
    return Tree(
        d_model=width,
        key_value_proj_dim=head_width,
        q=linear(width, inner, bias=False),
        k=linear(width, inner, bias=False),
        v=linear(width, inner, bias=False),
        o=linear(inner, width, bias=False),
        relative_attention_bias=nn.Embedding(32, heads),
    )


def test_t5() -> None:
    d, heads, d_kv, d_ff = 16, 3, 8, 40
    model = Tree(
        shared=nn.Embedding(20, d),
        SelfAttention=t5_attention(d, heads, d_kv),
        DenseReluDense=Tree(wi=linear(d, d_ff, bias=False), wo=linear(d_ff, d, bias=False)),
        lm_head=linear(d, 20, bias=False),
    )
    promises: dict[str, object] = {
        "shared.weight": normal(1.0),
        "*.q.weight": normal((d * d_kv) ** -0.5),
        "*.[kv].weight": normal(d**-0.5),
        "*.o.weight": normal((heads * d_kv) ** -0.5),
        "*bias.weight": normal(d**-0.5),
        "*wi.weight": normal(d**-0.5),
        "*wo.weight": normal(d_ff**-0.5),
        "lm_head.weight": normal(d**-0.5),
    }
    check(model, recipes.t5(), promises)
    promises["lm_head.weight"] = normal(1.0)
    check(model, recipes.t5(head_std=1.0), promises)


def test_t5_needs_the_width_of_a_head() -> None:
    model = Tree(SelfAttention=Tree(q=linear(8, 8)))
    with pytest.raises(ValueError, match=r"expected a module that states the width of its heads"):
        plan(model, recipes.t5())
    found = planned(model, recipes.t5(head_width=2))
    assert found["SelfAttention.q.weight"].distribution == normal(0.25)


TIMM = {
    "*norm*.weight": ONE,
    "patch_embed*": uniform(1 / math.sqrt(3 * 4 * 4)),
    "pos_embed": TruncNormal(0.02, -2, 2),
    "???_token": normal(1e-6),
}


def test_vit_of_timm() -> None:
    promises = {**TIMM, "*bias": ZERO, "*": TruncNormal(0.02, -2, 2)}
    check(named_models.timm_vit(), recipes.vit(), promises)

    def fixed(block: int) -> TruncNormal:
        root = math.sqrt(2 * (block + 1))
        return TruncNormal(0.02 / root, -2 / root, 2 / root)

    promises = {**TIMM, "*bias": ZERO, "*attn.proj*": fixed, "*fc2*": fixed, **promises}
    check(named_models.timm_vit(), recipes.vit(fix_init=True), promises)


def test_vit_jax() -> None:
    lecun = 1 / math.sqrt(3 * 4 * 4) / 0.87962566103423978
    promises = {
        "head.weight": ZERO,
        "head.bias": Constant(-math.log(10)),
        "*fc?.bias": normal(1e-6),
        "patch_embed.proj.weight": TruncNormal(lecun, -2 * lecun, 2 * lecun),
        "*bias": ZERO,
        "*qkv.weight": glorot(D, D),
        "*attn.proj.weight": glorot(D, D),
        "*fc?.weight": glorot(D, HIDDEN),
        **{name: TIMM[name] for name in ("*norm*.weight", "pos_embed", "???_token")},
    }
    check(named_models.timm_vit(), recipes.vit_jax(classes=10), promises)


def test_vit_moco() -> None:
    promises = {
        **TIMM,
        "*bias": ZERO,
        "*qkv.weight": uniform(math.sqrt(6 / (3 * D / 3 + D))),
        "*attn.proj.weight": glorot(D, D),
        "*fc?.weight": glorot(D, HIDDEN),
        "head.weight": glorot(D, 10),
    }
    check(named_models.timm_vit(), recipes.vit_moco(), promises)


def test_vit_of_transformers() -> None:
    promises = {
        "*norm*.weight": ONE,
        "*bias": ZERO,
        "pos_embed": TruncNormal(0.02, -2, 2),
        "*_token": TruncNormal(0.02, -2, 2),
        "*": normal(0.02),
    }
    check(named_models.timm_vit(), recipes.vit_transformers(), promises)


def test_resnet() -> None:
    promises: dict[str, object] = {
        "bn*.weight": ONE,
        "*.bn*.weight": ONE,
        "*downsample.1.weight": ONE,
        "fc*": uniform(1 / math.sqrt(32)),
        "*bias": ZERO,
        "conv1.weight": normal(math.sqrt(2 / (16 * 49))),
        "layer1*conv?.weight": normal(math.sqrt(2 / (16 * 9))),
        "*downsample.0.weight": normal(math.sqrt(2 / 32)),
        "layer2*conv?.weight": normal(math.sqrt(2 / (32 * 9))),
    }
    check(named_models.resnet(), recipes.resnet(), promises)
    promises = {"layer*.bn2.weight": ZERO, **promises}
    check(named_models.resnet(), recipes.resnet(zero_init_residual=True), promises)


def test_resnet_fans_of_grouped_convolutions() -> None:
    model = Tree(conv=nn.Conv2d(32, 32, 3, groups=4, bias=False))
    torch_rule = planned(model, recipes.resnet())["conv.weight"].distribution
    true_rule = planned(model, recipes.resnet(grouped_fans=True))["conv.weight"].distribution
    assert torch_rule == normal(math.sqrt(2 / (32 * 9)))
    assert true_rule == normal(math.sqrt(2 / (32 * 9 / 4)))


def test_efficientnet() -> None:
    promises = {
        "*bn?.weight": ONE,
        "*bias": ZERO,
        "conv_stem.weight": normal(math.sqrt(2 / (9 * 16))),
        "*conv_pw.weight": normal(math.sqrt(2 / 32)),
        "*conv_dw.weight": normal(math.sqrt(2 / (9 * 32 / 32))),
        "*conv_pwl.weight": normal(math.sqrt(2 / 16)),
        "classifier.weight": uniform(1 / math.sqrt(10)),
    }
    check(named_models.efficientnet(), recipes.efficientnet(), promises)


def test_convnext() -> None:
    promises = {
        "*gamma": Constant(1e-6),
        "*norm.weight": ONE,
        "*.1.weight": ONE,
        "*bias": ZERO,
        "head.weight": TruncNormal(0.01, -1, 1),
        "*": TruncNormal(0.02, -2, 2),
    }
    check(named_models.convnext(), recipes.convnext(head_scale=0.5), promises)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_fixup(*, bottleneck: bool) -> None:
    branches, m = 4, 3 if bottleneck else 2
    shrink = branches ** (-1 / (2 * m - 2))
    last = "layer*conv3.weight" if bottleneck else "layer*conv2.weight"
    first = 1 if bottleneck else 9
    promises = {
        last: ZERO,
        "fc*": ZERO,
        "conv1.weight": normal(math.sqrt(2 / (16 * 49))),
        "*downsample.0.weight": normal(math.sqrt(2 / 32)),
        "layer1*conv1.weight": normal(math.sqrt(2 / (16 * first)) * shrink),
        "layer2*conv1.weight": normal(math.sqrt(2 / (32 * first)) * shrink),
    }
    if bottleneck:
        promises["layer1*conv2.weight"] = normal(math.sqrt(2 / (16 * 9)) * shrink)
        promises["layer2*conv2.weight"] = normal(math.sqrt(2 / (32 * 9)) * shrink)
    model = named_models.resnet(norm=False, bottleneck=bottleneck)
    check(model, recipes.fixup(), promises)


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


def test_dit() -> None:
    promises = {
        "pos_embed": Kept("fixed positions"),
        "*adaLN*": ZERO,
        "final_layer.linear*": ZERO,
        "*bias": ZERO,
        "t_embedder*": normal(0.02),
        "y_embedder*": normal(0.02),
        "x_embedder.proj.weight": glorot(4 * 2 * 2, D),
        # The source calls xavier_uniform_ on the packed matrix.
        "*qkv.weight": glorot(D, 3 * D),
        "*attn.proj.weight": glorot(D, D),
        "*": glorot(D, HIDDEN),
    }
    check(named_models.dit(), recipes.dit(), promises)


@pytest.mark.parametrize(
    ("variant", "down"),
    [
        ("kaiming", uniform(1 / math.sqrt(24))),
        ("gaussian", normal(1 / 4)),
        ("orthogonal", Orthogonal(4, 24)),
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
    tests = [name for name in globals() if name.startswith("test_")]
    for name in set(recipes.available()) - {"torch_default", "bert_transformers"}:
        stem = name.removesuffix("_transformers")
        assert any(f"test_{stem}" in test or stem in test for test in tests), name
    assert VOCABULARY  # used by the models


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
