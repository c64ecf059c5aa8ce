"""What verify finds besides known bugs: ties, copies, shapes, extremes, zero rows, padding."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import init

import named_models
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.recipes import Match, Recipe, Rule, Slot, Uniform
from initstats.verification.verifier import VerifyReport, verify
from named_models import LAYERS, Tree, linear


def healthy(model: Any, recipe: str) -> Any:
    init_(model, recipe, seed=0)
    assert verify(model, recipe).ok
    return model


def kinds(report: VerifyReport) -> dict[str, str]:
    return {entry.name: entry.kind for entry in report.failures}


def test_blocks_copied_after_initialisation() -> None:
    # nn.TransformerEncoder copies the layer that it is given.
    model = healthy(named_models.nano_gpt(), "gpt2")
    model["transformer"]["h"][2] = copy.deepcopy(model["transformer"]["h"][0])
    report = verify(model, "gpt2")
    assert set(kinds(report).values()) == {"duplicate"}
    assert {entry.name.split(".")[2] for entry in report.failures} == {"2"}
    assert report.failures[0].problem.startswith("the same values as transformer.h.0.")


def test_one_block_put_into_every_place() -> None:
    model = named_models.nano_gpt()
    block = model["transformer"]["h"][0]
    model["transformer"]["h"] = nn.ModuleList([block] * LAYERS)
    init_(model, "gpt2", seed=0)
    report = verify(model, "gpt2")
    assert set(kinds(report).values()) == {"tied"}
    assert len(report.failures) == len(list(block.parameters()))
    assert verify(model, "gpt2", ignore={"tied"}).ok


def test_layers_of_different_roles_that_are_tied() -> None:
    model = named_models.titan_llama()
    block = model["layers"]["0"]
    block["attention"]["wo"].weight = block["attention"]["wq"].weight
    init_(model, "llama", seed=0)
    report = verify(model, "llama")
    assert kinds(report) == {"layers.0.attention.wq.weight": "tied"}


def test_residual_scaling_that_is_applied_twice() -> None:
    model = healthy(named_models.nano_gpt(), "gpt2")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.div_(math.sqrt(2 * LAYERS))
    report = verify(model, "gpt2")
    assert {entry.cause for entry in report.failures} == {"residual projections were scaled twice"}


def test_no_initialisation_at_all() -> None:
    torch.manual_seed(0)
    report = verify(named_models.timm_vit(), "vit")
    causes = {entry.name: entry.cause for entry in report.failures}
    assert causes["blocks.0.mlp.fc1.weight"].startswith("as torch leaves it")
    assert "pos_embed" in causes


def test_swapped_fans_variances_and_truncation_are_told_by_their_ratio() -> None:
    def with_std(std: float) -> str:
        torch.manual_seed(0)
        model = Tree(mlp=Tree(fc1=linear(64, 512, bias=False)))
        init.normal_(model["mlp"]["fc1"].weight, std=std)
        return verify(model, recipe).failures[0].cause

    recipe = recipes.mlp(activation="relu")
    std = math.sqrt(2 / 64)
    assert with_std(math.sqrt(2 / 512)) == "fan_in and fan_out are swapped"
    assert with_std(std * std).startswith("the variance was passed")
    assert with_std(0.88 * std).startswith("truncated at two standard deviations")
    assert with_std(5 * std) == "another initialiser wrote it, or it was trained"


def test_another_distribution_of_the_same_std_is_found_by_its_shape() -> None:
    model = Tree(fc1=linear(64, 64, bias=False))
    recipe = Recipe([Rule("*", recipes.Normal(0.02))])
    bound = 0.02 * math.sqrt(3)
    init_(model, Recipe([Rule("*", Uniform(-bound, bound))]), seed=0)
    assert kinds(verify(model, recipe)) == {"fc1.weight": "shape"}
    std = 0.02 / recipes.TruncNormal(1.0, -3.0, 3.0).std
    init_(model, Recipe([Rule("*", recipes.TruncNormal.at(std, 3))]), seed=0)
    large = Tree(fc1=linear(512, 512, bias=False))
    init_(large, Recipe([Rule("*", recipes.TruncNormal.at(std, 3))]), seed=0)
    assert kinds(verify(large, recipe)) == {"fc1.weight": "extremes"}


def test_one_wild_value_is_found() -> None:
    model = healthy(named_models.titan_llama(), "llama")
    with torch.no_grad():
        model["output"].weight[0, 0] = 0.2
    report = verify(model, "llama")
    assert kinds(report) == {"output.weight": "extremes"}
    assert "largest value 0.2 is too far out" in report.failures[0].problem


def test_rows_that_were_added_and_never_written() -> None:
    model = healthy(named_models.titan_llama(), "llama")
    with torch.no_grad():
        model["tok_embeddings"].weight[-1] = 0.0
    report = verify(model, "llama")
    assert kinds(report) == {"tok_embeddings.weight": "zero rows"}
    assert report.failures[0].problem == "1 rows are 0, the first is 47"


def test_a_padding_row_must_be_zero_and_counts_for_nothing_else() -> None:
    model = Tree(embed_tokens=nn.Embedding(64, 32, padding_idx=5))
    healthy(model, "llama")
    weight = model["embed_tokens"].weight
    assert not weight[5].any()
    assert int((weight == 0).all(dim=1).sum()) == 1
    entry = verify(model, "llama").entries[0]
    others = torch.cat([weight[:5], weight[6:]]).detach().double()
    assert entry.count == 63 * 32
    assert entry.std == pytest.approx(float(others.std()), rel=1e-6)
    assert entry.mean == pytest.approx(float(others.mean()), rel=1e-5)
    with torch.no_grad():
        weight[5] = 0.02
    assert kinds(verify(model, "llama")) == {"embed_tokens.weight": "padding"}


def test_a_matrix_that_is_not_orthogonal_is_found() -> None:
    model = healthy(nn.LSTM(32, 32), "lstm")
    torch.manual_seed(0)
    with torch.no_grad():
        rows = torch.randn(128, 32, dtype=torch.float64)
        model.weight_hh_l0.copy_(rows / rows.norm(dim=0))  # columns of norm 1, so the right std
    report = verify(model, "lstm")
    assert kinds(report) == {"weight_hh_l0": "orthogonal"}


def test_the_std_of_an_orthogonal_matrix_is_known_sharply() -> None:
    # 4096 independent values would allow 5 %.
    model = healthy(nn.LSTM(32, 32), "lstm")
    with torch.no_grad():
        model.weight_hh_l0.mul_(1.01)
    assert kinds(verify(model, "lstm")) == {"weight_hh_l0": "std"}


def test_the_rules_of_a_recipe_can_look_at_the_place() -> None:
    def by_depth(slot: Slot) -> recipes.Normal:
        return recipes.Normal(0.02 / (1 + (slot.block or 0)))

    model = named_models.nano_gpt()
    recipe = Recipe(
        [Rule(Match(kind="bias"), recipes.Constant(0.0)), Rule("*", by_depth)], name="mine"
    )
    init_(model, recipe, seed=0)
    assert verify(model, recipe).ok


def test_a_kind_to_ignore_must_exist() -> None:
    with pytest.raises(ValueError, match=r"^initstats.verify: expected ignore among not finite, "):
        verify(nn.Linear(2, 2), "mlp", ignore={"nothing"})
