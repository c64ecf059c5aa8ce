"""Recipes of adapters against peft's own modules (`pip install peft`), and references in small."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import adapter_models
from initstats import init_, plan, verify
from initstats.recipes import by_name
from named_models import LoraLinear
from recipe_checks import accepts, initialises, rejects, rejects_wrong_std

LLAMA = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 300,
}  # fmt: skip
TARGETS = {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "r": 256}
LINEAR = {"target_modules": ["q_proj", "down_proj"], "r": 256}
TASK = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 256}
PROJECTED = TASK | {"prefix_projection": True, "encoder_hidden_size": 256}
# Name of the configuration, its options, the recipe.
PEFT: dict[str, tuple[str, dict[str, Any], str]] = {
    "lora": ("LoraConfig", TARGETS, "lora"),
    "lora, gaussian": (
        "LoraConfig", TARGETS | {"init_lora_weights": "gaussian"}, "lora(variant='gaussian')",
    ),
    "lora, orthogonal": (
        "LoraConfig", LINEAR | {"init_lora_weights": "orthogonal"}, "lora(variant='orthogonal')",
    ),
    "rslora": ("LoraConfig", TARGETS | {"use_rslora": True}, "rslora"),
    "dora": ("LoraConfig", TARGETS | {"use_dora": True}, "dora"),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "down_proj"],
                          "feedforward_modules": ["down_proj"]}, "ia3"),
    "vera": ("VeraConfig", LINEAR, "vera"),
    "vera, not saved": ("VeraConfig", LINEAR | {"save_projection": False}, "vera"),
    "adalora": ("AdaLoraConfig", {"target_modules": ["q_proj", "down_proj"], "init_r": 256,
                                  "total_step": 9}, "adalora"),
    "prompt": ("PromptTuningConfig", TASK, "prompt"),
    "prompt, vocabulary": (
        "PromptTuningConfig", TASK | {"prompt_tuning_init": "SAMPLE_VOCAB"},
        "prompt(variant='vocabulary')",
    ),
    "prefix": ("PrefixTuningConfig", TASK, "prompt"),
    "prefix, zero": ("PrefixTuningConfig", TASK | {"init_weights": "zero"},
                     "prompt(variant='zero')"),
    "prefix, projected": ("PrefixTuningConfig", PROJECTED, "prompt"),
    "prefix, projected, zero": (
        "PrefixTuningConfig", PROJECTED | {"init_weights": "zero"}, "prompt(variant='zero')",
    ),
    "p-tuning": ("PromptEncoderConfig", TASK | {"encoder_hidden_size": 256}, "prompt"),
    "p-tuning, lstm": (
        "PromptEncoderConfig",
        TASK | {"encoder_hidden_size": 256, "encoder_reparameterization_type": "LSTM"}, "prompt",
    ),
}  # fmt: skip
# All values follow from others, or are constants: there is no std to be wrong.
EXACT = {"ia3", "vera, not saved", "prompt, vocabulary", "prefix, zero"}


def adapted(name: str) -> nn.Module:
    """Return a small Llama with an adapter as peft initialises it."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    config, options, _ = PEFT[name]
    found: nn.Module = peft.get_peft_model(base, getattr(peft, config)(**options))
    return found


@pytest.mark.filterwarnings("ignore")  # of peft and transformers
@pytest.mark.parametrize("name", PEFT)
def test_the_module_of_peft_is_accepted(name: str) -> None:
    model, recipe = adapted(name), by_name(PEFT[name][2])
    accepts(model, recipe)
    base = {n: x.clone() for n, x in model.named_parameters() if "base_layer" in n}
    for n in {entry.name for entry in plan(model, recipe) if not entry.keep}:
        if "ranknum" not in n and ".vera_A" not in n and ".vera_B" not in n:
            model.get_parameter(n).data.fill_(3.0)
    init_(model, recipe, seed=0)
    accepts(model, recipe)
    assert all(torch.equal(x, model.get_parameter(n)) for n, x in base.items())
    if name not in EXACT:
        rejects_wrong_std(model, recipe)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["lora", "lora, orthogonal", "rslora", "dora", "ia3", "vera", "adalora"]
)
def test_the_model_of_peft_is_unchanged(name: str) -> None:
    model = adapted(name).eval()
    init_(model, PEFT[name][2], seed=0)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        got = model(tokens).logits
        with model.disable_adapter():  # type: ignore[operator]
            want = model(tokens).logits
    # Roundings of sums of 256 in float32, through two blocks.
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_what_peft_multiplies_with_is_compared() -> None:
    (line,) = plan(adapted("rslora"), "rslora").forward
    assert (line.value, line.ok) == (8 / 16, True)  # alpha 8, r 256
    (line,) = plan(adapted("lora"), "rslora").forward
    assert line.ok is False


def dora(rank: int = 256) -> nn.Module:
    torch.manual_seed(0)  # the same trained weight, so that a receipt remakes its norms
    return adapter_models.dora(rank)


SMALL: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lora": (lambda: LoraLinear(256, 256, 256), "lora"),
    "lora, orthogonal": (lambda: LoraLinear(256, 512, 256), "lora(variant='orthogonal')"),
    "rslora": (lambda: LoraLinear(256, 256, 256), "rslora"),
    "dora": (dora, "dora"),
    "prompt": (adapter_models.prefixed, "prompt"),
    "prompt, zero": (adapter_models.prefixed, "prompt(variant='zero')"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_wrong_std_is_rejected(name: str) -> None:
    build, recipe = SMALL[name]
    model = initialises(build, recipe, meta=name.startswith("prompt"))
    counts = [entry.count for entry in plan(model, recipe)]
    rejects_wrong_std(model, recipe, count=min(1 << 16, max(counts)))


def test_halves_as_peft_makes_them_are_accepted() -> None:
    recipe = "lora(variant='orthogonal')"
    for seed in range(4):
        torch.manual_seed(seed)
        model = LoraLinear(256, 192, 16)
        a, b = adapter_models.orthogonal_halves(256, 192, 16)
        model.lora_A["default"].weight.data.copy_(a)
        model.lora_B["default"].weight.data.copy_(b)
        accepts(model, recipe)
    # Of earlier versions of this package: A orthonormal, B 0.
    rejects(model, recipe, "lora_B.*", torch.zero_, cause="never written")


def test_zeros_and_constants_of_adapters_are_found() -> None:
    model = initialises(adapter_models.AdaLoraLinear, "adalora", meta=False)
    # peft#1798: the singular values were drawn from N(0, 0.02), so that the model had changed.
    rejects(model, "adalora", "lora_E.*", lambda e: e.normal_(std=0.02), cause="never written")
    rejects(model, "adalora", "lora_A.*", torch.zero_)
    rejects(model, "adalora", "lora_B.*", 1.2)
    rejects(model, "adalora", "ranknum.*", 2.0)
    model = initialises(adapter_models.Ia3Linear, "ia3", meta=False)
    rejects(model, "ia3", "ia3_l.*", torch.zero_)
    model = initialises(adapter_models.Vera, "vera", meta=False)
    rejects(model, "vera", "*vera_lambda_b.*", lambda b: b.fill_(1.0))
    rejects(model, "vera", "layers.0.vera_lambda_d.*", lambda d: d.normal_())
    rejects(model, "vera", "vera_A.*", 0.5**0.5)  # without the gain
    model = initialises(dora, "dora", meta=False)
    rejects(model, "dora", "lora_magnitude*", 1.001)
    rejects(model, "dora", "lora_B.*", lambda b: b.normal_(std=0.02))


def test_shared_matrices_as_peft_makes_them_are_accepted() -> None:
    torch.manual_seed(0)
    model = initialises(adapter_models.Vera, "vera", meta=False, seeds=1)
    for buffer in (model.vera_A.default, model.vera_B.default):
        buffer.copy_(adapter_models.kaiming_of_vera(*buffer.shape))
    accepts(model, "vera")


@pytest.mark.parametrize(
    ("build", "recipe"),
    [
        (adapter_models.AdaLoraLinear, "adalora"),
        (adapter_models.Ia3Linear, "ia3"),
        (adapter_models.Vera, "vera"),
        (lambda: LoraLinear(256, 256, 8), "lora(variant='orthogonal')"),
    ],
)
def test_an_adapted_layer_starts_as_it_was(build: Callable[[], nn.Module], recipe: str) -> None:
    torch.manual_seed(0)
    model = build()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        for name, child in dict(module.named_children()).items():
            if hasattr(child, "base_layer"):
                setattr(module, name, child.base_layer)
    if hasattr(plain, "base_layer"):
        plain = plain.base_layer
    width = 128 if recipe == "vera" else 256
    x = torch.randn(5, width)
    want = plain.layers[1](plain.layers[0](x)) if recipe == "vera" else plain(x)
    assert not torch.allclose(model(x), want, atol=1e-3)
    init_(model, recipe, seed=0)
    # The product of the halves is 0 but for rounding: of elements of 0.07, 256 of them.
    torch.testing.assert_close(model(x), want, atol=1e-6, rtol=1e-5)
    assert verify(model, recipe).ok
