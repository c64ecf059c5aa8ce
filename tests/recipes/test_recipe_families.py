"""The recipe of every decoder of transformers: a rule for every parameter, and the page of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import decoder_families
from initstats.planning.initialize import init_
from initstats.recipes import by_name
from recipe_checks import accepts

transformers = pytest.importorskip("transformers")

PAGE = Path(__file__).resolve().parents[2] / "docs/guides/decoders.md"
# Families with parameters that no other one has, and one of each recipe.
SOME = (
    "afmoe", "apertus", "bailing_hybrid", "bamba", "cpmant", "dbrx", "deepseek_v4", "diffllama",
    "doge", "dory", "electra", "gemma3n_text", "granite_swa", "hrm_text", "hy_v4", "inkling2_text",
    "inkling_text", "jamba", "jetmoe", "kimi_linear", "llama", "mixtral", "nanochat", "nemotron_h",
    "olmo_hybrid", "reformer", "rwkv", "xlm", "xlnet", "xmod", "youtu", "zamba", "zamba2", "zaya",
)  # fmt: skip


@pytest.mark.parametrize("family", SOME)
def test_a_rule_takes_every_parameter_and_the_own_weights_are_as_promised(family: str) -> None:
    found = decoder_families.tried(family)
    assert found.unmatched == ()
    assert found.differs == ()
    model = decoder_families.build(family)
    recipe = by_name(decoder_families.call(family, model.config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    init_(model, recipe, seed=0)
    accepts(model, recipe)


@pytest.mark.long
def test_the_page_of_all_families_is_up_to_date() -> None:
    if f"transformers {transformers.__version__}," not in PAGE.read_text():
        pytest.skip(f"the page is that of another version than {transformers.__version__}")
    known = decoder_families.families()
    every = [
        decoder_families.tried(family)
        for family in known
        if family not in decoder_families.LEFT_OUT
    ]
    assert {one.family: one.unmatched for one in every if one.unmatched} == {}
    assert {one.family for one in every if one.differs} == set(decoder_families.DIFFERENCES)
    assert set(decoder_families.RECIPES) | set(decoder_families.LEFT_OUT) <= set(known)
    assert PAGE.read_text() == decoder_families.page(every, transformers.__version__)
