"""Transformed, computed and derived parameters, slices and buffers: written, and read again."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initstats import ensemble, init_, init_new_, plan, verify
from initstats.planning.receipt import Receipt
from initstats.recipes import (
    Computed,
    Constant,
    Derived,
    Distribution,
    LogUniform,
    Match,
    Normal,
    NormalisedRows,
    Orthogonal,
    Part,
    Recipe,
    Rule,
    Slices,
    Slot,
    Stacked,
    Transformed,
)

HEADS, STATES, CHANNELS = 64, 16, 32


def computed(name: str, **arguments: object) -> Callable[[Slot], Distribution]:
    return lambda slot: Computed(name, tuple(slot.parameter.shape), arguments)


class Mixer(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.dt_bias = nn.Parameter(torch.empty(HEADS))
        self.lru = nn.Parameter(torch.empty(HEADS))
        self.time = nn.Parameter(torch.empty(HEADS))
        self.decay = nn.Parameter(torch.empty(HEADS))
        self.A_log = nn.Parameter(torch.empty(CHANNELS, STATES))
        self.conv = nn.Conv2d(8, 12, 3, bias=False)
        self.experts = nn.Parameter(torch.empty(3, 16, 24))
        self.rows = nn.Linear(24, 40, bias=False)
        self.pos = nn.Parameter(torch.empty(1, 17, 16), requires_grad=False)
        self.gates = nn.Parameter(torch.empty(2 * HEADS))
        self.head = nn.Linear(16, 50, bias=False)
        self.embed = nn.Embedding(50, 16)
        self.turned = nn.Parameter(torch.empty(16, 50))
        self.magnitude = nn.Parameter(torch.empty(50, 1))
        self.columns = nn.Parameter(torch.empty(16))
        self.register_buffer("scale", torch.empty(()), persistent=False)
        self.register_buffer("bias_mask", torch.empty(6))
        self.register_buffer("position_ids", torch.arange(4))


def parts(_: Slot) -> Stacked:
    ramp = Computed("linspace", (HEADS,), {"start": 3.0, "end": 6.0})
    return Stacked([Part(Normal(0.1), HEADS, "in"), Part(ramp, HEADS, "forget")])


RULES = [
    Rule("*dt_bias", Transformed.time_step()),
    Rule("lru", Transformed.decay_radius()),
    Rule("time", Transformed.log_uniform(0.001, 0.1)),
    Rule("decay", LogUniform(1.0, 16.0)),
    Rule("*A_log", computed("log_arange")),
    Rule("conv.weight", Slices(Orthogonal(12, 8), (2, 3))),
    Rule("experts", Slices(Orthogonal(16, 24, gain=0.5))),
    Rule("rows.weight", NormalisedRows(24, 2.0)),
    Rule("pos", computed("sincos_2d", prefix=1)),
    Rule("gates", parts),
    Rule("head.weight", Normal(0.02)),
    Rule("embed.weight", Derived("copy", "head.weight")),
    Rule("turned", Derived("transpose", "*head.weight")),
    Rule("magnitude", Derived("row norms", "head.weight")),
    Rule("columns", Derived("column norms", "head.weight")),
    Rule("*scale", Constant(4.0)),
    Rule("*bias_mask", computed("linspace", start=0.0, end=1.0)),
]
MIXER = Recipe(RULES, name="mixer")


def on_meta(dtype: torch.dtype = torch.float32) -> Mixer:
    with torch.device("meta"):
        model = Mixer()
        model.position_ids = torch.arange(4)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_kind_is_initialised_from_meta_and_verified(dtype: torch.dtype) -> None:
    for seed in range(3):
        model = on_meta(dtype)
        receipt = init_(
            model, MIXER, seed=seed, device="cpu", buffers={"position_ids": torch.arange(4)}
        )
        report = verify(model, MIXER)
        assert report.ok, [(e.name, e.problem) for e in report.failures]
        assert receipt.check(model) == {}
    assert model.scale == 4
    assert not model.pos.requires_grad


def test_values_are_those_of_the_definitions() -> None:
    model = Mixer()
    init_(model, MIXER, seed=0)
    head = model.head.weight.detach()
    assert torch.equal(model.embed.weight, head)
    assert torch.equal(model.turned, head.T)
    torch.testing.assert_close(model.magnitude.detach(), head.norm(dim=1, keepdim=True))
    torch.testing.assert_close(model.columns.detach(), head.norm(dim=0))
    torch.testing.assert_close(model.rows.weight.detach().norm(dim=1), torch.full((40,), 2.0))
    step = nn.functional.softplus(model.dt_bias.detach())
    assert 0.001 * (1 - 1e-5) <= float(step.min()) <= float(step.max()) <= 0.1 * (1 + 1e-5)
    # exp(-softplus) of the recurrent parameter is the radius, U(.9^2, .999^2) after squaring.
    radius = torch.exp(-nn.functional.softplus(model.lru.detach()))
    assert 0.9 - 1e-5 <= float(radius.min()) <= float(radius.max()) <= 0.999 + 1e-5
    for tap in model.conv.weight.detach().permute(2, 3, 0, 1).flatten(0, 1):
        torch.testing.assert_close(tap.T @ tap, torch.eye(8), atol=1e-5, rtol=0)
    for expert in model.experts.detach():
        torch.testing.assert_close(expert @ expert.T, 0.25 * torch.eye(16), atol=1e-5, rtol=0)
    assert not torch.equal(model.experts[0], model.experts[1])
    assert torch.equal(model.A_log[5], torch.arange(1, 17).double().log().float())


def test_the_bits_of_a_transformed_parameter_come_from_its_name_and_dtype_alone() -> None:
    first, second = Mixer(), Mixer()
    init_(first, MIXER, seed=3)
    init_(second, MIXER, seed=3)
    assert torch.equal(first.dt_bias, second.dt_bias)
    alone = nn.Module()
    alone.dt_bias = nn.Parameter(torch.empty(HEADS))
    init_(alone, Recipe([Rule("dt_bias", Transformed.time_step())]), seed=3)
    assert torch.equal(alone.dt_bias, first.dt_bias)
    narrow = nn.Module()
    narrow.dt_bias = nn.Parameter(torch.empty(HEADS, dtype=torch.bfloat16))
    init_(narrow, Recipe([Rule("dt_bias", Transformed.time_step())]), seed=3)
    assert torch.equal(narrow.dt_bias, alone.dt_bias.bfloat16())


def test_a_receipt_makes_them_again_after_json() -> None:
    first, second = Mixer(), Mixer()
    receipt = init_(first, MIXER, seed=7)
    text = json.dumps(receipt.to_dict(), allow_nan=False)
    again = Receipt.from_dict(json.loads(text))
    again.remake_(second)
    assert again.check(second) == {}
    for name, values in first.named_parameters():
        assert torch.equal(values, second.get_parameter(name)), name
    assert second.scale == 4


def test_the_plan_pickles_and_says_what_is_written() -> None:
    planned = plan(Mixer(), MIXER)
    text = str(planned)
    for words in (
        "row norms of head.weight",
        "orthogonal in each slice of dimensions (2, 3)",
        "other, a buffer",
        "rows of norm 2",
        "log_arange()",
        "transpose of head.weight",
    ):
        assert words in text, words
    assert json.dumps(planned.to_dict(), allow_nan=False)
    simple = Recipe([rule for rule in RULES if not callable(rule.fill)])
    assert pickle.loads(pickle.dumps(simple)) == simple


def test_members_of_an_ensemble_differ_where_they_are_random() -> None:
    first, second = ensemble(Mixer, 2, MIXER, seed=0)
    assert not torch.equal(first.dt_bias, second.dt_bias)
    assert torch.equal(first.pos, second.pos)
    assert torch.equal(second.embed.weight, second.head.weight)


def test_a_kept_source_is_copied_from() -> None:
    model = nn.ModuleDict(
        {"trained": nn.Linear(8, 6, bias=False), "new": nn.Linear(8, 6, bias=False)}
    )
    before = model["trained"].weight.detach().clone()
    recipe = Recipe([Rule("new.weight", Derived("copy", "trained.weight"))], partial=True)
    init_new_(model, {"trained.weight"}, recipe, seed=0)
    assert torch.equal(model["new"].weight, before)
    assert verify(model, recipe).ok


# ---- buffers


def test_a_buffer_is_taken_by_a_rule_that_names_it_and_by_no_other() -> None:
    model = nn.Module()
    model.proj = nn.Linear(4, 4)
    model.register_buffer("running", torch.full((4,), 3.0))
    init_(model, Recipe([Rule(Match("*"), Normal(0.1))]), seed=0)
    assert torch.equal(model.running, torch.full((4,), 3.0))
    assert "running" not in str(plan(model, Recipe([Rule(Match("*"), Normal(0.1))])))
    named = Recipe([Rule("*running", Constant(0.0)), Rule("*", Normal(0.1))])
    init_(model, named, seed=0)
    assert not model.running.any()


def test_a_planned_buffer_on_meta_needs_no_maker_and_stays_what_it_was() -> None:
    with torch.device("meta"):
        model = nn.Module()
        model.proj = nn.Linear(4, 4)
        model.register_buffer("unknown", torch.empty(3), persistent=False)
    rest = Rule("proj.*", Normal(0.1))
    with pytest.raises(ValueError, match="unknown on the meta device"):
        init_(model, Recipe([rest]), seed=0, device="cpu")
    init_(model, Recipe([Rule("*unknown", Constant(2.0)), rest]), seed=0, device="cpu")
    assert isinstance(model.unknown, Tensor)
    assert not isinstance(model.unknown, nn.Parameter)
    assert model.unknown.tolist() == [2.0] * 3
    assert "unknown" not in model.state_dict()


def test_an_integer_buffer_is_refused() -> None:
    model = nn.Module()
    model.proj = nn.Linear(4, 4)
    model.register_buffer("count", torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="floating-point"):
        plan(model, Recipe([Rule("*count", Constant(0.0)), Rule("*", Normal(0.1))]))


# ---- refusals: nothing is written


def refused(rules: list[Rule], words: str, *, error: type[Exception] = ValueError) -> None:
    model = Mixer()
    model.head.weight.data.fill_(9.0)
    model.magnitude.data.fill_(9.0)
    with pytest.raises(error, match=words):
        init_(model, Recipe(rules), seed=0, allow_unmatched=True)
    assert bool((model.head.weight == 9).all())
    assert bool((model.magnitude == 9).all())


HEAD = Rule("head.weight", Normal(0.02))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([Rule("magnitude", Derived("copy", "tail.weight"))], "one parameter 'tail.weight'"),
        ([HEAD, Rule("magnitude", Derived("row norms", "*.weight"))], "got conv.weight, rows"),
        ([HEAD, Rule("magnitude", Derived("copy", "head.weight"))], "of the shape of the copy"),
        ([HEAD, Rule("magnitude", Derived("transpose", "time"))], "of the shape of the transpose"),
        (
            [
                HEAD,
                Rule("embed.weight", Derived("copy", "head.weight")),
                Rule("magnitude", Derived("row norms", "embed.weight")),
            ],
            "derived from values that are not",
        ),
        ([HEAD, Rule("*A_log", Computed("log_arange", (3,)))], "to compute values of shape"),
        ([HEAD, Rule("magnitude", Slices(Normal(1.0), (2,)))], "to slice dimensions of"),
    ],
)
def test_what_does_not_fit_is_refused(rules: list[Rule], words: str) -> None:
    refused(rules, words)


def test_a_source_without_values_is_refused() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)})
    model["b"] = nn.Linear(4, 4, bias=False, device="meta")
    recipe = Recipe([Rule("a.weight", Derived("copy", "b.weight")), Rule("b.weight", Normal(1.0))])
    before = model["a"].weight.detach().clone()
    with pytest.raises(ValueError, match=r"got b\.weight on the meta device"):
        init_(model, recipe, seed=0)
    assert torch.equal(model["a"].weight, before)


# ---- verify


def wrong(name: str, change: Callable[[Tensor], object]) -> tuple[str, str]:
    model = Mixer()
    init_(model, MIXER, seed=0)
    with torch.no_grad():
        change(model.get_parameter(name))
    failures = verify(model, MIXER).failures
    assert {e.name.partition("[")[0] for e in failures} == {name}, [e.name for e in failures]
    return failures[0].kind, failures[0].problem + "; " + failures[0].cause


def set_one(x: Tensor) -> None:
    x.view(-1)[5] += 0.01


@pytest.mark.parametrize(
    ("name", "change", "kind", "words"),
    [
        ("dt_bias", lambda x: x.fill_(1.0), "constant", "1 everywhere"),
        ("dt_bias", lambda x: x.zero_(), "constant", "never written"),
        ("dt_bias", lambda x: x.sub_(0.5), "bounds", "values outside"),
        ("dt_bias", lambda x: x.uniform_(-5.5, -3.7), "std", "std"),
        # The mean and std of the right distribution, with two values.
        ("lru", lambda x: x.copy_(torch.tensor([-2.31, -4.15]).repeat(32)), "shape", "wrong side"),
        ("A_log", lambda x: x.fill_(1.0), "values", "a generic initialiser filled it"),
        ("A_log", lambda x: x.normal_(), "values", "512 of 512 values differ"),
        ("pos", lambda x: x.zero_(), "values", "never written"),
        ("pos", set_one, "values", "1 of 272 values differ, the first at [0, 0, 5]"),
        ("gates", lambda x: x[HEADS:].fill_(3.0), "values", "63 of 64"),
        ("embed.weight", set_one, "values", "1 of 800 values differ"),
        ("turned", lambda x: x.mul_(1.0001), "values", "800 of 800"),
        ("magnitude", lambda x: x.mul_(1.001), "values", "50 of 50"),
        ("columns", lambda x: x.fill_(1.0), "values", "16 of 16"),
        ("conv.weight", lambda x: x.normal_(0, 12**-0.5), "orthogonal", "not orthonormal"),
        ("experts", lambda x: x[1].copy_(x[0]), "duplicate", "the same values as experts[0]"),
        ("rows.weight", lambda x: x.mul_(1.03), "std", "x 1.03"),
        ("rows.weight", lambda x: x[0].mul_(1.01), "norms", "norm of row 0 is off by 0.01"),
    ],
)
def test_verify_finds_it(
    name: str, change: Callable[[Tensor], object], kind: str, words: str
) -> None:
    found, text = wrong(name, change)
    assert found == kind, text
    assert words in text, text


def test_verify_reads_buffers() -> None:
    model = Mixer()
    init_(model, MIXER, seed=0)
    model.bias_mask.fill_(math.nan)
    (failure,) = verify(model, MIXER).failures
    assert (failure.name, failure.kind) == ("bias_mask", "not finite")
