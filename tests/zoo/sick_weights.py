"""Faults in weights, biases and norms."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from zoo.injecting import (
    Fault,
    combined,
    everywhere,
    fault,
    filled,
    random,
    scaled,
    with_recipe,
    written,
)
from zoo.specimens import Specimen

GPT, LLAMA, VIT = "transformer.h.1.", "model.layers.2.", "vit.layers.2."
SCALE = "weight-peers activation-std activation-growth activation-scale gradient-growth"


def _same_rows(weight: Tensor) -> None:
    weight.copy_(weight[:1].expand_as(weight))


def _paired_rows(weight: Tensor) -> None:
    weight[1::2] = weight[::2]


def _same_experts(specimen: Specimen) -> Specimen:
    experts = specimen.model.get_submodule("2.experts")
    for i in (1, 2, 3):
        experts[i] = copy.deepcopy(experts[0])
    return specimen


def _same_blocks(specimen: Specimen) -> Specimen:
    """Blocks made by copying one, as torch.nn.TransformerEncoder does."""
    blocks = specimen.model.get_submodule("model.layers")
    state = blocks[0].state_dict()
    for block in blocks:
        block.load_state_dict(state)
    return specimen


def _wrong_fan(specimen: Specimen) -> Specimen:
    """One block of a residual stack widens by 8, and is filled by the wrong fan."""
    block = specimen.model.get_submodule("blocks.7")
    width = block.inner.in_features
    block.inner, block.outer = nn.Linear(width, 8 * width), nn.Linear(8 * width, width)
    nn.init.normal_(block.inner.weight, std=1 / math.sqrt(8 * width))
    nn.init.normal_(block.outer.weight, std=1 / math.sqrt(width))
    return specimen


def _twice(specimen: Specimen) -> Specimen:
    """The residual projections scaled by 1 / sqrt(2 L) a second time."""
    return everywhere(lambda p: p.div_(math.sqrt(8)), ending="c_proj.weight")(specimen)


GPT_SCALED = tuple(f"transformer.h.{i}.{part}.c_proj" for i in range(4) for part in ("attn", "mlp"))

WEIGHT_FAULTS: tuple[Fault, ...] = (
    fault("x10", "gpt2", scaled(10, GPT + "mlp.c_fc.weight"), SCALE, GPT + "mlp.c_fc.weight"),
    fault(
        "x10, recipe known",
        "gpt2",
        combined(scaled(10, GPT + "attn.c_proj.weight"), with_recipe("gpt2")),
        "weights-against-recipe weight-peers",
        GPT + "attn.c_proj.weight",
    ),
    fault(
        "x0.1",
        "llama",
        scaled(0.1, LLAMA + "mlp.down_proj.weight"),
        SCALE,
        LLAMA + "mlp.down_proj.weight",
    ),
    fault("x0.1", "vit", scaled(0.1, VIT + "mlp.fc1.weight"), SCALE, VIT + "mlp.fc1.weight"),
    fault("x10", "resnet18", scaled(10, "layer2.1.conv1.weight"), SCALE, "layer2.1.conv1.weight"),
    fault("x10", "mlp_relu", scaled(10, "4.weight"), SCALE, "4 5"),
    fault("x0.1", "mlp_relu", scaled(0.1, "4.weight"), SCALE, "4 5"),
    fault("x10", "unet", scaled(10, "up.0.0.weight"), SCALE, "up.0.0.weight"),
    fault("x10", "autoencoder", scaled(10, "decoder.0.weight"), SCALE, "decoder.0"),
    fault("all x3", "mlp_tanh", everywhere(lambda p: p.mul_(3)), f"{SCALE} saturated-units"),
    fault("all x3", "mlp_relu", everywhere(lambda p: p.mul_(3)), f"{SCALE} initial-loss"),
    fault("all x0.3", "mlp_relu", everywhere(lambda p: p.mul_(0.3)), SCALE),
    fault(
        "all N(0, 1)",
        "vit",
        everywhere(lambda p: p.normal_()),
        f"{SCALE} initial-loss saturated-units",
    ),
    fault("constant", "unet", filled(0.01, "down.1.3.weight"), "symmetry", "down.1.3.weight"),
    fault("all ones", "mlp_gelu", filled(1.0, "6.weight"), "symmetry", "6.weight"),
    fault(
        "all ones",
        "gpt2",
        filled(1.0, GPT + "attn.c_attn.weight"),
        "symmetry",
        GPT + "attn.c_attn.weight",
    ),
    fault(
        "same rows",
        "vit",
        written(_same_rows, VIT + "mlp.fc1.weight"),
        "symmetry",
        VIT + "mlp.fc1.weight",
    ),
    fault("pairs of rows", "mlp_relu", written(_paired_rows, "6.weight"), "symmetry", "6.weight"),
    fault("same experts", "experts", _same_experts, "symmetry", "2.experts"),
    fault("same blocks", "llama", _same_blocks, "symmetry", "model.layers"),
    fault(
        "not centred",
        "mlp_relu",
        written(lambda p: p.uniform_(0, 1), "4.weight"),
        f"{SCALE} symmetry gradient-ratio",
        "4 5 6",
    ),
    fault(
        "no residual scaling",
        "gpt2",
        combined(
            everywhere(lambda p: p.normal_(std=0.02), ending="c_proj.weight"), with_recipe("gpt2")
        ),
        "weights-against-recipe",
        " ".join(GPT_SCALED),
    ),
    fault(
        "residual scaling twice",
        "gpt2",
        combined(_twice, with_recipe("gpt2")),
        "weights-against-recipe",
        " ".join(GPT_SCALED),
    ),
    fault("wrong fan", "residual_100", _wrong_fan, SCALE, "blocks.7"),
    fault(
        "fan of a depthwise layer without groups",
        "efficientnet",
        combined(scaled(1 / 16, "1.4.conv_dw.weight"), with_recipe("efficientnet")),
        "weights-against-recipe weight-peers",
        "1.4.conv_dw.weight",
    ),
    fault(
        "NaN",
        "vit",
        filled(math.nan, VIT + "attention.v_proj.weight"),
        "not-finite",
        VIT + "attention.v_proj.weight",
    ),
    fault(
        "huge garbage",
        "llama",
        random(1e30, LLAMA + "self_attn.v_proj.weight"),
        "not-finite weight-peers activation-scale",
        LLAMA + "self_attn.v_proj",
    ),
    fault(
        "one infinite entry",
        "bart",
        written(lambda p: p[200, 3].fill_(math.inf), "model.shared.weight"),
        "not-finite",
        "model.shared.weight",
    ),
    fault(
        "zeros in an inner layer",
        "bart",
        filled(0.0, "model.encoder.layers.1.fc1.weight"),
        "symmetry zero-gradient weight-peers",
        "model.encoder.layers.1.fc1",
    ),
    fault(
        "zeros everywhere",
        "mlp_relu",
        everywhere(torch.zero_, matrices=False),
        "zero-gradient symmetry",
    ),
    fault(
        "two zero layers",
        "lora",
        everywhere(torch.zero_, inside="layers.1.self_attn.q_proj.lora_A"),
        "zero-gradient symmetry",
        "model.layers.1.self_attn.q_proj",
    ),
    fault(
        "two zero layers",
        "residual_100",
        filled(0.0, *(f"blocks.40.{n}" for n in ("inner.weight", "inner.bias", "outer.weight"))),
        "zero-gradient symmetry weight-peers",
        "blocks.40",
    ),
)
