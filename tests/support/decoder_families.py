"""Small models of all decoders (causal language models) of transformers, and what recipes say."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from initstats.planning.planner import plan
from initstats.recipes import by_name
from initstats.verification.verifier import verify

# Small sizes by the names that configurations have for them; each takes those that it knows.
_LAYERS = 2
_NAMES: dict[int, str] = {
    _LAYERS: (
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_encoder_layers num_decoder_layers num_key_value_heads swa_num_key_value_heads "
        "num_experts_per_tok moe_k moe_topk linear_num_key_heads depth"
    ),
    4: (
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "num_experts num_local_experts n_routed_experts moe_num_experts swa_num_attention_heads "
        "linear_num_value_heads linear_num_heads index_n_heads swa_num_key_value_heads"
    ),
    8: (
        "state_size qk_rope_head_dim qk_nope_head_dim ssm_state_size mamba_d_state "
        "mamba_num_heads mamba_n_heads n_mamba_heads patch_size num_position_embeddings "
        "swa_qk_rope_head_dim swa_qk_nope_head_dim"
    ),
    16: (
        "head_dim v_head_dim kv_lora_rank swa_head_dim linear_head_dim linear_key_head_dim "
        "linear_value_head_dim mamba_head_dim mamba_d_head index_head_dim global_head_dim d_rel "
        "attention_head_dim hidden_size_per_layer_input adapter_rank image_size swa_kv_lora_rank "
        "swa_v_head_dim shape_embed_dim pronunciation_embed_dim shape_vocab_size "
        "pronunciation_vocab_size laurel_rank hc_lowrank indexer_head_dim"
    ),
    24: "q_lora_rank o_lora_rank swa_q_lora_rank",
    32: (
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
        "expert_ffn_hidden_size moe_shared_expert_intermediate_size router_hidden_size "
        "shared_experts_intermediate_size"
    ),
    64: (
        "hidden_size n_embd d_model embed_dim emb_dim max_position_embeddings n_positions "
        "out_hidden_size"
    ),
    96: (
        "intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner ffn_hidden_size "
        "dim_ff d_inner dff"
    ),
    120: "vocab_size unpadded_vocab_size vocab_size_per_layer_input",
}
SIZES: dict[str, int] = {name: n for n, names in _NAMES.items() for name in names.split()}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES |= dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1)
# Lists with the kind of each layer.
_LAYER_KINDS = ("layer_types", "mlp_layer_types", "layers_block_type")
# Families whose configuration needs more.
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_QSA = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}  # fmt: skip
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "deepseek_v4": {"o_groups": 2},
    "dots1": {"n_shared_experts": 1},
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4},
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64},
        "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
        },
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"head_dim": 16, "num_heads": 8, "n_groups": 1},
    "qwen4_exp": {"text_config": _QSA},
    "qwen4_exp_text": _QSA,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": (32, 32), "axial_pos_shape": (8, 8)},
    "zamba": {
        "num_hidden_layers": 4, "num_key_value_heads": 4, "n_mamba_heads": 2,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"],
    },
    "zamba2": {"num_key_value_heads": 4},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def families() -> dict[str, str]:
    """Return the class of the causal language model of each family that transformers knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_config(kind: Any, special: dict[str, Any] | None = None) -> Any:
    """Return a configuration of a class with small sizes and parts, and one layer of each kind."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = {field.name for field in dataclasses.fields(kind)}
    known = fields | set(kind.attribute_map or {})
    special = special or {}
    parts = {}
    for name, part in (kind.sub_configs or {}).items():
        given = dict(special.get(name) or {})
        if family := given.pop("model_type", None):
            found = CONFIG_MAPPING[family]
        elif part.__name__ == "AutoConfig":
            found = type(getattr(kind(), name, None))
        else:
            found = part
        if found is not type(None):
            parts[name] = small_config(found, given)
    own = {name: value for name, value in special.items() if name not in parts}
    sizes = {name: value for name, value in SIZES.items() if name in known}
    return kind(**{**sizes, **_kinds_of_layers(kind, fields, own), **parts, **own})


def _kinds_of_layers(kind: Any, fields: set[str], special: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a stack that has each kind of layer that the default one has."""
    names = [name for name in _LAYER_KINDS if name in fields and name not in special]
    default = vars(kind()) if names else {}
    kinds = {n: list(dict.fromkeys(default[n])) for n in names if isinstance(default.get(n), list)}
    layers = max([_LAYERS, *map(len, kinds.values())])
    filled = {n: [*each, *each[-1:] * (layers - len(each))] for n, each in kinds.items()}
    return {**filled, **({"num_hidden_layers": layers} if filled else {})}


def build(family: str) -> nn.Module:
    """Return a small model of a family, as transformers initialises it."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = small_config(CONFIG_MAPPING[family], SPECIAL.get(family))
    kind = getattr(transformers, families()[family])
    parts = [part for part in vars(config).values() if type(part) is kind.config_class]
    config = parts[0] if parts and type(config) is not kind.config_class else config
    model: nn.Module = kind(config)
    return model


# The recipe of each family; the others have that of all decoders of transformers.
DEFAULT = "decoder_transformers"
_BY_RECIPE = {
    "bert_transformers": (
        "bert bert-generation camembert data2vec-text electra ernie megatron-bert rembert roberta "
        "roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl"
    ),
    "deepseek_v3(variant='transformers')": "deepseek_v3",
    "gated_deltanet": "olmo_hybrid",
    "gated_deltanet(variant='kda')": "bailing_hybrid kimi_linear",
    "gated_deltanet(variant='transformers')": (
        "lara_mini qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp "
        "qwen4_exp_text"
    ),
    "gemma": (
        "gemma gemma2 gemma3_text gemma3n_text gemma4_assistant gemma4_text gemma4_unified "
        "gemma4_unified_assistant gemma4_unified_text vaultgemma"
    ),
    "gpt2": "gpt-sw3 gpt2 gpt_bigcode",
    "gpt_oss": "flint gpt_oss mimo_v2_flash",
    "griffin(variant='transformers')": "recurrent_gemma",
    "llama": "arcee cwm exaone internlm3 iquestcoder llama ministral ministral3 mistral",
    "mamba1(variant='transformers')": "falcon_mamba mamba",
    "mamba1(variant='jamba')": "jamba",
    "mamba1(variant='zamba')": "zamba",
    "mamba2(variant='transformers')": "mamba2",
    "mamba2(variant='bamba')": "bamba falcon_h1 granitemoehybrid",
    "mamba2(variant='nemotron_h')": "nemotron_h",
    "mamba2(variant='zamba2')": "zamba2",
    "modernbert": "modernbert-decoder",
    "moe": "ernie4_5_moe glm4_moe mixtral olmoe qwen2_moe qwen3_moe",
    "olmo2(variant='transformers')": "olmo2 olmo3",
    "qwen3": "qwen3",
    "rwkv4(variant='transformers')": "rwkv",
    "whisper": "whisper",
    "xlstm": "xlstm",
}
RECIPES = {family: call for call, names in _BY_RECIPE.items() for family in names.split()}


# What the own initialisation of a family does otherwise.
DIFFERENCES = {
    "blt": "every matrix TN(0, fan_in^-1/2) at three standard deviations",
    "modernbert-decoder": "the padding row of the embedding is drawn, not 0",
    "nemotron": "norms start at 1, though they multiply by 1 + scale",
}
# Families whose class holds more than a decoder, or that are not built.
LEFT_OUT = {
    "gemma3": "with a SigLIP tower of its own numbers; the decoder is gemma3_text",
    "gemma3n": "needs timm for its tower; the decoder is gemma3n_text",
    "gemma4": "with towers of their own numbers; the decoder is gemma4_text",
    "got_ocr2": "with a SAM tower of its own numbers; the decoder is qwen2",
    "phi4_multimodal": "with towers of their own numbers; the decoder is phi3",
}


def call(family: str, config: Any) -> str:
    """Return the recipe of a family with the numbers of its configuration, for `by_name`."""
    named = RECIPES.get(family, DEFAULT)
    if named != DEFAULT:
        return named
    values = config.to_dict()
    given = {
        "std": values.get("initializer_range") or values.get("init_std"),
        "embedding_std": values.get("embedding_initializer_range") or values.get("embed_init_std"),
    }
    options = [f"{name}={std:.6g}" for name, std in given.items() if std not in {None, 0.02}]
    return f"{named}({', '.join(options)})" if options else named


@dataclass(frozen=True)
class Tried:
    """A family of decoders, and what its recipe says of it.

    Attributes:
        family: Its name in transformers.
        model: The class.
        recipe: The recipe, as `by_name` reads it.
        roles: How many parameters have each role, the most frequent first.
        unmatched: Parameters that no rule takes.
        differs: Parameters whose own initialisation is not what the recipe promises.
    """

    family: str
    model: str
    recipe: str
    roles: dict[str, int]
    unmatched: tuple[str, ...]
    differs: tuple[str, ...]

    @property
    def row(self) -> str:
        """The row of the table."""
        roles = ", ".join(f"{count} {role}" for role, count in self.roles.items())
        own = DIFFERENCES.get(self.family, "as promised" if not self.differs else "otherwise")
        count = sum(self.roles.values()) + len(self.unmatched)
        unmatched = len(self.unmatched) or "none"
        cells = (self.family, self.model, f"`{self.recipe}`", count, roles, unmatched, own)
        return f"| {' | '.join(map(str, cells))} |"


def tried(family: str) -> Tried:
    """Build a family, plan its recipe, and verify its own initialisation against it."""
    torch.manual_seed(0)
    model = build(family)
    recipe = call(family, model.config)
    report = verify(model, by_name(recipe), allow_unmatched=True)
    planned = plan(model, by_name(recipe))
    roles = Counter(entry.role for entry in planned if not entry.is_buffer)
    return Tried(
        family,
        type(model).__name__,
        recipe,
        dict(sorted(roles.items(), key=lambda item: (-item[1], item[0]))),
        planned.unmatched,
        tuple(entry.name for entry in report.failures),
    )


def page(every: Iterable[Tried], version: str) -> str:
    """Return the page of the documentation."""
    rows = [one.row for one in every]
    left = [f"- {family}: {why}." for family, why in LEFT_OUT.items()]
    return PAGE.format(version=version, count=len(rows), rows="\n".join(rows), left="\n".join(left))


PAGE = """# Decoders of transformers

<!-- `PYTHONPATH=.:tests/support python -m decoder_families` prints this page; do not edit it. -->

Every causal language model of transformers {version}, built small with one layer of each kind, and
the recipe that fits it: {count} families, in each of which a rule takes every parameter. The last
column compares the weights that transformers itself gives with the recipe, by `verify`.

| family | class | recipe | parameters | by role | without a rule | own weights |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Left out:

{left}
"""


def main() -> None:
    """Print the page."""
    import transformers

    transformers.logging.set_verbosity_error()
    every = [tried(family) for family in families() if family not in LEFT_OUT]
    sys.stdout.write(page(every, transformers.__version__))


if __name__ == "__main__":
    main()
