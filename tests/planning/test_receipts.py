"""Receipts: data that is JSON, makes the same weights again, and tells what has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initstats
import named_models
from initstats.init.keys import key_of
from initstats.planning.initialize import init_
from initstats.planning.receipt import Receipt
from initstats.recipes import Constant, Kept, Normal, Part, Stacked, TruncNormal
from initstats.recipes.distributions.json import distribution_from_dict, distribution_to_dict
from named_models import Tree


def test_a_receipt_holds_recipe_seed_versions_keys_and_fingerprints() -> None:
    model = named_models.nano_gpt()
    values = init_(model, "gpt2", seed=5).to_dict()
    assert values["schema"] == "initstats.receipt/1"
    assert (values["recipe"], values["seed"]) == ("gpt2", 5)
    assert values["versions"] == {"torch": torch.__version__, "initstats": initstats.__version__}
    entry = values["parameters"][0]
    name = "transformer.wte.weight"
    assert entry["name"] == name
    assert entry["tied_to"] == ["lm_head.weight"]
    assert entry["key"] == f"{key_of(5, name):016x}"
    record = initstats.stats(model.get_parameter(name).detach(), fingerprint=True)
    assert entry["fingerprint"] == f"{record.fingerprint:016x}"


def test_a_saved_receipt_makes_the_same_weights_again(tmp_path: Path) -> None:
    first, second = named_models.timm_vit(), named_models.timm_vit()
    init_(first, "vit", seed=1).save(tmp_path / "receipt.json")
    receipt = Receipt.load(tmp_path / "receipt.json")
    assert set(receipt.check(second)) >= {"head.weight", "pos_embed"}
    receipt.remake_(second)
    assert receipt.check(second) == {}
    for (name, p), q in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_receipt_finds_its_parameters_under_the_names_of_wrappers() -> None:
    model = named_models.tanh_mlp()
    receipt = init_(model, "mlp", seed=1)
    assert receipt.check(Tree(module=model)) == {}


def test_check_names_what_was_changed_and_what_is_gone() -> None:
    model = named_models.tanh_mlp()
    receipt = init_(model, "mlp", seed=1)
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-7
    assert receipt.check(model) == {
        "0.weight": "other values than seed 1 of recipe mlp gives",
    }
    del model[2]
    assert receipt.check(model)["2.weight"] == "not in the model"
    with pytest.raises(
        ValueError, match=r"^initstats.Receipt.remake_: expected a model with 2.weight, got none"
    ):
        receipt.remake_(model)


def test_a_receipt_refuses_a_model_of_another_shape_dtype_or_on_meta() -> None:
    receipt = init_(nn.Linear(4, 4), "mlp", seed=0)
    with torch.device("meta"):
        empty = nn.Linear(4, 4)
    for model in (nn.Linear(4, 5), nn.Linear(4, 4).half(), empty):
        with pytest.raises(ValueError, match=r"^initstats.Receipt.check: expected weight of shape"):
            receipt.check(model)
        with pytest.raises(ValueError, match=r"^initstats.Receipt.remake_: expected weight of"):
            receipt.remake_(model)


def test_a_receipt_without_fingerprints_cannot_check() -> None:
    model = nn.Linear(4, 4)
    receipt = init_(model, "mlp", seed=0, fingerprints=False)
    assert receipt.to_dict()["parameters"][0]["fingerprint"] is None
    with pytest.raises(ValueError, match=r"^initstats.Receipt.check: expected a receipt with fing"):
        receipt.check(model)


def test_a_receipt_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^initstats.Receipt: expected schema 'initstats.rec"):
        Receipt.from_dict({"schema": "initstats.receipt/9"})


def test_what_a_receipt_keeps_is_not_written_again() -> None:
    model = named_models.dit()
    positions = model.pos_embed.detach().clone()
    receipt = init_(model, "dit", seed=0)
    assert "pos_embed" not in receipt.fingerprints
    receipt.remake_(model)
    assert torch.equal(model.pos_embed, positions)


def test_a_receipt_prints_what_was_done() -> None:
    text = str(init_(named_models.nano_gpt(), "gpt2", seed=4))
    assert "initialised by recipe gpt2, seed 4" in text
    assert "3 x transformer.h.*.mlp.c_fc.weight" in text


@pytest.mark.parametrize(
    "distribution",
    [
        Normal(0.1, 2.0),
        TruncNormal(1.0, -float("inf"), 3.0),
        Stacked([Part(Constant(1.0), 3, "a"), Part(Normal(1.0), 2, "b", "key")], 1),
        Kept("positions"),
    ],
)
def test_a_distribution_survives_json(distribution: Any) -> None:
    text = json.dumps(distribution_to_dict(distribution), allow_nan=False)
    assert distribution_from_dict(json.loads(text)) == distribution


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^initstats.Receipt: expected a distribution among"):
        distribution_from_dict({"kind": "Cauchy"})
