"""Recipes of contrastive models against transformers' own modules, and references in small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import contrastive_models
from contrastive_models import WIDTH
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.recipes import Recipe
from initstats.verification.verifier import verify
from recipe_checks import (
    Made,
    accepts_but_for,
    accepts_reference,
    initialises,
    of_transformers,
    rejects,
)

ORIGINALS: dict[str, tuple[Callable[[], Any], Recipe]] = {
    "clip": (contrastive_models.Clip, recipes.clip()),
    "clip, resnet": (lambda: contrastive_models.Clip(resnet=True), recipes.clip()),
    "siglip": (contrastive_models.SigLip, recipes.siglip()),
}
LAYERS = {
    "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
TEXT = {
    **LAYERS, "vocab_size": 300, "max_position_embeddings": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "projection_size": 256,
}  # fmt: skip
# Towers of different depth.
VISION = {**LAYERS, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
BOTH = {"text_config": TEXT, "vision_config": VISION}
TRANSFORMERS: dict[str, Made] = {
    "clip": ("CLIPModel", "CLIPConfig", BOTH, recipes.clip(variant="transformers")),
    "clip, classifier": (
        "CLIPForImageClassification", "CLIPConfig", BOTH, recipes.clip(variant="transformers"),
    ),
    "clip, image": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        VISION,
        recipes.clip(variant="transformers"),
    ),
    "siglip": ("SiglipModel", "SiglipConfig", BOTH, recipes.siglip(variant="transformers")),
    "siglip, classifier": (
        "SiglipForImageClassification",
        "SiglipConfig",
        BOTH,
        recipes.siglip(variant="transformers"),
    ),
}  # fmt: skip
# transformers leaves both 0; SigLIP was trained from ln 10 and -10.
ZERO = {"siglip": {"logit_scale", "logit_bias"}}


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
    accepts_but_for(build(name), TRANSFORMERS[name][-1], ZERO.get(name, set()))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_init_writes_into_transformers_models_from_meta(name: str) -> None:
    initialises(build(name), TRANSFORMERS[name][-1], seeds=1)


def test_clip_of_transformers_is_not_that_of_openai_nor_the_other_way_round() -> None:
    torch.manual_seed(0)
    found = {entry.name for entry in verify(build("clip")(), recipes.clip()).failures}
    layer = "text_model.encoder.layers.0.self_attn"
    assert {f"{layer}.q_proj.weight", f"{layer}.out_proj.weight"} <= found
    assert "logit_scale" in found  # rounded to 2.6592
    assert not found & {"text_projection.weight", "visual_projection.weight"}


def test_a_logit_scale_of_1_is_found() -> None:
    # transformers#13436: logit_scale was torch.ones([]).
    model = contrastive_models.Clip()
    init_(model, "clip", seed=0)
    rejects(model, "clip", "logit_scale", lambda x: x.fill_(1.0))
    model = contrastive_models.SigLip()
    init_(model, "siglip", seed=0)
    rejects(model, "siglip", "logit_bias", lambda x: x.fill_(0.0))


def test_missing_depth_scaling_and_swapped_fans_are_found() -> None:
    torch.manual_seed(0)
    model = contrastive_models.Clip()
    model.init_weights()
    rejects(model, "clip", "transformer.*.c_proj.weight", 2.0, cause="not applied")
    rejects(model, "clip", "text_projection", (WIDTH / contrastive_models.SHARED) ** 0.5)
    rejects(model, "clip", "transformer.*.c_fc.weight", 2**0.5)
