"""The numbers of the recipes for images, written out from their sources."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import named_models
from initstats import recipes
from initstats.planning.planner import plan
from initstats.recipes import (
    Constant,
    Kept,
    TruncNormal,
)
from named_models import HIDDEN, Tree
from promises import (
    ONE,
    ZERO,
    D,
    check,
    glorot,
    normal,
    planned,
    uniform,
)
from recipe_checks import accepts

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


def test_efficientnet_of_torchvision_does_not_count_groups() -> None:
    recipe = recipes.efficientnet(variant="torchvision")
    found = {e.name: e.distribution for e in plan(named_models.efficientnet(), recipe)}
    of_timm = {e.name: e.distribution for e in plan(named_models.efficientnet(), "efficientnet")}
    differing = {name for name in found if found[name] != of_timm[name]}
    assert differing == {"blocks.0.conv_dw.weight"}
    assert found["blocks.0.conv_dw.weight"] == normal(math.sqrt(2 / (9 * 32)))


def test_weights_of_torchvision_and_timm_are_as_promised() -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    torch.manual_seed(0)
    accepts(torchvision.models.efficientnet_b0(), recipes.efficientnet(variant="torchvision"))
    accepts(timm.create_model("efficientnet_b0"), recipes.efficientnet())
    third = timm.create_model("vit_small_patch16_dinov3", depth=2, num_classes=10)
    accepts(third, recipes.dinov2(variant="dinov3_timm"))
    small = {"embed_dim": 192, "depth": 2, "num_heads": 3}
    accepts(timm.create_model("vit_base_patch16_siglip_224", **small), recipes.vit())


def test_the_latent_query_of_pooling_has_the_number_of_timm_and_in_siglip_that_of_the_probe() -> (
    None
):
    model = nn.Module()
    model.attn_pool = nn.Module()
    model.attn_pool.latent = nn.Parameter(torch.empty(1, 1, 64))
    std = 1 / 8
    (of_vit,) = plan(model, recipes.vit())
    assert of_vit.distribution == TruncNormal(std, -2 * std, 2 * std)
    (of_siglip,) = plan(model, recipes.siglip())
    assert of_siglip.distribution == uniform(math.sqrt(6 / (1 + 64)))


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
