"""The numbers of ADM, EDM, Flux and StyleGAN 2, written out from their sources."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import generator_models
from generator_models import HIDDEN, WIDTH
from initstats import recipes
from initstats.recipes import Recipe, Uniform
from promises import ONE, ZERO, check, glorot, normal, uniform
from recipe_checks import initialises, rejects, rejects_wrong_std

ROOT = WIDTH**-0.5


def shrunk(inputs: int, outputs: int, gain: float) -> Uniform:
    return uniform(gain * math.sqrt(6 / (inputs + outputs)))


def test_adm_unet() -> None:
    promises = {
        "*out_layers.3.*": ZERO,
        "*proj_out.*": ZERO,
        "out.2.*": ZERO,
        "out.0.weight": ONE,
        "*.in_layers.0.weight": ONE,
        "*.out_layers.0.weight": ONE,
        "*.norm.weight": ONE,
        "out.0.bias": ZERO,
        "*_layers.0.bias": ZERO,
        "*.norm.bias": ZERO,
        "label_emb.weight": normal(1.0),
        "time_embed.0.*": uniform(1 / 8),
        "input_blocks.0.0.*": uniform(27**-0.5),
        "*in_layers.2.*": uniform((9 * WIDTH) ** -0.5),
        "*": uniform(ROOT),
    }
    check(generator_models.adm_unet(), recipes.adm_unet(), promises)


def test_edm() -> None:
    promises = {
        "*norm?.weight": ONE,
        "out_norm.weight": ONE,
        "*bias": ZERO,
        "*.conv0.weight": glorot(9 * WIDTH, 9 * WIDTH),
        "*.conv1.weight": shrunk(9 * WIDTH, 9 * WIDTH, 1e-5),
        "*.qkv.weight": shrunk(WIDTH, 3 * WIDTH, math.sqrt(0.2)),
        "*.proj.weight": shrunk(WIDTH, WIDTH, 1e-5),
        "out_conv.weight": shrunk(9 * WIDTH, 27, 1e-5),
        "enc.32x32_conv.weight": glorot(27, 9 * WIDTH),
        "map_label.weight": glorot(300, WIDTH),
        "map_augment.weight": glorot(9, WIDTH),
        "*": glorot(WIDTH, WIDTH),
    }
    check(generator_models.edm_unet(), recipes.edm(), promises)


def test_edm_adm() -> None:
    promises = {
        "*norm?.weight": ONE,
        "out_norm.weight": ONE,
        "*norm*.bias": ZERO,
        "*.conv1.*": ZERO,
        "*.proj.*": ZERO,
        "out_conv.*": ZERO,
        "map_augment.weight": ZERO,
        "map_label.weight": normal(1.0),
        "*.conv0.*": uniform((9 * WIDTH) ** -0.5),
        "enc.32x32_conv.*": uniform(27**-0.5),
        "*": uniform(ROOT),
    }
    check(generator_models.edm_unet(), recipes.edm(variant="adm"), promises)


def test_flux() -> None:
    promises = {
        "*_norm.weight": ONE,
        "*_mod.lin*": ZERO,
        "*.modulation.lin*": ZERO,
        "final_layer*": ZERO,
        "*bias": ZERO,
        "time_in*": normal(0.02),
        "vector_in*": normal(0.02),
        "img_in.weight": glorot(64, WIDTH),
        "txt_in.weight": glorot(128, WIDTH),
        "*qkv.weight": glorot(WIDTH, 3 * WIDTH),
        "*attn.proj.weight": glorot(WIDTH, WIDTH),
        "*_mlp*": glorot(WIDTH, HIDDEN),
        "*linear1.weight": glorot(WIDTH, 3 * WIDTH + HIDDEN),
        "*linear2.weight": glorot(WIDTH, WIDTH + HIDDEN),
    }
    check(generator_models.flux(), recipes.flux(), promises)


def test_stylegan2() -> None:
    promises = {
        "*.affine.bias": ONE,
        "*noise_strength": ZERO,
        "*w_avg": ZERO,
        "*bias": ZERO,
        "mapping.fc?.weight": normal(100.0),
        "*": normal(1.0),
    }
    check(generator_models.stylegan2(), recipes.stylegan2(), promises)


@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        (generator_models.adm_unet, recipes.adm_unet()),
        (generator_models.edm_unet, recipes.edm()),
        (generator_models.edm_unet, recipes.edm(variant="adm")),
        (generator_models.flux, recipes.flux()),
        (generator_models.stylegan2, recipes.stylegan2()),
    ],
)
def test_from_meta_and_3_percent(make: Callable[[], nn.Module], recipe: Recipe) -> None:
    rejects_wrong_std(initialises(make, recipe, seeds=1), recipe)


def test_the_default_of_torch_without_the_zeros_is_found() -> None:
    torch.manual_seed(0)
    model = initialises(generator_models.adm_unet, "adm_unet", seeds=1)
    rejects(model, "adm_unet", "*out_layers.3.weight", lambda x: nn.init.normal_(x, std=0.02))
