"""verify with recipe "auto": what explains a model best, and what that leaves unexplained."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import named_models
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.cli.application import app
from initstats.planning.initialize import init_
from initstats.recipes import RECIPES, by_name
from initstats.recipes.library.building import VARIANTS
from initstats.verification.verifier import verify


def small_gpt() -> DemoGPT:
    return DemoGPT(DemoConfig(vocabulary=512, context=32, layers=3, width=64))


@pytest.mark.parametrize("name", ["gpt2", "bert", "torch_default", "modernbert"])
def test_the_recipe_that_made_a_model_is_found(name: str) -> None:
    model = small_gpt()
    init_(model, name, seed=1)
    report = verify(model, "auto")
    assert report.ok
    assert report.recipe == name
    best, *others = report.candidates
    assert (best.recipe, best.explained, best.parameters) == (name, 1.0, 0)
    assert [each.explained for each in others[3:]] == sorted(
        (each.explained for each in others[3:]), reverse=True
    )
    assert f"elements that recipes explain: {name} 100.0%" in str(report)
    assert report.to_dict()["candidates"][0]["recipe"] == name


def test_recipes_that_promise_the_same_are_equally_good() -> None:
    model = small_gpt()
    init_(model, "llama", seed=1)  # N(0, 0.02) in all matrices, as in many others
    found = {each.recipe for each in verify(model, "auto").candidates if each.explained == 1.0}
    assert {"llama", "bert_transformers", "gemma"} <= found
    assert "gpt2" not in found


def test_what_the_recipe_does_not_explain_is_named() -> None:
    model = small_gpt()
    init_(model, "gpt2", seed=1)
    model.extra = nn.Linear(8, 8)
    model.bare = nn.Parameter(torch.full((3, 5), 7.0))
    with torch.no_grad():
        model.h[1].attn.c_proj.weight.mul_(1.5)
    report = verify(model, "auto")
    assert report.recipe in {"gpt2", "megatron"}
    assert "h.1.attn.c_proj.weight" in {entry.name for entry in report.failures}
    assert "bare" in report.unmatched
    assert report.candidates[0].explained < 1


def test_the_command_finds_the_recipe_of_a_file(tmp_path: Path) -> None:
    model = named_models.timm_vit()
    init_(model, "vit_moco", seed=1)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    arguments = ["verify", str(tmp_path / "vit.pt"), "--recipe", "auto", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"]
    assert report["candidates"][0]["explained"] == 1.0
    assert "vit_moco" in {c["recipe"] for c in report["candidates"] if c["explained"] == 1.0}


def test_a_file_that_is_read_in_blocks_gives_the_same(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as distributed_checkpoint

    model = small_gpt()
    init_(model, "bert", seed=1)
    state = model.state_dict()
    del state["lm_head.weight"]  # tied
    with warnings.catch_warnings():  # that this process is alone
        warnings.simplefilter("ignore")
        distributed_checkpoint.save(state, checkpoint_id=tmp_path / "step", no_dist=True)
    arguments = ["verify", str(tmp_path / "step"), "--recipe", "auto", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["candidates"][0]["explained"] == 1.0
    assert json.loads(result.stdout)["recipe"] == "bert"


def test_what_auto_cannot_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="recipe='auto', got weight on the meta device"):
        verify(nn.Linear(4, 4, device="meta"), "auto")
    with pytest.raises(TypeError, match=r"expected model to be a torch\.nn\.Module, got model=int"):
        verify(3, "auto")  # type: ignore[arg-type]


def small_mamba() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256, "state_size": 8}
    return transformers.MambaForCausalLM(transformers.MambaConfig(**sizes))


def small_llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


def small_convnext_v2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextV2Config(num_stages=2, hidden_sizes=[16, 32], depths=[2, 2])
    return transformers.ConvNextV2ForImageClassification(config)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (small_mamba, "mamba1(variant='transformers')"),
        (small_llama, "llama"),
        (small_convnext_v2, "convnextv2"),
    ],
)
def test_models_of_transformers_are_called_by_their_name(
    build: Callable[[], nn.Module], name: str
) -> None:
    torch.manual_seed(0)
    report = verify(build(), "auto")
    assert report.ok
    assert report.recipe == name


def test_a_truncation_that_the_first_look_cannot_see_is_found() -> None:
    model = small_llama()
    init_(model, "olmo2", seed=0)  # std 0.0197 for N(0, 0.02) of a dozen others
    report = verify(model, "auto")
    assert report.ok
    assert report.recipe == "olmo2"


def test_every_variant_is_compared() -> None:
    for name, make in RECIPES.items():
        recipe = by_name(name)
        option = inspect.signature(make).parameters.get("variant")
        if option is None or recipe.partial:
            continue
        with pytest.raises(ValueError, match="expected variant among") as found:
            make(variant="none of them")
        words = str(found.value).partition("among ")[2].partition(", got")[0]
        assert VARIANTS[name] == tuple(words.split(", "))
        assert option.default == VARIANTS[name][0]
