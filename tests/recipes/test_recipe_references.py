"""Recipes against models that other code initialised: transformers, and reference code by hand.

Each model is made at a fixed seed by code that knows nothing of recipes; `verify` then compares
mean, std, bounds, extremes and histogram of every parameter. False-alarm rate 1e-4 per model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import init

import named_models
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Recipe
from initstats.verification.verifier import verify
from named_models import LAYERS, WIDTH

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}


def transformers_model(name: str, config: str, options: dict[str, Any]) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**options))
    return model


TEXT = {"vocab_size": 512, "intermediate_size": 128, **SMALL}
T5 = {"vocab_size": 512, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
GPT2 = {"n_layer": 3, "n_embd": 64, "n_head": 2, "vocab_size": 512, "n_positions": 64}
FROM_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], Recipe]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**GPT2, "bos_token_id": 0, "eos_token_id": 0},
        recipes.gpt2(),
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "pad_token_id": 3}, recipes.llama()),
    "bert": ("BertForPreTraining", "BertConfig", TEXT, recipes.bert_transformers()),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "decoder_start_token_id": 0},
        recipes.t5(),
    ),
    "t5 gated, untied": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            **T5,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
        },
        recipes.t5(head_std=1.0),
    ),
    "vit": (
        "ViTForImageClassification",
        "ViTConfig",
        {**SMALL, "intermediate_size": 128, "image_size": 32, "patch_size": 8},
        recipes.vit_transformers(),
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"},
        recipes.resnet(),
    ),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [2, 2]},
        recipes.convnext(),
    ),
}


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_a_model_of_transformers_is_as_the_recipe_promises(name: str) -> None:
    made, config, options, recipe = FROM_TRANSFORMERS[name]
    model = transformers_model(made, config, options)
    report = verify(model, recipe)
    assert report.ok, [(entry.name, entry.problem) for entry in report.failures]
    measured = {entry.name for entry in report.entries}
    assert measured == {parameter for parameter, _ in model.named_parameters()}


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_the_set_of_stds_is_that_of_transformers(name: str) -> None:
    # The oracle rounds the std of each parameter of the reference to the promise that is nearest.
    made, config, options, recipe = FROM_TRANSFORMERS[name]
    model = transformers_model(made, config, options)
    large = {n: p for n, p in model.named_parameters() if p.numel() >= 1024}
    promised = {entry.name: entry.distribution.std for entry in plan(model, recipe)}
    for parameter, values in large.items():
        # The std of n normals has relative error 1 / sqrt(2 n); five of them.
        error = 5 / math.sqrt(2 * values.numel())
        assert float(values.detach().std()) == pytest.approx(promised[parameter], rel=error), (
            parameter
        )


def test_an_initialised_model_of_transformers_is_what_transformers_makes() -> None:
    # The recipe writes over the reference, and the reference's own stds hold for what it wrote.
    made, config, options, recipe = FROM_TRANSFORMERS["gpt2"]
    model = transformers_model(made, config, options)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    init_(model, recipe, seed=0)
    stds = {n: float(p.detach().std()) for n, p in model.named_parameters() if p.dim() == 2}
    for name, std in stds.items():
        expected = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
        size = model.get_parameter(name).numel()
        assert std == pytest.approx(expected, rel=5 / math.sqrt(2 * size)), name


# --- reference code by hand, after the sources named in the recipes


def init_torchtitan(model: Any) -> None:
    init.normal_(model["tok_embeddings"].weight)
    for i, block in enumerate(model["layers"].values()):
        std = 0.02 / (2 * (i + 1)) ** 0.5
        attention, feed_forward = block["attention"], block["feed_forward"]
        for name in ("wq", "wk", "wv"):
            init.trunc_normal_(attention[name].weight, mean=0.0, std=0.02)
        init.trunc_normal_(attention["wo"].weight, mean=0.0, std=std)
        init.trunc_normal_(feed_forward["w1"].weight, mean=0.0, std=0.02)
        for name in ("w2", "w3"):
            init.trunc_normal_(feed_forward[name].weight, mean=0.0, std=std)
    final = WIDTH**-0.5
    init.trunc_normal_(model["output"].weight, 0.0, final, -3 * final, 3 * final)


def init_nano_gpt(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * LAYERS))


def init_timm_vit(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
    init.trunc_normal_(model.pos_embed, std=0.02)
    init.normal_(model.cls_token, std=1e-6)
    init.normal_(model.reg_token, std=1e-6)


def init_torchvision_resnet(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def init_timm_efficientnet(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            init.normal_(module.weight, 0, math.sqrt(2.0 / (fan_out // module.groups)))
            if module.bias is not None:
                init.zeros_(module.bias)
        if isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.weight.size(0))
            init.uniform_(module.weight, -bound, bound)
            init.zeros_(module.bias)


def init_dit(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.constant_(module.bias, 0)
    patches = model["x_embedder"]["proj"]
    init.xavier_uniform_(patches.weight.data.view([patches.weight.shape[0], -1]))
    init.constant_(patches.bias, 0)
    init.normal_(model["y_embedder"]["embedding_table"].weight, std=0.02)
    init.normal_(model["t_embedder"]["mlp"][0].weight, std=0.02)
    init.normal_(model["t_embedder"]["mlp"][2].weight, std=0.02)
    final = model["final_layer"]
    for adaptive in [*(b["adaLN_modulation"] for b in model["blocks"]), final["adaLN_modulation"]]:
        init.constant_(adaptive[-1].weight, 0)
        init.constant_(adaptive[-1].bias, 0)
    init.constant_(final["linear"].weight, 0)
    init.constant_(final["linear"].bias, 0)


def init_keras_lstm(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "weight_ih" in name:
            init.xavier_uniform_(parameter)
        elif "weight_hh" in name:
            init.orthogonal_(parameter)
        elif parameter.dim() == 1:
            init.zeros_(parameter)
            if "lstm.bias_ih" in name:
                parameter.data[16:32] = 1.0
    init.uniform_(model["embedding"].weight, -0.05, 0.05)
    init.xavier_uniform_(model["head"].weight)


def init_olmo(model: Any) -> None:
    def cut(parameter: nn.Parameter, std: float) -> None:
        init.trunc_normal_(parameter, 0.0, std, -3 * std, 3 * std)

    transformer = model["transformer"]
    for i, block in enumerate(transformer["blocks"]):
        cut(block["att_proj"].weight, 1 / math.sqrt(WIDTH))
        cut(block["ff_proj"].weight, 1 / math.sqrt(WIDTH))
        cut(block["attn_out"].weight, 1 / math.sqrt(2 * WIDTH * (i + 1)))
        cut(block["ff_out"].weight, 1 / math.sqrt(2 * block["ff_out"].in_features * (i + 1)))
    cut(transformer["wte"].weight, 1 / math.sqrt(WIDTH))
    cut(transformer["ff_out"].weight, 1 / math.sqrt(WIDTH))


BY_HAND: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], None], str]] = {
    "nanoGPT": (named_models.nano_gpt, init_nano_gpt, "gpt2"),
    "torchtitan": (named_models.titan_llama, init_torchtitan, "llama_torchtitan"),
    "OLMo": (named_models.olmo, init_olmo, "olmo_mitchell"),
    "timm ViT": (named_models.timm_vit, init_timm_vit, "vit"),
    "torchvision ResNet": (named_models.resnet, init_torchvision_resnet, "resnet"),
    "timm EfficientNet": (named_models.efficientnet, init_timm_efficientnet, "efficientnet"),
    "DiT": (named_models.dit, init_dit, "dit"),
    "Keras LSTM": (named_models.recurrent, init_keras_lstm, "lstm"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_reference_code_gives_what_the_recipe_promises(name: str) -> None:
    make, initialise, recipe = BY_HAND[name]
    torch.manual_seed(0)
    model = make()
    initialise(model)
    report = verify(model, recipe)
    assert report.ok, [(entry.name, entry.problem, entry.cause) for entry in report.failures]


@pytest.mark.parametrize("name", ["recurrent", "resnet", "timm_vit", "deep_encoder", "tanh_mlp"])
def test_what_torch_leaves_is_what_torch_default_promises(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(named_models, name)()
    if name == "timm_vit":
        model = model["blocks"]
    model = nn.ModuleList([model, nn.Bilinear(8, 16, 12)])  # counts in1 alone as fan_in
    # nn.TransformerEncoder copies one layer: a duplicate, which is reported as such.
    report = verify(model, "torch_default", ignore={"duplicate"})
    assert report.ok, [(entry.name, entry.problem) for entry in report.failures]
