"""No false alarm in 200 models that were initialised as they should be, over all recipes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

import adapter_models
import audio_models
import contrastive_models
import decoder_models
import generator_models
import image_models
import named_models
import network_models
import policy_models
import state_space_models
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.planning.receipt import Receipt
from initstats.recipes import Recipe
from initstats.verification.verifier import verify
from named_models import Tree, linear

MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Recipe]]] = {
    "gpt2": (named_models.nano_gpt, recipes.gpt2),
    "megatron": (named_models.megatron_gpt, recipes.megatron),
    "neox": (named_models.nano_gpt, recipes.neox),
    "olmo_mitchell": (named_models.olmo, recipes.olmo_mitchell),
    "llama": (named_models.titan_llama, recipes.llama),
    "llama_torchtitan": (named_models.titan_llama, recipes.llama_torchtitan),
    "bert": (named_models.nano_gpt, recipes.bert),
    "vit": (named_models.timm_vit, recipes.vit),
    "vit, fixed": (named_models.timm_vit, lambda: recipes.vit(fix_init=True)),
    "vit_jax": (named_models.timm_vit, lambda: recipes.vit_jax(classes=10)),
    "vit_moco": (named_models.timm_vit, recipes.vit_moco),
    "vit_transformers": (named_models.timm_vit, recipes.vit_transformers),
    "resnet": (named_models.resnet, recipes.resnet),
    "efficientnet": (named_models.efficientnet, recipes.efficientnet),
    "convnext": (named_models.convnext, recipes.convnext),
    "fixup": (lambda: named_models.resnet(norm=False), recipes.fixup),
    "lstm": (named_models.recurrent, recipes.lstm),
    "lstm, per gate": (named_models.recurrent, lambda: recipes.lstm(per_gate=True)),
    "lstm_chrono": (named_models.recurrent, recipes.lstm_chrono),
    "dit": (named_models.dit, recipes.dit),
    "lora": (lambda: named_models.LoraLinear(64, 64), recipes.lora),
    "lora, orthogonal": (
        lambda: named_models.LoraLinear(64, 64),
        lambda: recipes.lora(variant="orthogonal"),
    ),
    "rslora": (lambda: named_models.LoraLinear(64, 64), recipes.rslora),
    "dora": (adapter_models.dora, recipes.dora),
    "adalora": (adapter_models.AdaLoraLinear, recipes.adalora),
    "vera": (adapter_models.Vera, recipes.vera),
    "ia3": (adapter_models.Ia3Linear, recipes.ia3),
    "prompt": (adapter_models.prefixed, recipes.prompt),
    "prompt, vocabulary": (
        adapter_models.prompted,
        lambda: recipes.prompt(variant="vocabulary"),
    ),
    "adapter": (lambda: Tree(adapter=named_models.Adapter(64)), recipes.adapter),
    "embedding": (lambda: nn.Embedding(64, 32, padding_idx=1), recipes.embedding),
    "new_head": (named_models.timm_vit, recipes.new_head),
    "new_layers": (named_models.timm_vit, recipes.new_layers),
    "deepnet": (named_models.deep_encoder, recipes.deepnet),
    "t_fixup": (named_models.fair_transformer, recipes.t_fixup),
    "rezero": (named_models.rezero, recipes.rezero),
    "mlp": (named_models.tanh_mlp, recipes.mlp),
    "ppo": (policy_models.CleanRLAgent, recipes.ppo),
    "ddpg": (policy_models.Ddpg, recipes.ddpg),
    "dreamerv3": (policy_models.Dreamer, recipes.dreamerv3),
    "siren": (policy_models.siren, recipes.siren),
    "hash_grid": (policy_models.HashGrid, recipes.hash_grid),
    "dcgan": (policy_models.dcgan, recipes.dcgan),
    "torch_default": (named_models.recurrent, recipes.torch_default),
    "bert_transformers": (
        lambda: Tree(word_embeddings=nn.Embedding(64, 32, padding_idx=0), dense=linear(32, 64)),
        recipes.bert_transformers,
    ),
    "mup": (named_models.nano_gpt, lambda: recipes.mup(base=16)),
    "mup, torch": (named_models.titan_llama, lambda: recipes.mup(base=16, form="torch")),
    "completep": (named_models.nano_gpt, lambda: recipes.completep(base=16)),
    "u_mup": (named_models.titan_llama, recipes.u_mup),
    "spectral": (named_models.nano_gpt, recipes.spectral),
    "nanochat": (decoder_models.NanoChat, recipes.nanochat),
    "modded_nanogpt": (decoder_models.ModdedNanoGPT, recipes.modded_nanogpt),
    "olmo2": (decoder_models.Olmo, recipes.olmo2),
    "olmo2, llama": (decoder_models.Olmo, lambda: recipes.olmo2(variant="llama")),
    "deepseek_v3": (decoder_models.TitanDeepSeek, recipes.deepseek_v3),
    "deepseek_v3, torchtitan": (
        decoder_models.TitanDeepSeek,
        lambda: recipes.deepseek_v3(variant="torchtitan"),
    ),
    "gpt_oss": (decoder_models.TitanGptOss, recipes.gpt_oss),
    "gpt_oss, torchtitan": (
        decoder_models.TitanGptOss,
        lambda: recipes.gpt_oss(variant="torchtitan"),
    ),
    "qwen3": (decoder_models.TitanQwen, recipes.qwen3),
    "gemma": (decoder_models.gemma, recipes.gemma),
    "moe": (decoder_models.TitanQwen, recipes.moe),
    "modernbert": (decoder_models.modern_bert, recipes.modernbert),
    "mamba1": (state_space_models.Mamba, recipes.mamba1),
    "mamba1, transformers": (
        state_space_models.Mamba,
        lambda: recipes.mamba1(variant="transformers"),
    ),
    "mamba2": (state_space_models.mamba2, lambda: recipes.mamba2(residuals=2)),
    "mamba2, transformers": (
        state_space_models.mamba2,
        lambda: recipes.mamba2(variant="transformers"),
    ),
    "gated_deltanet": (state_space_models.GatedDeltaNet, recipes.gated_deltanet),
    "gated_deltanet, torchtitan": (
        state_space_models.TitanQwenNext,
        lambda: recipes.gated_deltanet(variant="torchtitan"),
    ),
    "rwkv7": (state_space_models.RWKV7, recipes.rwkv7),
    "rwkv4": (state_space_models.RWKV4, recipes.rwkv4),
    "decoder_transformers": (named_models.titan_llama, recipes.decoder_transformers),
    "xlstm, authors": (
        state_space_models.nx_ai_xlstm,
        lambda: recipes.xlstm(variant="nx_ai"),
    ),
    "gnn": (network_models.graph_network, recipes.gnn),
    "glow": (network_models.Glow, recipes.glow),
    "edm2": (network_models.Edm2, recipes.edm2),
    "modula": (network_models.modula_network, recipes.modula),
    "mamba3": (network_models.Mamba3, recipes.mamba3),
    "kan": (network_models.KAN, recipes.kan),
    "griffin": (state_space_models.Griffin, recipes.griffin),
    "retnet": (state_space_models.RetNet, recipes.retnet),
    "xlstm": (state_space_models.xlstm, recipes.xlstm),
    "s4d": (state_space_models.S4D, recipes.s4d),
    "swin": (image_models.Swin, recipes.swin),
    "swin_v2": (image_models.SwinV2, recipes.swin_v2),
    "dinov2": (image_models.Dino, recipes.dinov2),
    "dinov2, third": (
        lambda: image_models.Dino(third=True),
        lambda: recipes.dinov2(variant="dinov3"),
    ),
    "mae": (image_models.Mae, recipes.mae),
    "convnextv2": (image_models.ConvNextV2, recipes.convnextv2),
    "clip": (contrastive_models.Clip, recipes.clip),
    "siglip": (contrastive_models.SigLip, recipes.siglip),
    "whisper": (audio_models.Whisper, recipes.whisper),
    "wav2vec2": (audio_models.Wav2Vec2, recipes.wav2vec2),
    "adm_unet": (generator_models.adm_unet, recipes.adm_unet),
    "edm": (generator_models.edm_unet, recipes.edm),
    "edm, adm": (generator_models.edm_unet, lambda: recipes.edm(variant="adm")),
    "flux": (generator_models.flux, recipes.flux),
    "stylegan2": (generator_models.stylegan2, recipes.stylegan2),
    "t5": (
        lambda: Tree(shared=nn.Embedding(64, 32), wi=linear(32, 64, bias=False)),
        recipes.t5,
    ),
}
# 200 models in all: each model with as many seeds as it takes.
SEEDS = -(-200 // len(MODELS))


def test_every_recipe_is_among_the_healthy_models() -> None:
    made = {make().name for _, make in MODELS.values()}
    assert made == set(recipes.available())
    assert len(MODELS) * SEEDS >= 200


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_model_raises_no_alarm(name: str) -> None:
    # Chance of an alarm in all models together 200 * 1e-4 = 2 %; seeds are fixed.
    make, recipe = MODELS[name]
    model = make()
    for seed in range(SEEDS):
        init_(model, recipe(), seed=seed)
        report = verify(model, recipe())
        assert report.ok, (seed, [(entry.name, entry.problem) for entry in report.failures])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["gpt2", "olmo_mitchell", "vit_jax", "lstm", "lstm_chrono", "dit"])
def test_a_healthy_model_of_another_dtype_raises_no_alarm(name: str, dtype: torch.dtype) -> None:
    make, recipe = MODELS[name]
    model = make().to(dtype)
    init_(model, recipe(), seed=0)
    report = verify(model, recipe())
    assert report.ok, [(entry.name, entry.problem) for entry in report.failures]


@pytest.mark.parametrize("name", MODELS)
def test_a_receipt_makes_the_same_model_again(name: str) -> None:
    make, recipe = MODELS[name]
    first, second = make(), make()
    receipt = recipes_round_trip(init_(first, recipe(), seed=7))
    if not recipe().partial:
        receipt.remake_(second)
        kept = {entry for entry, values in receipt.entries.items() if values["keep"]}
        for parameter, values in first.named_parameters():
            if parameter not in kept:
                assert torch.equal(values, second.get_parameter(parameter)), parameter
    assert receipt.check(first) == {}


def recipes_round_trip(receipt: Receipt) -> Receipt:
    return Receipt.from_dict(json.loads(json.dumps(receipt.to_dict(), allow_nan=False)))
