"""Checks of models that transformers shards itself, on two ranks; see gloo_ranks.py."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.distributed import DistributedConfig

import initstats
from filling_ranks import Collectives, shard_of
from gloo_ranks import Check

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def whole(seed: int, *, tied: bool = False) -> Any:
    """Return the model as one process has it, and its receipt."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG, tie_word_embeddings=tied))
    return model, initstats.init_(model, "llama", seed=seed)


def sharded(model: Any) -> Any:
    """Return a model that transformers loads, sharded by its own plan."""
    held: list[object] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(held)
    if dist.get_rank() == 0:
        copy.deepcopy(model).save_pretrained(str(held[0]))
    dist.barrier()
    config = DistributedConfig(tp_plan="auto")
    return AutoModelForCausalLM.from_pretrained(str(held[0]), distributed_config=config)


def local(parameter: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()


def assert_equal(model: Any, expected: Any) -> None:
    wholes = dict(expected.named_parameters())
    for name, parameter in model.named_parameters():
        part = wholes[name].detach()
        if isinstance(parameter, DTensor):
            part = shard_of(part, parameter)
        assert torch.equal(local(parameter), part), name


def what_was_loaded_is_kept() -> None:
    expected, receipt = whole(0)
    model = sharded(expected)
    assert any(isinstance(p, DTensor) for p in model.parameters())
    kept = initstats.init_(model, "llama", seed=1)
    assert all(entry["keep"] for entry in kept.entries.values())
    assert_equal(model, expected)
    assert receipt.check(model) == {}


def from_scratch_it_equals_one_process() -> None:
    for tied in (False, True):
        expected, receipt = whole(7, tied=tied)
        model = sharded(whole(0, tied=tied)[0])
        for parameter in model.parameters():
            parameter._is_hf_initialized = False
        with Collectives() as sent:
            initstats.init_(model, "llama", seed=7)
        assert sent.count == 0
        assert_equal(model, expected)
        assert receipt.check(model) == {}
        report = initstats.verify(model, "llama")
        assert report.ok, str(report)
        tokens = torch.arange(12).view(2, 6)
        with torch.no_grad():
            mine, alone = (local(m(tokens).logits) for m in (model, expected))
        torch.testing.assert_close(mine, alone, rtol=1e-5, atol=1e-6)
        if dist.get_rank() == 1:
            local(model.model.norm.weight)[0] += 2**-8
        found = [(e.name, e.problem) for e in initstats.verify(model, "llama").failures]
        assert found == [("model.norm.weight", "replicas differ: rank 1 from rank 0")], found


def a_warm_start_takes_whole_tensors() -> None:
    expected, receipt = whole(7)
    model = sharded(whole(0)[0])
    state = {n: p for n, p in expected.state_dict().items() if "mlp" not in n}
    for parameter in model.parameters():
        parameter._is_hf_initialized = False
    done = initstats.warm_start_(model, state, "llama", seed=7)
    assert done.initialised
    assert all("mlp" in name for name in done.initialised)
    assert receipt.check(model) == {}


CHECKS: list[Check] = [
    what_was_loaded_is_kept,
    from_scratch_it_equals_one_process,
    a_warm_start_takes_whole_tensors,
]
