"""The coordinate check: what it passes, what it fails, and the layer that it blames."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import initstats
from initstats import coord_check, recipes
from initstats.coordinates import CoordReport
from initstats.recipes import Multipliers, Recipe, Slot
from initstats.recipes.distributions.composite import Distribution
from width_models import Gpt, UnitGpt, mup_gpt, perceptron, text

WIDTHS, BASE = (32, 64, 128, 256), 32
FULL = recipes.mup(base=BASE, zero_query=False, zero_readout=False)
BATCH = text(rows=2)


def check(build: Any, recipe: Recipe | str | None, **options: Any) -> CoordReport:
    options.setdefault("widths", WIDTHS)
    return coord_check(build, options.pop("widths"), BATCH, recipe=recipe, seeds=2, **options)


class Deep(Gpt):
    """Twice the base's depth, with the multipliers of CompleteP."""

    def __init__(self, width: int) -> None:
        super().__init__(width, logit_scale=BASE / width, layers=4, residual=1 / 2)


# ---- passes and fails


@pytest.mark.parametrize(
    ("build", "recipe", "optimizer"),
    [
        (mup_gpt(BASE), recipes.mup(base=BASE), "adamw"),
        (mup_gpt(BASE), FULL, "adam"),
        (mup_gpt(BASE), FULL, "sgd"),
        (mup_gpt(BASE), FULL, "muon"),
        (Gpt, recipes.mup(base=BASE, absorb=True), "adamw"),
        (mup_gpt(BASE), recipes.mup(base=BASE, form="nanogpt"), "adamw"),
        (mup_gpt(BASE), recipes.completep(base=BASE), "adamw"),
        (Deep, recipes.completep(base=BASE, base_layers=2), "adamw"),
        (Gpt, recipes.spectral(base=BASE), "adamw"),
        (Gpt, recipes.spectral(base=BASE), "sgd"),
        (UnitGpt, recipes.u_mup(), "adamw"),
        (UnitGpt, recipes.u_mup(), "adam"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_models_of_the_family_pass(build: Any, recipe: Recipe, optimizer: str) -> None:
    report = check(build, recipe, optimizer=optimizer)
    assert report.ok, report.findings
    assert report.blamed == ()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("recipe", ["gpt2", None])
def test_standard_parametrisations_fail(recipe: str | None, optimizer: str) -> None:
    report = check(Gpt, recipe, optimizer=optimizer)
    assert not report.ok
    slopes = {layer.name: layer.slopes["own update"][1].value for layer in report.layers}
    assert max(slopes.values()) > 0.7  # a wrong exponent is off by 1/2 or 1


def test_a_standard_model_fails_under_u_mup_and_the_other_way_round() -> None:
    """Without the multipliers of the forward pass, or with them and another recipe."""
    assert "h.0.mlp.c_fc" in check(Gpt, recipes.u_mup()).blamed
    assert not check(UnitGpt, "gpt2").ok
    assert not check(UnitGpt, None).ok


def test_embeddings_of_u_mup_have_learning_rates_that_fall_with_the_root_of_the_width() -> None:
    unit = recipes.u_mup()

    def constant(slot: Slot, optimizer: str) -> Multipliers:
        found = unit.rules[unit.matches(slot)[0][0]].multipliers_of(slot, optimizer)
        return Multipliers() if slot.role.name in {"embedding", "position"} else found

    rules = [replace(rule, multipliers=constant) for rule in unit.rules]
    report = check(UnitGpt, replace(unit, rules=rules))
    assert report.blamed == ("wte", "wpe")
    assert report.findings[0].value == pytest.approx(0.0, abs=0.1)
    assert report.findings[0].fix.startswith("divide the learning rate")


def with_fault(name: str, *, lr: bool) -> Recipe:
    """Return the recipe with the standard multiplier, or deviation, in one matrix."""

    def multipliers(slot: Slot, optimizer: str) -> Multipliers:
        found = FULL.rules[FULL.matches(slot)[0][0]].multipliers_of(slot, optimizer)
        if slot.name != f"{name}.weight":
            return found
        hidden = slot.growth.kind == "hidden"
        return Multipliers(lr=1.0 if hidden else 1 / slot.width_mult)

    def fill_of(rule: recipes.Rule) -> Callable[[Slot], Distribution]:
        def fill(slot: Slot) -> Distribution:
            promised = rule.distribution(slot)
            wrong = slot.name == f"{name}.weight"
            return promised.scaled(slot.width_mult**0.5) if wrong else promised

        return fill

    rules = [
        replace(rule, multipliers=multipliers) if lr else replace(rule, fill=fill_of(rule))
        for rule in FULL.rules
    ]
    return replace(FULL, rules=rules)


@pytest.mark.parametrize(
    "name",
    ["h.0.attn.o_proj", "h.0.mlp.c_fc", "h.1.attn.k_proj", "h.1.mlp.c_proj", "wte", "lm_head"],
)
def test_the_layer_with_a_wrong_learning_rate_is_named(name: str) -> None:
    report = check(mup_gpt(BASE), with_fault(name, lr=True))
    assert report.blamed == (name,)
    assert report.findings[0].rule == "own-update"
    word = "multiply" if name in {"wte", "lm_head"} else "divide"
    assert report.findings[0].fix.startswith(f"{word} the learning rate")


@pytest.mark.parametrize("name", ["h.0.attn.o_proj", "h.0.mlp.c_fc", "h.1.attn.k_proj", "wte"])
def test_the_layer_with_a_wrong_standard_deviation_is_named(name: str) -> None:
    report = check(mup_gpt(BASE), with_fault(name, lr=False))
    assert report.blamed == (name,)
    assert report.findings[0].rule == "output"
    assert report.findings[0].value == pytest.approx(0.5, abs=0.1)


def test_logits_that_are_not_multiplied_are_found_at_the_model() -> None:
    report = check(Gpt, FULL)
    assert report.blamed == ("(model)",)
    assert [one.ok for one in report.forward if one.where == "logits"] == [False]


def test_a_wrong_weight_decay_is_not_seen() -> None:
    """microsoft/mup#73."""

    def build(model: nn.Module) -> torch.optim.Optimizer:
        groups = FULL.param_groups(model, lr=1e-3, weight_decay=0.1)
        for group in groups:
            group["weight_decay"] = 0.1  # not multiplied
        return torch.optim.AdamW(groups, eps=1e-12)

    assert check(mup_gpt(BASE), FULL, optimizer=build).ok


def test_a_recipe_without_a_base_takes_the_first_width() -> None:
    batch = torch.randn(32, 8), torch.randint(4, (32,))
    recipe = recipes.mup(absorb=True, zero_readout=False)
    assert coord_check(perceptron, WIDTHS, batch, recipe=recipe).ok
    report = coord_check(perceptron, WIDTHS, batch)
    assert set(report.blamed) == {"2", "4"}


# ---- measurements


def test_own_updates_are_what_the_layers_own_parameters_change() -> None:
    torch.manual_seed(0)
    models: list[nn.Sequential] = []

    def build(width: int) -> nn.Sequential:
        models.append(nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3)))
        return models[-1]

    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    report = coord_check(build, (8, 16), (x, y), steps=2, seeds=1, optimizer="sgd", lr=0.1)
    torch.manual_seed(0)
    before = build(8)
    after = models[0]
    with torch.no_grad():
        hidden = after[0](x)
        own = after[1](hidden) - before[1](hidden)
        change = after(x) - before(x)
    first, last = report.layers[0], report.layers[-1]
    assert [layer.name for layer in report.layers] == ["0", "1", "(model)"]
    rms = report.layers[1].sizes["own update"][1, 0, 0]
    assert rms == pytest.approx(float(own.square().mean().sqrt()), rel=1e-5)
    assert last.sizes["change"][1, 0, 0] == pytest.approx(
        float(change.square().mean().sqrt()), rel=1e-5
    )
    assert first.sizes["input"][0, 0, 0] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-6)
    assert last.sizes["output"].shape == (2, 2, 1)
    assert report.losses[8].shape == (1, 2)


def test_dropout_and_batch_norm_do_not_disturb_the_measurement() -> None:
    def build(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 4)
        )

    batch = torch.randn(32, 8), torch.randint(4, (32,))
    report = coord_check(build, (16, 32), batch, steps=2, seeds=1, lr=1e-9)
    # Nothing moves at this rate, so that nothing may change.
    for layer in report.layers:
        assert layer.sizes["change"][1].max() < 1e-5, layer.name


def test_a_check_is_repeatable_and_leaves_the_generators_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = check(mup_gpt(BASE), FULL, widths=(32, 64), steps=2).to_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert check(mup_gpt(BASE), FULL, widths=(32, 64), steps=2).to_dict() == first


def test_transformers_models_are_checked_by_their_logits() -> None:
    transformers = pytest.importorskip("transformers")

    def build(width: int) -> nn.Module:
        config = transformers.LlamaConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=width // 16,
            num_key_value_heads=width // 16,
            head_dim=16,
            vocab_size=64,
        )
        model: nn.Module = transformers.LlamaForCausalLM(config)
        return model

    ids = text()[0][:2]
    batch = {"input_ids": ids, "labels": ids}
    report = coord_check(build, WIDTHS, batch, recipe=recipes.mup(base=BASE, absorb=True), seeds=2)
    assert report.ok, report.findings
    assert report.layers[-1].sizes["output"][1].min() > 0
    assert not coord_check(build, WIDTHS, batch, recipe="llama", seeds=2).ok


# ---- the report


@pytest.fixture(scope="module")
def failed() -> CoordReport:
    return check(mup_gpt(BASE), with_fault("h.0.mlp.c_fc", lr=True))


def test_the_table_names_the_layer_and_the_exponent(failed: CoordReport) -> None:
    printed = str(failed)
    assert "to blame: h.0.mlp.c_fc" in printed
    assert "h.0.mlp.c_fc: the effect of its own update on its output grows with width^0." in printed
    assert "follows" in printed
    assert "logits x 1/m" in printed
    assert "no size depends on the width from 32 to 64" in str(
        check(mup_gpt(BASE), FULL, widths=(32, 64), steps=2)
    )


def test_the_report_is_saved_as_json_and_a_page(failed: CoordReport, tmp_path: Any) -> None:
    values, page = failed.save(tmp_path / "out")
    read = json.loads(values.read_text())
    assert read == failed.to_dict()
    assert read["schema"] == "initstats.coordinates/1"
    assert read["blamed"] == ["h.0.mlp.c_fc"]
    html = page.read_text()
    assert (
        html.count("<figure") == 4 + 3 + 3
    )  # outputs at each step, changes and own from the second
    assert "to blame: h.0.mlp.c_fc" in html
    heads, *rows = re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    assert {row.count("<td") for row in rows} == {heads.count("<th")} == {2 + 4 + 3 + 3}
    assert len(rows) == len(failed.layers)
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "<iframe" in failed._repr_html_()


def test_names_are_escaped_on_the_page() -> None:
    class Odd(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.add_module("<b>", nn.Linear(4, width))
            self.add_module("out", nn.Linear(width, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = self.children()
            return second(first(x))  # type: ignore[no-any-return]

    batch = torch.randn(8, 4), torch.randint(2, (8,))
    page = coord_check(Odd, (4, 8), batch, steps=2, seeds=1).page()
    assert "<b></" not in page
    assert "&lt;b&gt;" in page


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (32,)}, r"two widths or more, ascending and >= 1, got widths=\[32\]"),
        ({"widths": (64, 32)}, "two widths or more, ascending"),
        ({"widths": (0, 32)}, "two widths or more, ascending"),
        ({"steps": 1}, "expected steps >= 2, got steps=1"),
        ({"seeds": 0}, "expected seeds >= 1, got seeds=0"),
        ({"seed": -1}, "expected seed >= 0, got seed=-1"),
        ({"lr": 0.0}, "expected lr finite and > 0, got lr=0.0"),
        ({"tolerance": 0.0}, "expected tolerance finite and > 0"),
        ({"errors": -1.0}, "expected errors >= 0, got errors=-1.0"),
        ({"optimizer": "adamq"}, "got optimizer='adamq'; the nearest is 'adam'"),
        ({"optimizer": "muon"}, "expected a recipe with optimizer='muon'"),
        ({"recipe": "gpt3"}, "the nearest is 'gpt2'"),
        ({"batch": ()}, "initstats.coord_check: expected a batch of at least one example"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    given = {"build": Gpt, "widths": (16, 32), "batch": BATCH, **options}
    with pytest.raises(ValueError, match=message):
        coord_check(given.pop("build"), given.pop("widths"), given.pop("batch"), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"build": nn.Linear(2, 2)}, "expected build to be a function from a width to a model"),
        ({"build": lambda _: 3}, "expected build to return a torch.nn.Module for a width, got int"),
        ({"widths": "64,128"}, "expected widths to be a list of integers"),
        ({"widths": (16, 32.0)}, r"expected widths to be integers, got 32\.0"),
        ({"steps": 2.0}, r"expected steps to be an int, got steps=2\.0"),
        ({"batch": None}, "initstats.coord_check: expected a batch, got batch=None"),
        ({"loss_fn": 3}, "expected loss_fn to be callable"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer to be a name, or a function"),
        ({"optimizer": lambda _: 3}, "expected optimizer to return optimizers, got 3"),
        (
            {"batch": torch.zeros(2, 16, dtype=torch.int64)},
            "expected a scalar loss|expected a loss",
        ),
    ],
)
def test_things_of_another_kind_are_refused(options: dict[str, Any], message: str) -> None:
    given = {"build": Gpt, "widths": (16, 32), "batch": BATCH, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        coord_check(given.pop("build"), given.pop("widths"), given.pop("batch"), **given)


def test_models_with_other_layers_are_refused() -> None:
    def build(width: int) -> nn.Module:
        return Gpt(width, layers=width // 16)

    with pytest.raises(ValueError, match=r"the same layers at every width, got 'h\.1"):
        coord_check(build, (16, 32), BATCH, seeds=1)


def test_it_is_a_public_name() -> None:
    assert initstats.coord_check is coord_check
    assert initstats.CoordReport is CoordReport
    assert CoordReport.__module__ == "initstats"
