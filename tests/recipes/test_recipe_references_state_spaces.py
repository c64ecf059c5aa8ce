"""Recipes of state-space and linear-attention models against transformers' own, and in small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import state_space_models
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.recipes import Recipe
from initstats.verification.verifier import verify
from recipe_checks import (
    Made,
    accepts,
    initialises,
    of_transformers,
    rejects,
    rejects_wrong_std,
)
from state_space_models import LAYERS

SIZES: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 300}
DECODER = {
    **SIZES, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
BAMBA = {
    "mamba_n_heads": 16, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 8,
}  # fmt: skip
QWEN = {
    **DECODER, "head_dim": 64, "linear_num_value_heads": 8, "linear_num_key_heads": 4,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32,
}  # fmt: skip
MODELS: dict[str, Made] = {
    "mamba1": (
        "MambaForCausalLM",
        "MambaConfig",
        {**SIZES, "state_size": 8},
        recipes.mamba1(variant="transformers"),
    ),
    "falcon_mamba": (
        "FalconMambaForCausalLM",
        "FalconMambaConfig",
        {**SIZES, "state_size": 8},
        recipes.mamba1(variant="transformers"),
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {**SIZES, "state_size": 8, "num_heads": 16, "head_dim": 32, "n_groups": 1},
        recipes.mamba2(variant="transformers"),
    ),
    "bamba": (
        "BambaForCausalLM",
        "BambaConfig",
        {**DECODER, **BAMBA, "attn_layer_indices": [1]},
        recipes.mamba2(variant="bamba"),
    ),
    "falcon_h1": (
        "FalconH1ForCausalLM",
        "FalconH1Config",
        {**DECODER, **BAMBA, "head_dim": 64, "mamba_d_ssm": 512},
        recipes.mamba2(variant="bamba"),
    ),
    "granite": (
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        {**DECODER, **BAMBA, "num_local_experts": 4, "num_experts_per_tok": 2,
         "shared_intermediate_size": 128, "layer_types": ["mamba", "attention"]},
        recipes.mamba2(variant="bamba"),
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {**QWEN, "num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128},
        recipes.gated_deltanet(variant="transformers"),
    ),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        {**DECODER, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
        recipes.mamba1(variant="jamba"),
    ),
    "zamba": (
        "ZambaForCausalLM",
        "ZambaConfig",
        {**DECODER, "num_hidden_layers": 4, "num_key_value_heads": 4, "mamba_d_state": 8,
         "layers_block_type": [*["linear_attention"] * 2, *["hybrid"] * 2]},
        recipes.mamba1(variant="zamba"),
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        "Zamba2Config",
        {**DECODER, "num_key_value_heads": 4, "mamba_d_state": 8, "n_mamba_heads": 16,
         "layers_block_type": ["linear_attention", "hybrid"]},
        recipes.mamba2(variant="zamba2"),
    ),
    "nemotron_h": (
        "NemotronHForCausalLM",
        "NemotronHConfig",
        {**DECODER, "mamba_num_heads": 16, "mamba_head_dim": 32, "ssm_state_size": 8,
         "n_groups": 1, "layers_block_type": ["linear_attention", "full_attention"]},
        recipes.mamba2(variant="nemotron_h"),
    ),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        {**DECODER, "pad_token_id": 0, "num_key_value_heads": 4, "kv_lora_rank": 64,
         "qk_rope_head_dim": 16,
         "qk_nope_head_dim": 32, "v_head_dim": 32, "num_local_experts": 4,
         "num_experts_per_tok": 2, "moe_intermediate_size": 128, "linear_head_dim": 64,
         "linear_num_heads": 4, "layer_types": ["linear_attention", "full_attention"]},
        recipes.gated_deltanet(variant="kda"),
    ),
    "rwkv": (
        "RwkvForCausalLM",
        "RwkvConfig",
        {**SIZES, "attention_hidden_size": 256, "intermediate_size": 320},
        recipes.rwkv4(variant="transformers"),
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        {**DECODER, "num_hidden_layers": 3, "lru_width": 256},
        recipes.griffin(variant="transformers"),
    ),
    "xlstm": (
        "xLSTMForCausalLM", "xLSTMConfig", {**SIZES, "num_heads": 4}, recipes.xlstm(),
    ),
    "qwen3_5": (
        "Qwen3_5ForCausalLM",
        "Qwen3_5TextConfig",
        {**QWEN, "num_hidden_layers": 4},
        recipes.gated_deltanet(variant="transformers"),
    ),
}  # fmt: skip


def build(name: str) -> Callable[[], nn.Module]:
    return of_transformers(MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_transformers_own_initialisation_is_accepted_and_3_percent_are_not(name: str) -> None:
    torch.manual_seed(0)
    model, recipe = build(name)(), MODELS[name][-1]
    accepts(model, recipe)
    if name == "rwkv":  # all of its matrices are orthogonal
        rejects(model, recipe, "*.key.weight", 1.03)
    else:
        rejects_wrong_std(model, recipe)


@pytest.mark.parametrize("name", MODELS)
def test_what_init_writes_from_meta_is_what_verify_accepts(name: str) -> None:
    # Falcon-H1 keeps multipliers of its config in a buffer: a caller on meta gives it as buffers=.
    initialises(build(name), MODELS[name][-1], seeds=1, meta=name != "falcon_h1")


SMALL: dict[str, tuple[Callable[[], Any], Recipe, dict[str, str]]] = {
    "mamba1": (state_space_models.Mamba, recipes.mamba1(), {}),
    "mamba2": (state_space_models.mamba2, recipes.mamba2(residuals=2), {}),
    "gated_deltanet": (state_space_models.GatedDeltaNet, recipes.gated_deltanet(), {}),
    "gated_deltanet, rescale": (
        state_space_models.GatedDeltaNet,
        recipes.gated_deltanet(residual="rescale"),
        {"residual": "rescale"},
    ),
    "gated_deltanet, zero": (
        state_space_models.GatedDeltaNet,
        recipes.gated_deltanet(residual="zero"),
        {"residual": "zero"},
    ),
    "gated_deltanet, torchtitan": (
        state_space_models.TitanQwenNext, recipes.gated_deltanet(variant="torchtitan"), {},
    ),
    "rwkv7": (state_space_models.RWKV7, recipes.rwkv7(), {}),
    "griffin": (state_space_models.Griffin, recipes.griffin(), {}),
    "s4d": (state_space_models.S4D, recipes.s4d(), {}),
    "retnet": (state_space_models.RetNet, recipes.retnet(), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_the_reference_in_small_is_accepted_and_3_percent_are_not(name: str) -> None:
    make, recipe, options = SMALL[name]
    torch.manual_seed(1)
    model = make()
    model.init_weights(**options)
    accepts(model, recipe)
    rejects_wrong_std(model, recipe)
    initialises(make, recipe, seeds=1)


def small(name: str) -> nn.Module:
    make, recipe, _ = SMALL[name]
    model: nn.Module = make()
    init_(model, recipe, seed=0)
    return model


@pytest.mark.parametrize(
    ("name", "pattern", "factor"),
    [
        ("mamba1", "*.out_proj.weight", LAYERS**0.5),
        ("mamba2", "*.out_proj.weight", (2 * LAYERS) ** 0.5),
        ("mamba2", "*.fc2.weight", (2 * LAYERS) ** 0.5),
        ("gated_deltanet, rescale", "*.o_proj.weight", (2 * LAYERS) ** 0.5),
        ("gated_deltanet, rescale", "*.down_proj.weight", (2 * LAYERS) ** 0.5),
        ("gated_deltanet, torchtitan", "layers.1.delta_net.out_proj.weight", 2.0),
        ("griffin", "*.linear_out.weight", (LAYERS / 2) ** 0.5),
        ("gated_deltanet, torchtitan", "layers.1.feed_forward.w3.weight", 2.0),
    ],
)
def test_a_missing_scaling_with_depth_is_found(name: str, pattern: str, factor: float) -> None:
    recipe = SMALL[name][1]
    for entry in rejects(small(name), recipe, pattern, factor):
        # Without it a matrix is what torch leaves, or what the recipe writes into other matrices.
        causes = ("not applied", "as torch leaves it", "it holds what rule")
        assert any(cause in entry.cause for cause in causes), entry.cause


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("mamba1", "*.out_proj.weight"),
        ("mamba2", "*.out_proj.weight"),
        ("gated_deltanet, rescale", "*.down_proj.weight"),
    ],
)
def test_swapped_fans_are_found(name: str, pattern: str) -> None:
    for entry in rejects(small(name), SMALL[name][1], pattern, 2**0.5):
        assert "swapped" in entry.cause, entry.cause


# ---- reports of bugs, each as a model that has it


def ones(x: Tensor) -> None:
    x.fill_(1.0)


def zeros(x: Tensor) -> None:
    x.zero_()


def usual(x: Tensor) -> None:
    x.normal_(0.0, 0.02)


@pytest.mark.parametrize(
    ("name", "pattern", "change"),
    [
        ("mamba2", "*.dt_bias", ones),  # transformers#43717: 1 in a mixer without its model
        ("mamba2", "*.dt_bias", zeros),  # flame#42: never written on several GPUs
        ("mamba2", "*.A_log", zeros),
        ("gated_deltanet", "*.A_log", zeros),
        ("gated_deltanet", "*.dt_bias", zeros),
        ("gated_deltanet, torchtitan", "*.A_log", zeros),
        ("gated_deltanet, torchtitan", "*.dt_bias", zeros),
        ("mamba1", "*.dt_proj.bias", zeros),  # mad-lab#3: a generic initialiser over dt_proj
        ("mamba1", "*.dt_proj.weight", usual),
        ("mamba1", "*.A_log", zeros),
        ("mamba1", "*.D", zeros),
        ("rwkv7", "*.ffn.key.weight", usual),  # fla#493: initialisation written, never called
        ("rwkv7", "blocks.0.att.ln_x.weight", ones),
        ("rwkv7", "*.w0", zeros),
        ("griffin", "*.a_param", zeros),
        ("griffin", "*.ffw_down.weight", lambda x: x.mul_((LAYERS / 2) ** 0.5)),
        ("griffin", "*norm.scale", ones),
        ("retnet", "*.[qkvg]_proj.weight", lambda x: x.mul_(2**2.5)),  # the gain left out
        ("s4d", "*.log_dt", zeros),
        ("s4d", "*.A_imag", zeros),
    ],
)
def test_time_constants_that_others_wrote_are_found(
    name: str, pattern: str, change: Callable[[Tensor], object]
) -> None:
    rejects(small(name), SMALL[name][1], pattern, change)


def test_a_mixer_without_its_model_has_the_time_steps_of_the_recipe() -> None:
    """transformers#43717."""
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    transformers = pytest.importorskip("transformers")
    config = transformers.Mamba2Config(**MODELS["mamba2"][2])
    mixer = nn.ModuleDict({"mixer": Mamba2Mixer(config, layer_idx=0)})
    ones(mixer["mixer"].dt_bias.data)
    recipe = recipes.mamba2(layers=2)
    assert "mixer.dt_bias" in {entry.name for entry in verify(mixer, recipe).failures}
    init_(mixer, recipe, seed=0)
    accepts(mixer, recipe)


def test_a_log_is_finite_in_bfloat16_and_minus_infinity_is_found() -> None:
    """transformers#47831: ln U(0, 16) in bfloat16, where a uniform is often 0."""
    recipe = recipes.gated_deltanet()
    model = nn.ModuleDict({"attn": nn.Module()})
    model["attn"].A_log = nn.Parameter(torch.empty(1 << 16, dtype=torch.bfloat16))
    with torch.no_grad():
        model["attn"].A_log.uniform_(0, 16).log_()
    assert torch.isneginf(model["attn"].A_log).any()
    (entry,) = verify(model, recipe).failures
    assert "finite" in entry.problem
    for seed in range(3):
        init_(model, recipe, seed=seed)
        assert torch.isfinite(model["attn"].A_log).all()
        accepts(model, recipe)


def test_orthogonal_matrices_that_never_reached_bfloat16_are_found() -> None:
    """fla#538: they were written into a float copy of the parameter."""
    model = state_space_models.RWKV7().bfloat16()
    init_(model, "rwkv7", seed=0)
    accepts(model, "rwkv7")

    def into_a_copy(x: Tensor) -> None:
        x.zero_()
        nn.init.orthogonal_(x.float(), gain=0.1)

    rejects(model, "rwkv7", "*.w2", into_a_copy)


def test_a_layer_in_the_place_of_another_is_found() -> None:
    model = small("rwkv7")
    with torch.no_grad():
        model.get_parameter("blocks.1.att.w0").copy_(model.get_parameter("blocks.2.att.w0"))
    names = {entry.name for entry in verify(model, "rwkv7").failures}
    assert "blocks.1.att.w0" in names


def test_gates_of_a_tenth_in_transformers_are_named() -> None:
    model = build("recurrent_gemma")()
    found = {entry.name: entry.problem for entry in verify(model, "griffin").failures}
    gates = [problem for name, problem in found.items() if name.endswith("gate_weight")]
    assert len(gates) == 4
    assert all("(x 0.1" in problem or "(x 0.09" in problem for problem in gates), gates
