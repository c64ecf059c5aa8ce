"""Bugs that real code bases had for months or years, made again and found, each with its cause."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import init

import named_models
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.verification.verifier import VerifyReport, verify
from named_models import LAYERS, Tree, linear


def healthy(model: Any, recipe: str) -> Any:
    init_(model, recipe, seed=0)
    assert verify(model, recipe).ok
    return model


def kinds(report: VerifyReport) -> dict[str, str]:
    return {entry.name: entry.kind for entry in report.failures}


def test_residual_scaling_that_is_never_applied() -> None:
    # transformers#47458: the test of the name compared with the whole name, and never held.
    model = healthy(named_models.nano_gpt(), "gpt2")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            init.normal_(parameter, std=0.02)
    report = verify(model, "gpt2")
    assert len(report.failures) == 2 * LAYERS
    assert {e.kind for e in report.failures} == {"std"}
    assert all("transformers#47458" in entry.cause for entry in report.failures)


def test_the_wrong_matrix_is_scaled() -> None:
    # llama2.c#579: w3 is scaled, and w2, which writes to the residual stream, is not.
    recipe = recipes.megatron()
    model = named_models.titan_llama()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            scaled = name.endswith(("w3.weight", "wo.weight"))
            init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if scaled else 0.02)
    report = verify(model, recipe)
    causes = {entry.name.split(".")[-2]: entry.cause for entry in report.failures}
    assert set(causes) == {"w2", "w3"}
    assert "was not applied" in causes["w2"]
    assert "llama2.c#579" in causes["w3"]


def test_packed_projections_initialised_as_one_matrix() -> None:
    # pytorch#166378: nn.MultiheadAttention calls xavier_uniform_ on [3 d, d].
    torch.manual_seed(0)
    model = nn.MultiheadAttention(64, 4, bias=False)
    init.xavier_uniform_(model.out_proj.weight)
    report = verify(model, "vit_moco")
    assert kinds(report) == {"in_proj_weight": "std"}
    assert "(x 0.70" in report.failures[0].problem
    assert "pytorch#166378" in report.failures[0].cause


def test_parameters_that_are_never_written() -> None:
    # nanochat#686, llm-foundry#1745: to_empty after meta, and an init that misses some.
    with torch.device("meta"):
        model = named_models.nano_gpt()
    init_(model, "gpt2", seed=0, device="cpu")
    block = model["transformer"]["h"][1]
    with torch.no_grad():
        block["mlp"]["c_fc"].weight.zero_()  # fresh pages
        block["attn"]["c_attn"].weight.view(torch.int32).random_(2**31 - 1)  # used ones
    report = verify(model, "gpt2")
    found = {entry.name.split(".")[-2]: (entry.kind, entry.cause) for entry in report.failures}
    assert found["c_fc"][0] == "constant"
    assert "never written" in found["c_fc"][1]
    assert found["c_attn"][0] in {"not finite", "std"}
    assert "never written" in found["c_attn"][1]
    assert set(found) == {"c_fc", "c_attn"}


def test_a_head_of_nan() -> None:
    # transformers#46002: a new head on a loaded model is left as torch.empty gave it.
    model = healthy(named_models.timm_vit(), "vit")
    with torch.no_grad():
        model["head"].weight[3].fill_(math.nan)
    report = verify(model, "vit")
    assert kinds(report) == {"head.weight": "not finite"}
    assert report.failures[0].problem == "32 NaN and 0 infinite values"


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_same_shard_on_every_rank(ranks: int, dim: int) -> None:
    # torchtitan#3106: every rank seeds alike and draws its own shard.
    model = healthy(named_models.titan_llama(), "llama")
    weight = model["layers"]["1"]["feed_forward"]["w1"].weight
    with torch.no_grad():
        shard = weight.chunk(ranks, dim)[0].clone()
        weight.copy_(torch.cat([shard] * ranks, dim))
    report = verify(model, "llama")
    assert kinds(report) == {"layers.1.feed_forward.w1.weight": "shards"}
    assert report.failures[0].problem == f"the {ranks} parts along dimension {dim} are equal"
    assert "torchtitan#3106" in report.failures[0].cause


def test_replicas_that_differ() -> None:
    # OLMo-core#319: each replica group draws with a seed of its own.
    first, second = named_models.titan_llama(), named_models.titan_llama()
    receipt = init_(first, "llama_torchtitan", seed=0)
    init_(second, "llama_torchtitan", seed=1)
    assert receipt.check(first) == {}
    differing = receipt.check(second)
    assert set(differing) == {n for n, p in second.named_parameters() if p.dim() == 2}
    assert differing["output.weight"].startswith("other values than seed 0 of recipe llama_torch")


def test_lora_whose_std_depends_on_the_tensor_parallel_size() -> None:
    # Megatron-Bridge#5840: fans of the shard of A that a rank holds.
    model = named_models.LoraLinear(256, 64, rank=16)
    bound = 1 / math.sqrt(256 / 4)
    torch.manual_seed(0)
    init.uniform_(model.lora_A["default"].weight, -bound, bound)
    init.zeros_(model.lora_B["default"].weight)
    report = verify(model, "lora")
    assert kinds(report) == {"lora_A.default.weight": "bounds"}
    assert "one of 4 shards" in report.failures[0].cause
    assert "Megatron-Bridge#5840" in report.failures[0].cause


def test_double_initialisation_where_the_last_call_wins() -> None:
    # fastai#2090: a general init runs over a special one.
    model = healthy(named_models.timm_vit(), "vit")
    torch.manual_seed(0)
    init.trunc_normal_(model.cls_token, std=0.02)
    report = verify(model, "vit")
    assert kinds(report) == {"cls_token": "std"}
    assert "initialised twice, the last call wins" in report.failures[0].cause


def test_an_untied_head_with_std_1() -> None:
    # transformers#26441: a first loss near 110.
    model = Tree(shared=nn.Embedding(256, 64), lm_head=linear(64, 256, bias=False))
    torch.manual_seed(0)
    init.normal_(model["shared"].weight)
    init.normal_(model["lm_head"].weight)
    report = verify(model, "t5")
    assert kinds(report) == {"lm_head.weight": "std"}
    assert "transformers#26441" in report.failures[0].cause
