"""Recipes of language models against transformers' own modules, and references in small."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import decoder_models
from decoder_models import LAYERS, WIDTH
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Recipe
from initstats.verification.verifier import verify
from recipe_checks import (
    Made,
    accepts,
    initialises,
    of_transformers,
    rejects,
    rejects_wrong_std,
)

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
HEAD = {"head_dim": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_intermediate_size": 128,
    "q_lora_rank": 96, "kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}  # fmt: skip
BERT = {
    "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 300, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, Made] = {
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**SIZES, **HEAD}, recipes.gemma()),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**SIZES, **HEAD}, recipes.gemma()),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**SIZES, **HEAD}, recipes.gemma()),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**SIZES, **HEAD}, recipes.qwen3()),
    "qwen3, experts": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**SIZES, **HEAD, **EXPERTS},
        recipes.qwen3(variant="transformers"),
    ),
    "gpt_neox": (
        "GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES, recipes.neox(variant="transformers"),
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {**SIZES, **HEAD, "num_local_experts": 4, "num_experts_per_tok": 2},
        recipes.gpt_oss(),
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {**SIZES, **LATENT},
        recipes.deepseek_v3(variant="transformers"),
    ),
    "olmo2": (
        "Olmo2ForCausalLM", "Olmo2Config", SIZES, recipes.olmo2(variant="transformers"),
    ),
    "olmo3": (
        "Olmo3ForCausalLM", "Olmo3Config", SIZES, recipes.olmo2(variant="transformers"),
    ),
    "mixtral": (
        "MixtralForCausalLM", "MixtralConfig", {**SIZES, "num_local_experts": 4}, recipes.moe(),
    ),
    "olmoe": (
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {**SIZES, "num_experts": 4, "num_experts_per_tok": 2},
        recipes.moe(),
    ),
    "glm4, experts": (
        "Glm4MoeForCausalLM",
        "Glm4MoeConfig",
        {**SIZES, **HEAD, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 128, "first_k_dense_replace": 1},
        recipes.moe(),
    ),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", BERT, recipes.modernbert()),
    "modernbert, classifier": (
        "ModernBertForSequenceClassification", "ModernBertConfig", BERT, recipes.modernbert(),
    ),
    "modernbert, untied": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**BERT, "tie_word_embeddings": False},
        recipes.modernbert(),
    ),
}  # fmt: skip


def build(name: str) -> Callable[[], nn.Module]:
    return of_transformers(MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_transformers_own_initialisation_is_accepted_and_3_percent_are_not(name: str) -> None:
    torch.manual_seed(0)
    model, recipe = build(name)(), MODELS[name][-1]
    # ModernBERT of transformers draws its padding row, too; other code keeps it 0.
    accepts(model, recipe, ignore={"padding"} if name.startswith("modernbert") else ())
    rejects_wrong_std(model, recipe)


@pytest.mark.parametrize("name", MODELS)
def test_what_init_writes_from_meta_is_what_verify_accepts(name: str) -> None:
    initialises(build(name), MODELS[name][-1], seeds=1)


FAMILIES = (
    "arcee", "cohere2", "deepseek_v2", "ernie4_5", "ernie4_5_moe", "exaone4", "flex_olmo",
    "gemma4_text", "glm4", "granite", "granitemoe", "helium", "hunyuan_v1_moe", "llama4_text",
    "longcat_flash", "minimax_m2", "mistral", "phi3", "phimoe", "qwen2", "qwen2_moe", "seed_oss",
    "smollm3", "stablelm", "vaultgemma",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_other_decoders_of_transformers_keep_the_promises_of_moe_and_gemma(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 120, "head_dim": 16,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_experts": 4,
        "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "topk_group": 1,
        "first_k_dense_replace": 1, "moe_num_experts": 4, "moe_k": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **small)
    model = transformers.AutoModelForCausalLM.from_config(config)
    recipe = "gemma" if "gemma" in family else "moe"
    assert plan(model, recipe).unmatched == ()
    accepts(model, recipe)


TITAN = recipes.deepseek_v3(variant="torchtitan"), recipes.gpt_oss(variant="torchtitan")
SMALL: dict[str, tuple[Callable[[], Any], Recipe, dict[str, str]]] = {
    "nanochat": (decoder_models.NanoChat, recipes.nanochat(), {}),
    "modded_nanogpt": (decoder_models.ModdedNanoGPT, recipes.modded_nanogpt(), {}),
    "olmo2": (decoder_models.Olmo, recipes.olmo2(), {"method": "normal"}),
    "olmo2, llama": (
        decoder_models.Olmo, recipes.olmo2(variant="llama"), {"method": "llama"},
    ),
    "olmo2, llama_depth": (
        decoder_models.Olmo, recipes.olmo2(variant="llama_depth"), {"method": "llama_depth"},
    ),
    "deepseek_v3": (decoder_models.TitanDeepSeek, TITAN[0], {}),
    "gpt_oss": (decoder_models.TitanGptOss, TITAN[1], {}),
    "qwen3": (decoder_models.TitanQwen, recipes.qwen3(variant="moe"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_the_reference_in_small_is_accepted_and_3_percent_are_not(name: str) -> None:
    make, recipe, options = SMALL[name]
    torch.manual_seed(1)
    model = make()
    model.init_weights(**options)
    accepts(model, recipe)
    rejects_wrong_std(model, recipe)
    # The mixing biases of modded-nanogpt are kept, so that they cannot be on meta.
    initialises(make, recipe, seeds=1, meta=name != "modded_nanogpt")


@pytest.mark.parametrize(
    ("name", "pattern", "factor"),
    [
        ("olmo2, llama", "*.attention.w_out.weight", (2 * LAYERS) ** 0.5),
        ("olmo2, llama_depth", "blocks.1.feed_forward.w2.weight", 2.0),
        ("deepseek_v3", "layers.1.attention.wo.weight", 2.0),
        ("deepseek_v3", "layers.1.moe.router.gate.weight", 2.0),
        ("deepseek_v3", "layers.1.moe.*.w3_EFD", 2.0),
        ("gpt_oss", "layers.1.attention.wo.weight", 2.0),
        ("gpt_oss", "layers.1.moe.*mlp2_weight_EDF", 2.0),
        ("qwen3", "*.attention.wo.weight", (2 * LAYERS) ** 0.5),
        ("qwen3", "*w2_EDF", (2 * LAYERS) ** 0.5),
    ],
)
def test_a_missing_scaling_with_depth_is_found(name: str, pattern: str, factor: float) -> None:
    make, recipe, _ = SMALL[name]
    model = make()
    init_(model, recipe, seed=0)
    rejects(model, recipe, pattern, factor)


def test_fan_in_of_olmo_tells_swapped_fans() -> None:
    recipe = recipes.olmo2(variant="fan_in", embed_scale=2.0)
    model = decoder_models.Olmo()
    del model.blocks[str(LAYERS - 1)]  # stacked experts hide the fans of one
    init_(model, recipe, seed=0)
    accepts(model, recipe)
    swapped = (decoder_models.HIDDEN / WIDTH) ** 0.5
    for entry in rejects(model, recipe, "*.feed_forward.w2.weight", swapped):
        assert "swapped" in entry.cause, entry.cause
    assert float(model.embeddings.weight.detach().std()) == pytest.approx(0.5, rel=0.02)


def test_a_missing_scaling_of_modernbert_is_found_and_named() -> None:
    name = "modernbert"
    model, recipe = build(name)(), MODELS[name][-1]
    init_(model, recipe, seed=0)
    found = rejects(model, recipe, "*.Wo.weight", 6**0.5)
    assert all("not applied" in entry.cause for entry in found)
    three = recipes.modernbert(cutoff=3.0)
    report = verify(model, three)
    assert not report.ok
    original = build("modernbert, untied")()
    init_(original, recipes.modernbert(variant="original"), seed=0)
    assert float(original.decoder.weight.detach().std()) == pytest.approx(
        0.8796 * 256**-0.5, rel=0.02
    )


def test_modded_nanogpt_from_meta_and_with_its_options() -> None:
    with torch.device("meta"):
        model = decoder_models.ModdedNanoGPT()
    with pytest.raises(ValueError, match="mudd_b2"):
        init_(model, "modded_nanogpt", seed=0, device="cpu")
    model = decoder_models.ModdedNanoGPT()
    del model.num_heads
    with pytest.raises(ValueError, match="num_heads"):
        plan(model, "modded_nanogpt")
    init_(model, recipes.modded_nanogpt(layers=4, heads=4), seed=0)
    assert torch.equal(model.embed.weight, model.lm_head.weight.T)
    assert not model.qk_bank[16:].any()
    with pytest.raises(ValueError, match="at most 18 matrices"):
        plan(model, recipes.modded_nanogpt(layers=9, heads=4))
    with pytest.raises(ValueError, match="expected heads >= 1"):
        recipes.modded_nanogpt(heads=0)


@pytest.mark.parametrize("variant", ["paper", "transformers", "torchtitan"])
def test_deepseek_has_the_std_of_its_variant(variant: str) -> None:
    model = build("deepseek_v3")()
    init_(model, recipes.deepseek_v3(variant=variant), seed=0)
    std = float(model.model.layers[0].self_attn.q_a_proj.weight.detach().std())
    assert std == pytest.approx(0.006 if variant == "paper" else 0.02, rel=0.03)


# ---- reports of bugs, each as a model that has it


def test_gemmas_norms_are_0_and_a_norm_of_1_is_found() -> None:
    """transformers#40224: norms used as 1 + weight were initialised with 1."""
    model = build("gemma3")()
    rejects(model, "gemma", "*norm.weight", lambda x: x.fill_(1.0))
    init_(model, "llama", seed=0)  # also by a recipe of another family
    assert not any(p.any() for n, p in model.named_parameters() if n.endswith("norm.weight"))


def test_a_plain_norm_of_0_is_found() -> None:
    """torchtitan#4489: norms without a centre of 1 were zeroed."""
    rejects(build("qwen3")(), "qwen3", "*norm.weight", lambda x: x.zero_())


def garbage(x: Tensor) -> None:
    x.copy_(torch.full_like(x, 1e20))


@pytest.mark.parametrize(
    "pattern",
    [
        "*.router.bias",  # torchtitan#2450
        "*experts.gate_up_proj_bias",  # Automodel#3920
        "*experts.down_proj_bias",
        "*.sinks",  # tt-xla#5912
    ],
)
def test_what_was_left_unwritten_in_gpt_oss_is_found_and_written(pattern: str) -> None:
    model = build("gpt_oss")()
    rejects(model, "gpt_oss", pattern, garbage)
    with torch.no_grad():
        for parameter in model.parameters():
            garbage(parameter)
    init_(model, "gpt_oss", seed=0)
    accepts(model, "gpt_oss")


@pytest.mark.parametrize("recipe", ["gpt_oss", "moe", "llama"])
def test_biases_of_experts_are_biases_and_0(recipe: str) -> None:
    planned = {e.name: str(e.distribution) for e in plan(build("gpt_oss")(), recipe)}
    assert planned["model.layers.0.mlp.experts.gate_up_proj_bias"] == "0"
    assert planned["model.layers.0.mlp.experts.down_proj_bias"] == "0"


@pytest.mark.parametrize("recipe", ["moe", "llama"])
def test_sinks_are_taken_by_the_recipe_that_names_them_alone(recipe: str) -> None:
    planned = plan(build("gpt_oss")(), recipe)
    assert [name.rpartition(".")[2] for name in planned.unmatched] == ["sinks", "sinks"]


def test_correction_biases_and_embedding_factors_need_no_maker_on_meta() -> None:
    for name, buffer in (
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("gemma3", "model.embed_tokens.embed_scale"),
    ):
        with torch.device("meta"):
            model = build(name)()
        init_(model, MODELS[name][-1], seed=0, device="cpu")
        value = model.get_buffer(buffer)
        assert torch.equal(value, torch.full_like(value, 16.0 if name == "gemma3" else 0.0))
        spoilt = copy.deepcopy(model)
        spoilt.get_buffer(buffer).fill_(3.0)
        (failure,) = verify(spoilt, MODELS[name][-1]).failures
        assert failure.name == buffer


def test_routers_are_apart_from_experts() -> None:
    planned = {e.name: e for e in plan(build("mixtral")(), recipes.moe(router_std=0.1))}
    assert planned["model.layers.0.mlp.gate.weight"].distribution.std == 0.1
    assert planned["model.layers.0.mlp.experts.down_proj"].distribution.std == 0.02
    assert planned["model.layers.0.mlp.experts.down_proj"].slot.fans == (320, 256)
