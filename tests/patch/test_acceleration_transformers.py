"""fast_init around models of transformers: distributions, its guard for loaded weights, restoring.

The weights are those of small configurations; the false-alarm rate of a fresh seed is 1e-6 per
check.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import transformers
from torch.nn import init
from transformers import initialization

import initstats

SIZES = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4}


def models() -> dict[str, Callable[[], transformers.PreTrainedModel]]:
    wide = {**SIZES, "intermediate_size": 256}
    gpt2 = transformers.GPT2Config(
        n_layer=2, n_embd=128, n_head=4, vocab_size=500, bos_token_id=0, eos_token_id=0
    )
    return {
        "gpt2": lambda: transformers.GPT2LMHeadModel(gpt2),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**wide, vocab_size=500)),
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**wide)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)),
    }


@pytest.mark.parametrize("name", ["gpt2", "bert", "vit", "dinov2"])
def test_weights_have_the_stds_that_transformers_gives_them(name: str) -> None:
    build = models()[name]
    torch.manual_seed(0)
    with initstats.fast_init() as fast:
        ours = dict(build().named_parameters())
    theirs = dict(build().named_parameters())
    assert ours.keys() == theirs.keys()
    assert not {f for f, _ in fast.report.left} - {"normal_", "uniform_"}
    for parameter, value in ours.items():
        mine, other = value.detach(), theirs[parameter].detach()
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        n = mine.numel()
        if float(other.std()) == 0 or n < 1000:
            continue
        assert abs(float(mine.std() / other.std()) - 1) < 4.9 * math.sqrt(2) / math.sqrt(2 * n)
        assert not torch.equal(mine, other)


def test_every_random_fill_of_gpt2_runs_here() -> None:
    with initstats.fast_init() as fast:
        model = models()["gpt2"]()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    assert fast.report.elements["normal_"] >= sum(p.numel() for p in matrices)
    assert not fast.report.left


def test_same_seed_same_model_in_the_block() -> None:
    def state() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        with initstats.fast_init():
            return dict(models()["dinov2"]().state_dict())

    first, second = state(), state()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_that_were_loaded_keep_their_values() -> None:
    guarded = torch.zeros(4, 4)
    guarded._is_hf_initialized = True
    with initstats.fast_init() as fast, initialization.guard_torch_init_functions():
        for name in ("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_", "orthogonal_"):
            getattr(init, name)(guarded)
            getattr(initialization, name)(guarded)
        free = init.normal_(torch.zeros(4, 4))
    assert not guarded.any()
    assert bool(free.any())
    assert fast.report.accelerated == {"normal_": 1}


def test_the_references_of_transformers_are_those_of_torch_afterwards() -> None:
    with initstats.fast_init():
        models()["vit"]()
    for name, function in initialization.TORCH_INIT_FUNCTIONS.items():
        assert function is getattr(init, name)


def test_a_block_inside_the_guard_of_transformers_leaves_the_guard_alone() -> None:
    guarded = torch.zeros(4, 4)
    guarded._is_hf_initialized = True
    with initialization.guard_torch_init_functions(), initstats.fast_init() as fast:
        init.normal_(guarded)
        init.normal_(torch.zeros(4, 4))
    assert not guarded.any()
    assert fast.report.accelerated == {"normal_": 1}
