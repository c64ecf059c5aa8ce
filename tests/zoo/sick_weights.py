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
        filled(1e30, LLAMA + "self_attn.v_proj.weight"),
        "not-finite symmetry weight-peers activation-scale",
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
    fault(
        "tied head at std 1",
        "gpt2",
        random(1.0, "transformer.wte.weight"),
        "initial-loss activation-std weight-peers",
        "lm_head transformer.wte step",
    ),
    fault(
        "head at std 1",
        "t5",
        random(1.0, "shared.weight"),
        "initial-loss activation-std weight-peers",
        "lm_head shared step",
    ),
    fault(
        "head at std 10",
        "resnet18",
        random(10.0, "fc.weight"),
        "initial-loss activation-std weight-peers",
        "fc step",
    ),
    fault(
        "positions at std 10",
        "vit",
        random(10.0, "vit.embeddings.position_embeddings"),
        f"{SCALE} first-layer",
        "vit.embeddings.position_embeddings vit.embeddings",
    ),
    fault(
        "positions at std 10",
        "gpt2",
        random(10.0, "transformer.wpe.weight"),
        f"{SCALE} first-layer",
        "transformer.wpe",
    ),
    fault(
        "blanket N(0.02)",
        "gpt2",
        everywhere(lambda p: p.normal_(std=0.02), matrices=False),
        "norm-identity",
        "transformer",
    ),
    fault(
        "blanket ones",
        "gemma",
        everywhere(lambda p: p.fill_(1.0), ending="norm.weight", matrices=False),
        "norm-identity",
        "model",
    ),
    fault(
        "norm weight at 2",
        "gemma",
        filled(2.0, "model.layers.1.input_layernorm.weight"),
        "norm-identity",
        "model.layers.1.input_layernorm.weight",
    ),
    fault(
        "norm bias at 5",
        "vit",
        filled(5.0, VIT + "layernorm_before.bias"),
        "norm-identity",
        VIT + "layernorm_before.bias",
    ),
    fault(
        "norm weight at 0",
        "mixer",
        combined(filled(0.0, "norm.weight"), random(0.02, "head.weight")),
        "norm-identity zero-gradient",
        "norm",
    ),
    fault(
        "biases at std 1",
        "bert",
        random(1.0, "bert.encoder.layer.1.intermediate.dense.bias"),
        "bias-scale",
        "bert.encoder.layer.1.intermediate.dense.bias",
    ),
    fault("biases at 3", "mlp_gelu", filled(3.0, "4.bias"), "bias-scale", "4.bias"),
    fault(
        "forget gates shut",
        "lstm",
        written(lambda p: p[48:96].fill_(-10.0), "rnn.bias_ih_l0"),
        "bias-scale saturated-units",
        "rnn",
    ),
    fault(
        "recurrence x5",
        "lstm",
        scaled(5, "rnn.weight_hh_l0"),
        "weight-peers saturated-units",
        "rnn.weight_hh_l0",
    ),
    fault(
        "queries and keys x10",
        "llama",
        scaled(10, LLAMA + "self_attn.q_proj.weight", LLAMA + "self_attn.k_proj.weight"),
        "weight-peers saturated-units",
        LLAMA + "self_attn",
    ),
    fault(
        "one expert dominates",
        "experts",
        written(lambda p: p[0].mul_(100), "2.router.weight"),
        "weight-peers saturated-units zero-gradient symmetry",
        "2.router 2.experts",
    ),
    fault(
        "embedding x0.001",
        "mistral",
        scaled(1e-3, "model.embed_tokens.weight"),
        f"{SCALE} first-layer",
        "model.embed_tokens model.layers.0",
    ),
    fault(
        "temperature of 10000",
        "clip",
        filled(math.log(1e4), "model.logit_scale"),
        "initial-loss saturated-units",
        "step model",
    ),
)
