"""Recipes of images against transformers' own modules, and references in small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import image_models
from image_models import WIDTH
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.recipes import Recipe
from recipe_checks import (
    Made,
    accepts_but_for,
    accepts_reference,
    initialises,
    of_transformers,
    rejects,
)

ORIGINALS: dict[str, tuple[Callable[[], Any], Recipe]] = {
    "swin": (image_models.Swin, recipes.swin()),
    "swin_v2": (image_models.SwinV2, recipes.swin_v2()),
    "dinov2": (image_models.Dino, recipes.dinov2()),
    "dinov3": (lambda: image_models.Dino(third=True), recipes.dinov2(variant="dinov3")),
    "mae": (image_models.Mae, recipes.mae()),
    "convnextv2": (image_models.ConvNextV2, recipes.convnextv2()),
}
IMAGES = {"image_size": 32, "patch_size": 8}
LAYERS = {
    "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
STAGES = {
    "embed_dim": 128, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 32,
    "patch_size": 2, "use_absolute_embeddings": True,
}  # fmt: skip
DECODER = {
    "decoder_hidden_size": 256, "decoder_intermediate_size": 320, "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
}  # fmt: skip
DINO = {**LAYERS, **IMAGES, "mlp_ratio": 2}
TRANSFORMERS: dict[str, Made] = {
    "swin": (
        "SwinForImageClassification", "SwinConfig", STAGES, recipes.swin(variant="transformers"),
    ),
    "swin, masked": (
        "SwinForMaskedImageModeling", "SwinConfig", STAGES, recipes.swin(variant="transformers"),
    ),
    "swin_v2": (
        "Swinv2ForImageClassification",
        "Swinv2Config",
        STAGES,
        recipes.swin_v2(variant="transformers"),
    ),
    "dinov2": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        DINO,
        recipes.dinov2(variant="transformers"),
    ),
    "dinov2, gated, registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**DINO, "use_swiglu_ffn": True, "layerscale_value": 0.1},
        recipes.dinov2(variant="transformers", layer_scale=0.1),
    ),
    "mae": (
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {**LAYERS, **IMAGES, **DECODER},
        recipes.mae(variant="transformers"),
    ),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"num_stages": 2, "hidden_sizes": [64, 256], "depths": [1, 1]},
        recipes.convnextv2(),
    ),
}  # fmt: skip
# Left 0 by transformers 5.24, whose own initialisation of them is skipped: the module that holds
# them believes that it was loaded from a checkpoint.
LOST = {
    "mae": {
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        "decoder.mask_token",
        "decoder.decoder_pos_embed",
    }
}


def build(name: str) -> Callable[[], nn.Module]:
    return of_transformers(TRANSFORMERS[name])


@pytest.mark.parametrize("name", ORIGINALS)
def test_what_the_reference_writes_is_accepted_and_3_percent_are_not(name: str) -> None:
    accepts_reference(*ORIGINALS[name])


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_reference_in_small_from_meta(name: str) -> None:
    make, recipe = ORIGINALS[name]
    initialises(make, recipe, seeds=1)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_own_initialisation_is_accepted_and_3_percent_are_not(name: str) -> None:
    accepts_but_for(build(name), TRANSFORMERS[name][-1], LOST.get(name, set()))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_init_writes_into_transformers_models_from_meta(name: str) -> None:
    initialises(build(name), TRANSFORMERS[name][-1], seeds=1)


def test_layer_scale_that_was_reset_to_1_or_left_unwritten_is_found() -> None:
    # timm#2605: reset_parameters wrote 1, the value that was asked for was ignored.
    model = image_models.Dino()
    model.init_weights()
    rejects(model, "dinov2", "*.gamma", lambda x: x.fill_(1.0))
    # dinov2#476: built on the meta device, to_empty; init_values was never written.
    rejects(model, "dinov2", "*.gamma", lambda x: x.fill_(0.0))
    with torch.device("meta"):
        unwritten = image_models.Dino()
    init_(unwritten, "dinov2", seed=0, device="cpu")
    assert all((block["ls1"].gamma == 1e-5).all() for block in unwritten.blocks)


def test_blocks_of_the_second_swin_that_do_not_start_as_the_identity_are_found() -> None:
    model = image_models.SwinV2()
    model.init_weights()
    rejects(model, "swin_v2", "*.norm2.weight", lambda x: x.fill_(1.0))
    rejects(model, "swin_v2", "*.logit_scale", lambda x: x.fill_(0.0))


def test_tables_and_masks_with_one_wrong_value_are_found() -> None:
    model = image_models.Mae()
    model.init_weights()
    rejects(model, "mae", "decoder_pos_embed", lambda x: x[0, 3, 5].add_(0.01))
    rejects(model, "mae", "pos_embed", lambda x: x.copy_(x.roll(WIDTH // 2, -1)))  # rows first
    third = image_models.Dino(third=True)
    third.init_weights()
    rejects(third, recipes.dinov2(variant="dinov3"), "*.bias_mask", lambda x: x.fill_(1.0))


def test_swapped_fans_of_the_patch_convolution_are_found() -> None:
    model = image_models.Mae()
    model.init_weights()
    rejects(model, "mae", "patch_embed.proj.weight", nn.init.xavier_uniform_)
