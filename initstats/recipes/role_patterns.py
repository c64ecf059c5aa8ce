"""Name patterns for the layers of each role in common code bases."""

from __future__ import annotations

import re
from typing import Literal

RoleName = Literal[
    "embedding",
    "position",
    "token",
    "attention input",
    "attention output",
    "mlp input",
    "mlp output",
    "norm",
    "head",
    "convolution",
    "recurrent",
    "adapter",
    "gate",
    "router",
    "linear",
    "other",
]

# Parts of a path. peft: lora_A, lora_embedding_B, IA3, VeRA, prompts; others: adapters.
ADAPTER = re.compile(
    r"lora_[A-Za-z_]*|adapter\w*|\w*_adapters?|ia3_\w+|vera_\w+|prompt_encoder|prefix_\w+"
)
# A module that holds attention: self_attn, attn, attention, SelfAttention, EncDecAttention, attn1.
ATTENTION_PART = re.compile(r"(?i)attn|attention")
# Leaves.
ATTENTION_INPUT = re.compile(
    r"q|k|v|qkv|kv|[Ww]_?(q|k|v|kv|qkv)|c_(attn|q|k|v)|q_attn|query|key|value|query_key_value"
    r"|(q|k|v|kv|qkv|qk|in|att|query|key|value)_proj|q_proj_[ab]|kv_proj_[ab]|(q|kv)_[ab]_proj|kv_a_proj_with_mqa|w(q|kv)_[ab]|to_(q|k|v|kv|qkv)"
    r"|(add_)?[qkv]_lin|linear_(q|k|v|kv|qkv)|in_proj_(weight|bias)|[qkv]_proj_weight|bias_[kv]"
)
ATTENTION_OUTPUT = re.compile(r"o|o_proj|attn_out|attn_proj|linear_proj|out_lin|resid_proj|to_out")
MLP_INPUT = re.compile(
    r"w1|w3|w12|w[13]_EFD|mlp1_(weight|bias)(_EGD?)?|[Ww]i|wi_\d|c_fc|fc1|fc_in|fc_1|lin1|linear1|linear_fc1|ff_proj|ff_in|pwconv1"
    r"|dense_h_to_4h|(up|gate|gate_up)_proj(_bias)?|intermediate|mlp_in|input_linear"
)
MLP_OUTPUT = re.compile(
    r"w2|w2_EDF|mlp2_(weight|bias)(_EDF?)?|[Ww]o|c_proj|fc2|fc_out|fc_2|lin2|linear2|linear_fc2|ff_out|pwconv2|dense_4h_to_h|down_proj(_bias)?"
    r"|mlp_out|output_linear|out_proj|proj_out"
)
HEAD = re.compile(
    r"lm_head|head|heads|(\w+_)?classifier|vocab_(projector|transform)|score|logits|to_logits|embed_out|qa_outputs|seq_relationship"
    r"|final_layer|prediction_head|output_layer|predictions|generator_lm_head|lm_loss|pred_layer"
)
# torchtitan: output; torchvision: fc; OLMo: ff_out; Whisper: proj_out; fairseq: output_projection.
# Outside the blocks only.
HEAD_OUTSIDE = re.compile(
    r"output|fc|decoder|cls|out|readout|generator|ff_out|proj_out|output_projection"
)
ROUTER = re.compile(r"router|gate|switch|gating")
# The layer of a module that is called so: JetMoE, LongCat.
ROUTER_LAYER = re.compile(r"layer|classifier|linear")
# Residual gates and layer scale; adaLN makes gates, shifts and scales.
GATE = re.compile(
    r"adaLN_modulation|layer_scale\w*|layerscale\w*|ls\d?|gamma(_\d)?|lambda_?\d?|alpha"
    r"|resweight\w*|re_?zero\w*|skip_?gain|skip_init|\w*_gate|lambda_layer_scale|residual_gate"
    r"|multiplier"
)
TOKEN = re.compile(r"(cls|class|dist|reg|register|mask|distillation)_?(token|embedding)s?")
POSITION = re.compile(
    r"wpe|pos_?emb|position|relative_attention_bias|rel_pos|relative_bias|pe$|embed_positions"
)
# Parameters with numbers of their own: no rule on kinds or roles takes them. Time constants and
# decays of state-space and linear-recurrent layers (Mamba, VMamba, S4, RWKV, RG-LRU, gated delta
# nets); mixing coefficients of RWKV; attention sinks; temperatures and biases of contrastive heads.
SPECIAL = re.compile(
    r"(^|\.)(A_logs?|log_A(_real|_imag)?|A_(real|imag)|Ds?|dt_(projs_)?bias|dt_proj[._]bias|(log|inv)_dt"
    r"|time_(decay|first|faaaa|mix_\w+|maa_\w+)|recurrent_param|a_param|x_[rwkvag]|k_[ka]|r_k|[wav]0"
    r"|[BC]_bias|mimo_[xzo]|sinks?|attention_sinks?|logit_(scale|bias)|log_?std)$"
)
