"""Healthy language models of transformers, by the library's own init or by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from initstats import init_
from zoo import data
from zoo.specimens import Builder, Size, Specimen, Stepper

VOCABULARY = 256
CONTEXT = 32


def causal(kind: str, size: Size, **config: Any) -> Specimen:
    """Build a decoder of transformers with the init of the library, and a batch of text."""
    torch.manual_seed(size.seed)
    family = getattr(hf, kind)
    width = size.wide(64)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": size.deep(4),
        "num_attention_heads": 4,
        "intermediate_size": 3 * width,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    model = family(family.config_class(**{**sizes, **config}))
    tokens = data.text(size.many(8), CONTEXT, size.seed, VOCABULARY)
    return Specimen(model, {"input_ids": tokens, "labels": tokens})


def _gpt2(size: Size) -> Specimen:
    sizes = {"n_embd": size.wide(64), "n_layer": size.deep(4), "n_head": 4}
    return causal("GPT2LMHeadModel", size, n_positions=64, **sizes)


def gpt2(size: Size) -> Specimen:
    specimen = _gpt2(size)
    init_(specimen.model, "gpt2", seed=size.seed)
    return specimen.but(optimizer=Stepper(rate=6e-4))


def gpt2_checkpointed(size: Size) -> Specimen:
    specimen = _gpt2(size)
    specimen.model.activation_checkpointing_enable({"use_reentrant": False})
    return specimen


class Autocast(nn.Module):
    """Runs a model under autocast to bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(**batch)


def gpt2_autocast(size: Size) -> Specimen:
    specimen = gpt2(size)
    return specimen.but(model=Autocast(specimen.model))


def gpt2_bfloat16(size: Size) -> Specimen:
    """Weights in bfloat16 that a step of 1e-3 moves."""
    specimen = gpt2(size)
    return specimen.but(model=specimen.model.to(torch.bfloat16), optimizer=Stepper(rate=1e-3))


def llama(size: Size) -> Specimen:
    specimen = causal("LlamaForCausalLM", size, num_key_value_heads=2)
    init_(specimen.model, "llama", seed=size.seed)
    return specimen.but(optimizer=Stepper(rate=3e-4))


def mistral(size: Size) -> Specimen:
    return causal("MistralForCausalLM", size, num_key_value_heads=2)


def qwen(size: Size) -> Specimen:
    tied = causal("Qwen2ForCausalLM", size, num_key_value_heads=2, tie_word_embeddings=True)
    return tied.but(optimizer=Stepper(rate=3e-4))


def gemma(size: Size) -> Specimen:
    """Its norms multiply by 1 + w with w = 0."""
    return causal("GemmaForCausalLM", size, num_key_value_heads=2, head_dim=16)


def opt(size: Size) -> Specimen:
    width = size.wide(64)
    sizes = {"ffn_dim": 4 * width, "word_embed_proj_dim": width, "max_position_embeddings": 64}
    return causal("OPTForCausalLM", size, **sizes)


def gpt_neox(size: Size) -> Specimen:
    specimen = causal("GPTNeoXForCausalLM", size, max_position_embeddings=64)
    return specimen.but(optimizer=Stepper(rate=3e-4))


def mixtral(size: Size) -> Specimen:
    sizes = {"num_key_value_heads": 2, "num_local_experts": 4, "output_router_logits": True}
    return causal("MixtralForCausalLM", size, **sizes)


def mamba(size: Size) -> Specimen:
    return causal("MambaForCausalLM", size, state_size=8)


def bert(size: Size) -> Specimen:
    """Masked language modelling: 15 % of the tokens are hidden and asked for."""
    specimen = causal("BertForMaskedLM", size, max_position_embeddings=64)
    init_(specimen.model, "bert_transformers", seed=size.seed)
    tokens = specimen.batch["input_ids"]
    hidden = torch.rand(tokens.shape) < 0.15
    batch = {
        "input_ids": tokens.masked_fill(hidden, 1),
        "labels": tokens.masked_fill(~hidden, -100),
    }
    return specimen.but(batch=batch)


def roberta_classifier(size: Size) -> Specimen:
    """Sentences with a padding mask, and one label each."""
    specimen = causal(
        "RobertaForSequenceClassification", size, max_position_embeddings=64, num_labels=3
    )
    tokens = specimen.batch["input_ids"]
    lengths = torch.randint(CONTEXT // 2, CONTEXT + 1, (len(tokens), 1))
    mask = torch.arange(CONTEXT).view(1, -1) < lengths
    labels = torch.randint(3, (len(tokens),))
    batch = {"input_ids": tokens.masked_fill(~mask, 0), "attention_mask": mask, "labels": labels}
    return specimen.but(batch=batch, optimizer=Stepper(rate=5e-5))


def _translated(size: Size) -> Mapping[str, Tensor]:
    both = data.text(size.many(8), 2 * CONTEXT, size.seed, VOCABULARY)
    return {
        "input_ids": both[:, :CONTEXT].contiguous(),
        "labels": both[:, CONTEXT:].contiguous(),
    }


def t5(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width, depth = size.wide(64), size.deep(4)
    sizes = {"d_model": width, "d_kv": 16, "d_ff": 4 * width, "num_heads": 4}
    config = hf.T5Config(vocab_size=VOCABULARY, num_layers=depth, decoder_start_token_id=0, **sizes)
    model = hf.T5ForConditionalGeneration(config)
    return Specimen(model, _translated(size))


def bart(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width, depth = size.wide(64), size.deep(3)
    config = hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=width,
        max_position_embeddings=64,
        **{f"{side}_layers": depth for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    )
    return Specimen(hf.BartForConditionalGeneration(config), _translated(size))


class LowRank(nn.Module):
    """A frozen layer with a trained detour of rank 4 that starts at zero."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(inputs, 4, bias=False)
        self.lora_B = nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 4 * self.lora_B(self.lora_A(x))
        return out


def lora(size: Size) -> Specimen:
    """A frozen Llama whose queries and values are adapted."""
    specimen = causal("LlamaForCausalLM", size, num_key_value_heads=4)
    specimen.model.requires_grad_(False)
    width = size.wide(64)
    for name, module in list(specimen.model.named_modules()):
        if name.endswith("self_attn"):
            module.q_proj = LowRank(module.q_proj, width, width)
            module.v_proj = LowRank(module.v_proj, width, width)
    return specimen


MODELS: dict[str, Builder] = {
    f.__name__: f
    for f in (
        *(gpt2, gpt2_checkpointed, gpt2_autocast, gpt2_bfloat16, llama, mistral, qwen, gemma),
        *(opt, gpt_neox, mixtral, mamba, bert, roberta_classifier, t5, bart, lora),
    )
}
