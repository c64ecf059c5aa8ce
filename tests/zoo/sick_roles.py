"""Faults in heads, embeddings, norms, biases, recurrences, routers and attention."""

from __future__ import annotations

import math

from torch import nn

from zoo.injecting import (
    Fault,
    combined,
    everywhere,
    fault,
    filled,
    random,
    scaled,
    written,
)
from zoo.specimens import Specimen

LLAMA, VIT = "model.layers.2.", "vit.layers.2."
SCALE = "weight-peers activation-std activation-growth activation-scale gradient-growth"


def _untied(specimen: Specimen) -> Specimen:
    """A head of its own, without the factor that a tied one has."""
    model = specimen.model
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.shared.weight.detach().clone().normal_())
    return specimen


ROLE_FAULTS: tuple[Fault, ...] = (
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
        _untied,
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
