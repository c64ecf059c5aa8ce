"""Further families of transformers by the library's own init: small configurations, by table."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo.families import masked, next_token
from zoo.specimens import Builder

_GROUPED = {"num_key_value_heads": 2}
_HEADS = {"head_dim": 16, **_GROUPED}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

# Name: class, and what its configuration has beside the usual sizes.
_CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo": ("OlmoForCausalLM", {}),
    "olmoe": ("OlmoeForCausalLM", _EXPERTS),
    "glm": ("GlmForCausalLM", _HEADS),
    "glm4": ("Glm4ForCausalLM", _HEADS),
    "exaone4": ("Exaone4ForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", _GROUPED),
    "gemma3": ("Gemma3ForCausalLM", _HEADS),
    "biogpt": ("BioGptForCausalLM", {}),
    "helium": ("HeliumForCausalLM", _HEADS),
    "arcee": ("ArceeForCausalLM", {}),
    "ernie4_5": ("Ernie4_5ForCausalLM", _GROUPED),
    "bitnet": ("BitNetForCausalLM", _GROUPED),
    "cohere2": ("Cohere2ForCausalLM", {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**_EXPERTS, **_HEADS, "moe_intermediate_size": 64}),
    "jetmoe": ("JetMoeForCausalLM", {}),
    "diffllama": ("DiffLlamaForCausalLM", _GROUPED),
    "seed_oss": ("SeedOssForCausalLM", _HEADS),
    "granitemoe": ("GraniteMoeForCausalLM", {"num_local_experts": 4}),
    "lfm2": ("Lfm2ForCausalLM", _GROUPED),
    "xglm": (
        "XGLMForCausalLM",
        {"d_model": 64, "num_layers": 4, "attention_heads": 4, "ffn_dim": 128},
    ),
}
_MASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 64, "hidden_dim": 128, "n_layers": 4, "n_heads": 4},
    ),
    "nystromformer": ("NystromformerForMaskedLM", {}),
    "fnet": ("FNetForMaskedLM", {}),
    "mpnet": ("MPNetForMaskedLM", {}),
    "xlm_roberta_xl": ("XLMRobertaXLForMaskedLM", {}),
    "roformer": ("RoFormerForMaskedLM", {"embedding_size": 64}),
    "esm": ("EsmForMaskedLM", {"pad_token_id": 0, "mask_token_id": 3}),
}

MODELS: dict[str, Builder] = {
    **{n: partial(next_token, kind, **config) for n, (kind, config) in _CAUSAL.items()},
    **{n: partial(masked, kind, **config) for n, (kind, config) in _MASKED.items()},
}
