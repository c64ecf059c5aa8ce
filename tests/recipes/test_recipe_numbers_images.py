"""The numbers of Swin, DINO, MAE and ConvNeXt 2, written out from their sources."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import image_models
from image_models import HIDDEN, WIDTH
from initstats import recipes
from initstats.planning.planner import plan
from initstats.recipes import Computed, Constant, Kept, TruncNormal
from promises import ONE, ZERO, check, glorot, normal, planned, uniform

TN = TruncNormal(0.02, -2, 2)
PATCHES = uniform(1 / math.sqrt(3 * 8 * 8))  # torch's own, weight and bias
TABLE = Computed("sincos_2d", (1, 17, WIDTH), {"prefix": 1})


def test_swin() -> None:
    promises = {
        "patch_embed.proj*": PATCHES,
        "*norm*.weight": ONE,
        "*.bias": ZERO,
        "*": TN,  # tables of relative positions too
    }
    check(image_models.Swin(), recipes.swin(), promises)
    promises = {
        "*norm*.weight": ONE,
        "*.bias": ZERO,
        "*relative_position_bias_table": ZERO,
        "absolute_pos_embed": ZERO,
        "mask_token": ZERO,
        "*": normal(0.02),
    }
    check(image_models.Swin(), recipes.swin(variant="transformers"), promises)


def test_swin_v2() -> None:
    promises = {
        "*logit_scale": Constant(math.log(10)),
        "*.norm1.*": ZERO,
        "*.norm2.*": ZERO,
        "patch_embed.proj*": PATCHES,
        "*norm.weight": ONE,
        "*bias": ZERO,
        "*": TN,
    }
    check(image_models.SwinV2(), recipes.swin_v2(), promises)
    planned_ = planned(image_models.SwinV2(), recipes.swin_v2(variant="transformers"))
    assert planned_["layers.0.blocks.0.norm1.weight"].distribution == ONE
    assert planned_["layers.0.blocks.0.attn.cpb_mlp.0.weight"].distribution == normal(0.02)


def test_dinov2() -> None:
    promises = {
        "patch_embed.proj*": PATCHES,
        "*.norm?.weight": ONE,
        "norm.weight": ONE,
        "*.ls?.gamma": Constant(1e-5),
        "*.bias": ZERO,
        "mask_token": ZERO,
        "cls_token": normal(1e-6),
        "register_tokens": normal(1e-6),
        "*": TN,
    }
    check(image_models.Dino(), recipes.dinov2(), promises)


def test_dinov3() -> None:
    promises = {
        "*.bias_mask": Computed("mask_of_key_bias", (3 * WIDTH,)),
        "patch_embed.proj*": PATCHES,
        "*.norm?.weight": ONE,
        "norm.weight": ONE,
        "*.ls?.gamma": Constant(1e-4),
        "*.bias": ZERO,
        "mask_token": ZERO,
        "cls_token": normal(0.02),
        "storage_tokens": normal(0.02),
        "*": TN,
    }
    recipe = recipes.dinov2(variant="dinov3", layer_scale=1e-4)
    check(image_models.Dino(third=True), recipe, promises)


def test_dinov3_of_timm_divides_by_depth() -> None:
    recipe = recipes.dinov2(variant="dinov3_timm")
    promised = {e.name: e.distribution for e in plan(image_models.Dino(third=True), recipe)}
    original = recipes.dinov2(variant="dinov3")
    before = {e.name: e.distribution for e in plan(image_models.Dino(third=True), original)}
    fill = TruncNormal(0.02)
    differing = {name for name in promised if promised[name] != before[name]}
    assert promised["cls_token"] == fill
    for block in (0, 1):
        for layer in ("attn.proj", "mlp.fc2"):
            name = f"blocks.{block}.{layer}.weight"
            assert promised[name] == fill.scaled((2 * (block + 1)) ** -0.5)
            differing.remove(name)
    assert all("token" in name for name in differing)
    model = nn.Module()
    model.head = nn.Linear(64, 10, bias=False)
    (of_head,) = plan(model, recipe)
    assert of_head.distribution == fill.scaled(0.001)


def test_dinov2_of_transformers() -> None:
    promises = {
        "*.norm?.weight": ONE,
        "norm.weight": ONE,
        "*.ls?.gamma": ONE,
        "*.bias": ZERO,
        "mask_token": ZERO,
        "register_tokens": ZERO,
        "*": TN,
    }
    check(image_models.Dino(), recipes.dinov2(variant="transformers"), promises)


def test_mae() -> None:
    promises = {
        "*norm*.weight": ONE,
        "patch_embed.proj.bias": uniform(1 / math.sqrt(3 * 8 * 8)),
        "*.bias": ZERO,
        "*_token": normal(0.02),
        "*pos_embed": TABLE,
        "patch_embed.proj.weight": glorot(3 * 8 * 8, WIDTH),
        "*qkv.weight": glorot(WIDTH, 3 * WIDTH),
        "*attn.proj.weight": glorot(WIDTH, WIDTH),
        "*fc?.weight": glorot(WIDTH, HIDDEN),
        "decoder_embed.weight": glorot(WIDTH, WIDTH),
        "decoder_pred.weight": glorot(WIDTH, 8 * 8 * 3),
    }
    check(image_models.Mae(), recipes.mae(), promises)
    promises = {
        "*norm*.weight": ONE,
        "*.bias": ZERO,
        "*pos_embed": Kept("fixed positions"),
        "*": normal(0.02),
    }
    check(image_models.Mae(), recipes.mae(variant="transformers", positions=False), promises)


def test_mae_refuses_a_grid_that_is_no_square() -> None:
    model = image_models.Mae()
    model.pos_embed = nn.Parameter(torch.zeros(1, 33, WIDTH), requires_grad=False)
    with pytest.raises(ValueError, match=r"square grid .* 32 \+ 1 in pos_embed; .*positions=False"):
        plan(model, "mae")


def test_convnextv2() -> None:
    promises = {
        "*grn.*": ZERO,
        "*norm.weight": ONE,
        "downsample_layers.0.1.weight": ONE,
        "*bias": ZERO,
        "head.weight": TruncNormal(0.01, -1, 1),
        "*": TN,
    }
    check(image_models.ConvNextV2(), recipes.convnextv2(head_scale=0.5), promises)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin", {"std": 0.0}),
        ("dinov2", {"layer_scale": -1.0}),
        ("convnextv2", {"head_scale": 0.0}),
    ],
)
def test_numbers_that_are_not_positive_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"initstats\.{name}: expected .* > 0"):
        recipes.by_name(f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})")


@pytest.mark.parametrize(("variant", "std"), [("dinov2", 1e-6), ("dinov3", 0.02)])
def test_register_tokens_have_the_name_of_timm_too(variant: str, std: float) -> None:
    model = nn.Module()
    model.cls_token = nn.Parameter(torch.empty(1, 1, 64))
    model.reg_token = nn.Parameter(torch.empty(1, 4, 64))
    found = {e.name: e.distribution for e in plan(model, recipes.dinov2(variant=variant))}
    assert found == dict.fromkeys(("cls_token", "reg_token"), normal(std))
