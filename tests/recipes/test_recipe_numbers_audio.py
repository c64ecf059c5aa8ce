"""The numbers of Whisper and wav2vec 2.0, written out from their sources."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import audio_models
from audio_models import GROUPS, LAYERS, TAPS, WIDTH
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.recipes import Computed, Constant, Derived, Uniform
from named_models import Tree
from promises import ONE, ZERO, check, normal, uniform

UNIT = Uniform(0, 1)


def test_whisper() -> None:
    promises = {
        "*norm.weight": ONE,
        "*bias": ZERO,
        "encoder.embed_positions.weight": Computed("sincos", (30, WIDTH), {"spacing": "closed"}),
        "layer_weights": Constant(1 / (LAYERS + 1)),
        "*": normal(0.02),
    }
    check(audio_models.Whisper(), recipes.whisper(), promises)


def test_the_table_of_whisper_may_be_a_buffer() -> None:
    encoder = Tree(conv1=nn.Conv1d(80, WIDTH, 3))
    encoder.register_buffer("positional_embedding", torch.empty(30, WIDTH))
    init_(Tree(encoder=encoder), "whisper", seed=0)
    table, frequency = encoder.positional_embedding, 10000 ** (-1 / 127)
    assert table[7, 1].item() == pytest.approx(math.sin(7 * frequency), rel=1e-6)
    assert table[7, -1].item() == pytest.approx(math.cos(7e-4), rel=1e-6)


def test_wav2vec2() -> None:
    position = "encoder.pos_conv_embed.conv"
    promises = {
        "*norm.weight": ONE,
        "*norm.bias": ZERO,
        f"{position}.bias": ZERO,
        f"{position}*original0": Derived(
            "tap norms", f"{position}.parametrizations.weight.original1"
        ),
        f"{position}*original1": normal(2 / math.sqrt(TAPS * WIDTH)),
        "*conv_layers.0.conv.weight": normal(math.sqrt(2 / 10)),
        "*conv_layers.0.conv.bias": uniform(10**-0.5),
        "*conv_layers.1.conv.weight": normal(math.sqrt(2 / 480)),
        "*conv_layers.1.conv.bias": uniform(480**-0.5),
        "feature_projection*": uniform(160**-0.5),
        "project_hid*": uniform(WIDTH**-0.5),
        "project_q*": uniform(64**-0.5),
        "quantizer.codevectors": UNIT,
        "masked_spec_embed": UNIT,
        "quantizer.weight_proj.weight": normal(1.0),
        "*bias": ZERO,
        "*": normal(0.02),
    }
    check(audio_models.Wav2Vec2(), recipes.wav2vec2(), promises)
    assert GROUPS > 1  # the groups are no part of the standard deviation


def test_the_weight_that_wav2vec2_computes_is_what_was_drawn() -> None:
    model = audio_models.Wav2Vec2()
    init_(model, "wav2vec2", seed=0)
    conv = model.encoder["pos_conv_embed"]["conv"]
    torch.testing.assert_close(conv.weight, conv.parametrizations.weight.original1)


def test_the_older_form_of_weight_norm() -> None:
    conv = Tree(weight_g=torch.empty(1, 1, TAPS), weight_v=torch.empty(64, 16, TAPS))
    init_(Tree(pos_conv=Tree(conv=conv)), "wav2vec2", seed=0)
    torch.testing.assert_close(conv.weight_g, conv.weight_v.norm(dim=(0, 1), keepdim=True))
