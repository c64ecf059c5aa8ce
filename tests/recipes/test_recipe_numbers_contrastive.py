"""The numbers of CLIP and SigLIP, written out from their sources."""

from __future__ import annotations

import math

import pytest

import contrastive_models
from contrastive_models import HIDDEN, LAYERS, SHARED, WIDTH
from initstats import recipes
from initstats.recipes import Constant, TruncNormal
from promises import ONE, ZERO, check, glorot, normal, planned, uniform

ROOT = WIDTH**-0.5
DEFAULT = uniform(ROOT)


def test_clip() -> None:
    promises = {
        "logit_scale": Constant(math.log(1 / 0.07)),
        "*ln_*.weight": ONE,
        "*ln_*.bias": ZERO,
        "*attn.in_proj_bias": ZERO,
        "*attn.out_proj.bias": ZERO,
        "*c_fc.bias": DEFAULT,
        "*c_proj.bias": uniform(HIDDEN**-0.5),
        "token_embedding.weight": normal(0.02),
        "positional_embedding": normal(0.01),
        "text_projection": normal(ROOT),
        "visual.proj": normal(ROOT),
        "visual.*_embedding": normal(ROOT),
        "visual.conv1.weight": uniform((3 * 8 * 8) ** -0.5),
        "visual.*attn.in_proj_weight": glorot(WIDTH, 3 * WIDTH),
        "visual.*attn.out_proj.weight": DEFAULT,
        "visual.*c_fc.weight": DEFAULT,
        "visual.*c_proj.weight": uniform(HIDDEN**-0.5),
        "*attn.in_proj_weight": normal(ROOT),
        "*c_fc.weight": normal((2 * WIDTH) ** -0.5),
        "*attn.out_proj.weight": normal(ROOT * (2 * LAYERS) ** -0.5),
        "*c_proj.weight": normal(ROOT * (2 * LAYERS) ** -0.5),
    }
    check(contrastive_models.Clip(), recipes.clip(), promises)


def test_clip_with_a_resnet() -> None:
    found = planned(contrastive_models.Clip(resnet=True), recipes.clip())
    promises = {
        "visual.conv1.weight": uniform(27**-0.5),
        "visual.layer1.0.bn2.weight": ONE,
        "visual.layer1.0.bn3.weight": ZERO,
        "visual.attnpool.positional_embedding": normal(ROOT),
        "visual.attnpool.k_proj.weight": normal(ROOT),
        "visual.attnpool.c_proj.weight": normal(ROOT),
        "visual.attnpool.k_proj.bias": DEFAULT,
    }
    assert {name: found[name].distribution for name in promises} == promises


def test_clip_of_transformers_swaps_input_and_output_of_attention() -> None:
    depth = ROOT * (2 * LAYERS) ** -0.5
    promises = {
        "logit_scale": Constant(2.6592),
        "*ln_*.weight": ONE,
        "*bias": ZERO,
        "*visual.proj": normal(ROOT),
        "*text_projection": normal(ROOT),
        "*class_embedding": normal(ROOT),
        "*attn.in_proj_weight": normal(depth),
        "*attn.out_proj.weight": normal(ROOT),
        "*c_fc.weight": normal((2 * WIDTH) ** -0.5),
        "*c_proj.weight": normal(depth),
        "*": normal(0.02),
    }
    check(contrastive_models.Clip(), recipes.clip(variant="transformers"), promises)
    found = planned(contrastive_models.Clip(), recipes.clip(layers=12))
    output = found["transformer.resblocks.0.attn.out_proj.weight"].distribution
    assert output.std == pytest.approx(ROOT * 24**-0.5)
    with pytest.raises(ValueError, match="expected layers >= 1"):
        recipes.clip(layers=0)


def test_siglip() -> None:
    patch = (3 * 8 * 8) ** -0.5 / 0.87962566103423978
    head = ROOT / 0.87962566103423978
    promises = {
        "logit_scale": Constant(math.log(10)),
        "logit_bias": Constant(-10.0),
        "*norm?.weight": ONE,
        "*.fc?.bias": normal(1e-6),
        "*bias": ZERO,
        "*embedding.weight": normal(ROOT),
        "text_model.head.weight": TruncNormal(head, -2 * head, 2 * head),
        "*probe": uniform(math.sqrt(6 / (1 + WIDTH))),
        "*in_proj_weight": glorot(WIDTH, WIDTH),
        "*_proj.weight": glorot(WIDTH, WIDTH),
        "*.fc?.weight": glorot(WIDTH, HIDDEN),
    }
    conv = TruncNormal(patch, -2 * patch, 2 * patch)
    promises = {"*patch_embedding.weight": conv, **promises}
    check(contrastive_models.SigLip(), recipes.siglip(), promises)


def test_siglip_of_transformers() -> None:
    promises = {
        "*patch_embedding.weight": normal((3 * 8 * 8) ** -0.5 / 0.87962566103423978),
        "logit_scale": Constant(math.log(10)),
        "logit_bias": Constant(-10.0),
        "*norm?.weight": ONE,
        "*.fc?.bias": normal(1e-6),
        "*bias": ZERO,
        "*embedding.weight": normal(ROOT),
        "text_model.head.weight": normal(ROOT / 0.87962566103423978),
        "*head.attention.out_proj.weight": normal(ROOT / 0.87962566103423978),
        "*probe": uniform(math.sqrt(3 / WIDTH)),
        "*in_proj_weight": glorot(WIDTH, 3 * WIDTH),
        "*_proj.weight": glorot(WIDTH, WIDTH),
        "*.fc?.weight": glorot(WIDTH, HIDDEN),
    }
    check(contrastive_models.SigLip(), recipes.siglip(variant="transformers"), promises)
    assert SHARED < WIDTH  # the two sides of a projection are told apart
