"""Bugs that were reported of other projects, each as a model that has it, and what finds it.

Others are beside the recipes that they are about: `tests/recipes/test_recipe_references*.py`.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from initstats import init
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import Normal, Recipe, Rule, TruncNormal
from initstats.verification.verifier import verify


def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_attention_heads=4))


@pytest.mark.parametrize("garbage", [0.0, 1e30, 0.5])
def test_rotary_frequencies_that_to_empty_lost_are_found_and_written(garbage: float) -> None:
    """torchtitan#4783: inv_freq is a buffer that no checkpoint holds and `to_empty` leaves."""
    with torch.device("meta"):
        model = llama()
    model.to_empty(device="cpu")
    model.model.rotary_emb.inv_freq.fill_(garbage)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    init_(model, "llama", seed=0)  # the parameters: to_empty left nothing that tells of the buffer
    assert {entry.kind for entry in verify(model, "llama").failures} == {"buffers"}
    with torch.device("meta"):
        model = llama()
    init_(model, "llama", seed=0, device="cpu")
    assert verify(model, "llama").ok
    assert torch.equal(model.model.rotary_emb.inv_freq, llama().model.rotary_emb.inv_freq)


def test_an_initialisation_after_weight_norm_is_lost_and_found() -> None:
    """jik876/hifi-gan#145: `weight.data.normal_` on a weight that the next forward recomputes."""
    recipe = Recipe([Rule("*.bias", Normal(0.01)), Rule("*.weight", Normal(0.01))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(*(nn.utils.weight_norm(nn.Conv1d(64, 64, 7)) for _ in range(2)))
    for layer in model:
        layer.weight.data.normal_(0.0, 0.01)  # what init_weights of HiFi-GAN does
        layer.bias.data.normal_(0.0, 0.01)
    with pytest.raises(
        ValueError, match=r"expected a plain parameter, got 0\.weight_.*parametrized"
    ):
        plan(model, Recipe([Rule("*", Normal(0.01))]))
    model(torch.randn(1, 64, 16))
    for layer in model:
        nn.utils.remove_weight_norm(layer)
    failures = verify(model, recipe).failures
    assert {(entry.name, entry.kind) for entry in failures} == {
        ("0.weight", "std"),
        ("1.weight", "std"),
    }
    assert {e.cause for e in failures} == {"as torch leaves it: no initialiser reached it"}


def test_truncated_normals_have_no_outliers_and_verify_finds_them() -> None:
    """pytorch#155588: inverse error functions of -1 end at the bound, 2000 deviations away."""
    weight = nn.Parameter(torch.empty(2048, 2048))
    init.trunc_normal_(weight, std=0.001, seed=0, name="weight")
    assert float(weight.detach().abs().max()) < 6.3e-3
    model = nn.Linear(512, 512, bias=False)
    recipe = Recipe([Rule("weight", TruncNormal.absolute(0.001))])
    init_(model, recipe, seed=0)
    assert verify(model, recipe).ok
    with torch.no_grad():
        model.weight[3, 5] = -2.0  # a legal value, once in 262,144
    (failure,) = verify(model, recipe).failures
    assert failure.kind in {"std", "extremes"}
