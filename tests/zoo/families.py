"""Families of transformers by the library's own init: small configurations, random weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import nn

from zoo import data
from zoo.language import CONTEXT, causal
from zoo.specimens import Builder, Size, Specimen, Stepper

HIDDEN = 3  # the token that stands for hidden ones
RATE = Stepper(rate=3e-4)
LONG = {"max_position_embeddings": 64}


def next_token(kind: str, size: Size, **config: Any) -> Specimen:
    return causal(kind, size, **{**LONG, **config}).but(optimizer=RATE)


def masked(kind: str, size: Size, **config: Any) -> Specimen:
    """Masked language modelling: 15 % of the tokens are hidden and asked for."""
    specimen = next_token(kind, size, **config)
    tokens = specimen.batch["input_ids"]
    hidden = torch.rand(tokens.shape) < 0.15
    batch = {
        "input_ids": tokens.masked_fill(hidden, HIDDEN),
        "labels": tokens.masked_fill(~hidden, -100),
    }
    return specimen.but(batch=batch)


def _seen(kind: str, size: Size, side: int = 32, **config: Any) -> Specimen:
    torch.manual_seed(size.seed)
    family = getattr(hf, kind)
    model = family(family.config_class(image_size=side, num_labels=10, **config))
    x, labels = data.images(size.many(8), side, size.seed)
    return Specimen(model, {"pixel_values": x, "labels": labels}, optimizer=RATE)


def _stages(size: Size) -> dict[str, Any]:
    width = size.wide(16)
    return {"hidden_sizes": [width, 2 * width, 4 * width, 4 * width], "depths": [1, 1, 2, 1]}


def _patches(size: Size) -> dict[str, Any]:
    sizes = {"num_hidden_layers": size.deep(4), "num_attention_heads": 4, "patch_size": 8}
    return {"hidden_size": size.wide(64), **sizes}


def falcon(size: Size) -> Specimen:
    return next_token("FalconForCausalLM", size)


def bloom(size: Size) -> Specimen:
    return next_token("BloomForCausalLM", size, n_layer=size.deep(4), n_head=4)


def gptj(size: Size) -> Specimen:
    sizes = {"n_embd": size.wide(64), "n_layer": size.deep(4), "n_head": 4}
    return next_token("GPTJForCausalLM", size, rotary_dim=8, n_positions=64, **sizes)


def gpt_bigcode(size: Size) -> Specimen:
    sizes = {"n_embd": size.wide(64), "n_layer": size.deep(4), "n_head": 4}
    return next_token("GPTBigCodeForCausalLM", size, n_positions=64, **sizes)


def olmo2(size: Size) -> Specimen:
    """Norms behind the branches only, which start far below epsilon."""
    return next_token("Olmo2ForCausalLM", size)


def phi(size: Size) -> Specimen:
    return next_token("PhiForCausalLM", size)


def starcoder2(size: Size) -> Specimen:
    return next_token("Starcoder2ForCausalLM", size, num_key_value_heads=2)


def cohere(size: Size) -> Specimen:
    return next_token("CohereForCausalLM", size)


def granite(size: Size) -> Specimen:
    return next_token("GraniteForCausalLM", size)


def gemma2(size: Size) -> Specimen:
    return next_token("Gemma2ForCausalLM", size, num_key_value_heads=2, head_dim=16)


def qwen3(size: Size) -> Specimen:
    return next_token("Qwen3ForCausalLM", size, num_key_value_heads=2, head_dim=16)


def qwen2_moe(size: Size) -> Specimen:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    shared = {"shared_expert_intermediate_size": 64, "num_key_value_heads": 2}
    return next_token("Qwen2MoeForCausalLM", size, **experts, **shared)


def mpt(size: Size) -> Specimen:
    sizes = {"d_model": size.wide(64), "n_layers": size.deep(4), "n_heads": 4}
    return next_token("MptForCausalLM", size, **sizes)


def mamba2(size: Size) -> Specimen:
    width = size.wide(64)
    sizes = {"num_heads": 8, "head_dim": width // 4, "n_groups": 1, "chunk_size": 16}
    return next_token("Mamba2ForCausalLM", size, state_size=16, expand=2, **sizes)


def recurrent_gemma(size: Size) -> Specimen:
    sizes = {"lru_width": size.wide(64), "attention_window_size": 16}
    return next_token("RecurrentGemmaForCausalLM", size, **sizes)


def rwkv(size: Size) -> Specimen:
    """Embeddings of 1e-4 behind a norm: its epsilon is larger than their variance."""
    sizes = {"attention_hidden_size": size.wide(64), "context_length": 2 * CONTEXT}
    return next_token("RwkvForCausalLM", size, **sizes)


def albert(size: Size) -> Specimen:
    """One block, called four times."""
    return masked("AlbertForMaskedLM", size, embedding_size=32)


def electra(size: Size) -> Specimen:
    return masked("ElectraForMaskedLM", size, embedding_size=size.wide(64))


def deberta_v2(size: Size) -> Specimen:
    return masked("DebertaV2ForMaskedLM", size)


def convbert(size: Size) -> Specimen:
    return masked("ConvBertForMaskedLM", size, embedding_size=size.wide(64))


def modernbert(size: Size) -> Specimen:
    """No norm in the first block, because the embedding has one."""
    return masked("ModernBertForMaskedLM", size)


def mobilebert(size: Size) -> Specimen:
    """Norms in name only."""
    inside = {"true_hidden_size": 64, "intra_bottleneck_size": 64}
    return masked("MobileBertForMaskedLM", size, embedding_size=32, **inside)


def dinov2(size: Size) -> Specimen:
    return _seen("Dinov2ForImageClassification", size, mlp_ratio=2, **_patches(size))


def beit(size: Size) -> Specimen:
    sizes = {"intermediate_size": size.wide(128), **_patches(size)}
    return _seen("BeitForImageClassification", size, **sizes)


def convnextv2(size: Size) -> Specimen:
    """Gates that look like norms and start at 0."""
    return _seen("ConvNextV2ForImageClassification", size, 64, **_stages(size))


def regnet(size: Size) -> Specimen:
    sizes = {"embedding_size": 16, "groups_width": 8, **_stages(size)}
    return _seen("RegNetForImageClassification", size, 64, **sizes)


def pvt_v2(size: Size) -> Specimen:
    return _seen(
        "PvtV2ForImageClassification", size, 64, num_attention_heads=[1, 2, 4, 4], **_stages(size)
    )


def _heard(kind: str, size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    family = getattr(hf, kind)
    config = family.config_class(
        hidden_size=size.wide(64),
        num_hidden_layers=size.deep(3),
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 4, 2),
        conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_length=2,
        num_labels=4,
    )
    count = size.many(8)
    waves, labels = data.waves(count, 2000, size.seed, channels=1)
    batch = {"input_values": waves.squeeze(-1), "labels": labels}
    return Specimen(family(config), batch, optimizer=RATE)


def wav2vec2(size: Size) -> Specimen:
    return _heard("Wav2Vec2ForSequenceClassification", size)


def hubert(size: Size) -> Specimen:
    return _heard("HubertForSequenceClassification", size)


def patchtst(size: Size) -> Specimen:
    """Predicts eight values from 64, of three channels."""
    torch.manual_seed(size.seed)
    config = hf.PatchTSTConfig(
        num_input_channels=3,
        context_length=64,
        prediction_length=8,
        patch_length=8,
        patch_stride=8,
        d_model=size.wide(32),
        num_hidden_layers=size.deep(3),
        num_attention_heads=4,
        ffn_dim=64,
    )
    series, _ = data.waves(size.many(8), 72, size.seed, channels=3)
    batch = {"past_values": series[:, :64], "future_values": series[:, 64:]}
    return Specimen(hf.PatchTSTForPrediction(config), batch, optimizer=RATE)


MODELS: dict[str, Builder] = {
    f.__name__: f
    for f in (
        *(falcon, bloom, gptj, gpt_bigcode, olmo2, phi, starcoder2, cohere, granite, gemma2),
        *(qwen3, qwen2_moe, mpt, mamba2, recurrent_gemma, rwkv),
        *(albert, electra, deberta_v2, convbert, modernbert, mobilebert),
        *(dinov2, beit, convnextv2, regnet, pvt_v2, wav2vec2, hubert, patchtst),
    )
}

# Families of timm, which .venv does not have (it needs another torch): side of the images.
TIMM: dict[str, int] = {
    **dict.fromkeys(("resnet18", "seresnet18", "resnext26ts", "ecaresnet26t", "nf_resnet26"), 64),
    **dict.fromkeys(("regnety_002", "mobilenetv3_small_100", "ghostnet_100", "xception41"), 64),
    **dict.fromkeys(("hrnet_w18_small", "cspresnet50", "vovnet39a", "edgenext_xx_small"), 64),
    **dict.fromkeys(("tinynet_e", "dla34", "convmixer_768_32", "repvgg_a0", "densenet121"), 64),
    **dict.fromkeys(
        ("mobileone_s0", "efficientnet_lite0", "mambaout_femto", "convnextv2_atto"), 64
    ),
    **dict.fromkeys(("gmlp_ti16_224", "resmlp_12_224", "vit_tiny_patch16_224"), 224),
}


# Families of torchvision, which .venv does not have either.
TORCHVISION = ("mnasnet0_5", "shufflenet_v2_x0_5", "regnet_y_400mf", "squeezenet1_1")


def torchvision_family(name: str) -> Specimen:
    """Build a model of torchvision, with ten classes."""
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10)
    return Specimen(model, data.images(8, 64, 0), nn.functional.cross_entropy, optimizer=RATE)


def timm_family(name: str) -> Specimen:
    """Build a model of timm, with ten classes."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10)
    return Specimen(
        model, data.images(8, TIMM[name], 0), nn.functional.cross_entropy, optimizer=RATE
    )
