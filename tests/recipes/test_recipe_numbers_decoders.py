"""The numbers of the recipes of newer decoders and mixtures of experts, written out by hand."""

from __future__ import annotations

import math

import pytest

import decoder_models
from decoder_models import HEADS, LAYERS, WIDTH
from initstats import recipes
from initstats.recipes import (
    Computed,
    Constant,
    Derived,
    Distribution,
    Kept,
    Part,
    Stacked,
    TruncNormal,
    Uniform,
)
from promises import ONE, ZERO, check, normal, uniform

TITAN_HEAD = TruncNormal(1 / 16, -3 / 16, 3 / 16)
Q = math.sqrt(3) / 16  # sqrt(3 / 256)


def cut(std: float) -> TruncNormal:
    return TruncNormal(std, -3 * std, 3 * std)


def by_block(layer: int) -> TruncNormal:
    return TruncNormal(0.02 / math.sqrt(2 * (layer + 1)), -2, 2)


def test_nanochat() -> None:
    assert WIDTH == 256
    tables = {
        name: Computed("rotary_table", (1, 80, 1, 32), {"base": 1e5, "function": name})
        for name in ("cos", "sin")
    }
    promises: dict[str, Distribution] = {
        "transformer.wte.weight": normal(0.8),
        "lm_head.weight": normal(0.001),
        "value_embeds.*.weight": uniform(Q),
        "*.c_[qkv].weight": uniform(Q),
        "*.c_fc.weight": uniform(0.4 * Q),
        "*.c_proj.weight": ZERO,
        "*_gate.weight": Uniform(0.0, 0.02),
        "resid_lambdas": Computed("linspace", (LAYERS,), {"start": 1.15, "end": 1.05}),
        "x0_lambdas": Computed("linspace", (LAYERS,), {"start": 0.2, "end": 0.05}),
        "smear_lambda": ZERO,
        "backout_lambda": Constant(0.2),
        **tables,
    }
    check(decoder_models.NanoChat(), recipes.nanochat(), dict(promises))
    factors = Computed("linspace", (3,), {"start": 1.15, "end": 1.05}).values()
    assert factors.tolist() == pytest.approx([1.15, 1.10, 1.05])


def test_modded_nanogpt() -> None:
    bank, pad = uniform(0.5 * Q), Constant(0.0)
    promises: dict[str, Distribution] = {
        "lm_head.weight": normal(0.005),
        "embed.weight": Derived("transpose", "lm_head.weight"),
        "value_embeds": normal(0.01),
        "qk_bank": Stacked([Part(bank, 16, "used"), Part(pad, 2, "padding")]),
        "vo_bank": Stacked([Part(bank, 8, "used"), Part(pad, 4, "padding")]),
        "mlp_bank": Stacked([Part(bank, 1, "c_fc"), Part(pad, 1, "c_proj")], 1),
        "ve_gate_bank": ZERO,
        "smear_gate.weight": ZERO,
        "bigram_embed.weight": ZERO,
        "post_lambdas": ONE,
        "resid_lambdas": Constant(1.0488088481701516),
        "scalars": Computed("modded_scalars", (16,), {"layers": 5}),
        "mudd_w1": uniform(1 / 16),
        "mudd_w2": ZERO,
        "mudd_b2": Kept("as the model computes them"),
    }
    assert HEADS == 4
    check(decoder_models.ModdedNanoGPT(), recipes.modded_nanogpt(), dict(promises))
    scalars = Computed("modded_scalars", (16,), {"layers": 5}).values().tolist()
    assert scalars == [0.5, 1.0] * 5 + [0.0, -1.5] + [1.0] * 4


def test_olmo2() -> None:
    small = cut(0.02)
    norms = {"*norm.weight": ONE}
    model = decoder_models.Olmo
    check(model(), recipes.olmo2(), {**norms, "*": small})
    check(model(), recipes.olmo2(variant="transformers"), {**norms, "*": normal(0.02)})
    for variant in ("llama", "llama_depth"):

        def scaled(layer: int, variant: str = variant) -> TruncNormal:
            return cut(0.02 / math.sqrt(2 * (LAYERS if variant == "llama" else layer + 1)))

        promises = {
            **norms,
            "embeddings.weight": normal(1.0),
            "lm_head.w_out.weight": TITAN_HEAD,
            "*.w_[qkv].weight": small,
            "*.feed_forward.w1.weight": small,
            "*": scaled,
        }
        check(model(), recipes.olmo2(variant=variant), promises)
    fan_in = recipes.olmo2(variant="fan_in", embed_scale=16.0)
    promises = {
        **norms,
        "embeddings.weight": normal(1 / 16),
        "*.feed_forward.w2.weight": cut(384**-0.5),
        "*": cut(1 / 16),
    }
    check(model(), fan_in, dict(promises))


def test_qwen3() -> None:
    norms, model = {"*norm.weight": ONE}, decoder_models.TitanQwen
    for variant in ("dense", "transformers"):
        check(model(), recipes.qwen3(variant=variant), {**norms, "*": normal(0.02)})
    scaled = normal(0.02 / math.sqrt(6))
    promises = {**norms, "*.wo.weight": scaled, "*w2_EDF": scaled, "*": normal(0.02)}
    check(model(), recipes.qwen3(variant="moe"), promises)


def test_gemma() -> None:
    promises = {"*norm.weight": ZERO, "*embed_scale": Constant(16.0), "*": normal(0.02)}
    check(decoder_models.gemma(), recipes.gemma(), dict(promises))


def test_moe() -> None:
    promises = {"*norm.weight": ONE, "*router*": normal(0.1), "*": normal(0.02)}
    check(decoder_models.TitanQwen(), recipes.moe(router_std=0.1), dict(promises))


def test_deepseek_v3() -> None:
    start = {"*norm.weight": ONE, "*expert_bias_E": ZERO, "*tokens_per_expert_E": ZERO}
    model = decoder_models.TitanDeepSeek
    check(model(), recipes.deepseek_v3(), {**start, "*": normal(0.006)})
    hugging = recipes.deepseek_v3(variant="transformers")
    check(model(), hugging, {**start, "*": normal(0.02)})
    promises = {
        **start,
        "tok_embeddings.weight": normal(1.0),
        "lm_head.weight": TITAN_HEAD,
        "*.w*_[ab].weight": TruncNormal(0.02),
        "*.w1.weight": TruncNormal(0.02),
        "*.w1_EFD": TruncNormal(0.02),
        "*": by_block,
    }
    check(model(), recipes.deepseek_v3(variant="torchtitan"), promises)


def test_gpt_oss() -> None:
    start, model = {"*norm.weight": ONE}, decoder_models.TitanGptOss
    promises = {
        **start,
        "*.router.gate.bias": normal(0.02),
        "*bias*": ZERO,
        "*": normal(0.02),
    }
    check(model(), recipes.gpt_oss(), dict(promises))
    titan = {
        **start,
        "*.bias": ZERO,
        "tok_embeddings.weight": normal(0.02),
        "lm_head.weight": TITAN_HEAD,
        "*": by_block,
    }
    check(model(), recipes.gpt_oss(variant="torchtitan"), titan)


def test_modernbert() -> None:
    def at_two(std: float) -> TruncNormal:
        return TruncNormal(std, -2 * std, 2 * std)

    output = at_two(0.02 / math.sqrt(6))
    promises = {
        "*norm.weight": ONE,
        "*.bias": ZERO,
        "*.Wo.weight": output,
        "head.dense.weight": output,
        "decoder.weight": output,
        "*": at_two(0.02),
    }
    check(decoder_models.modern_bert(), recipes.modernbert(), dict(promises))
    promises["decoder.weight"] = at_two(1 / 16)
    original = recipes.modernbert(variant="original")
    check(decoder_models.modern_bert(), original, dict(promises))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("olmo2", {"variant": "mitchell"}),
        ("olmo2", {"std": 0.0}),
        ("olmo2", {"layers": 0}),
        ("qwen3", {"variant": "sparse"}),
        ("gemma", {"std": -1.0}),
        ("moe", {"router_std": 0.0}),
        ("deepseek_v3", {"variant": "v2"}),
        ("gpt_oss", {"std": math.inf}),
        ("modernbert", {"cutoff": 0.0}),
        ("modded_nanogpt", {"layers": 0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"initstats.{name}: expected {next(iter(options))}"):
        getattr(recipes, name)(**options)
