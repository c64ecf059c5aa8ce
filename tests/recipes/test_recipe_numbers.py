"""The numbers of the recipes for text, written out from their sources."""

from __future__ import annotations

import math

import pytest
from torch import nn

import named_models
from initstats import recipes
from initstats.planning.planner import plan
from initstats.recipes import (
    TruncNormal,
)
from named_models import HEADS, HIDDEN, LAYERS, Tree, linear
from promises import (
    GPT_NORMS,
    ONE,
    ZERO,
    D,
    check,
    normal,
    planned,
)


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


def test_neox_of_transformers() -> None:
    recipe = recipes.neox(variant="transformers")
    check(named_models.nano_gpt(), recipe, {**GPT_NORMS, "*": normal(0.02)})


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
