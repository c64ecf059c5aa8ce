"""Recipes: their numbers, which parameters they take, and the errors of their parts."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from initstats import recipes
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.planning.planner import plan
from initstats.recipes import Constant, Match, Normal, Recipe, Rule, Slot, Uniform
from initstats.recipes.parameters import stack_blocks
from initstats.verification.verifier import verify

LAYERS = 6


def demo_gpt() -> DemoGPT:
    return DemoGPT(DemoConfig(vocabulary=64, context=16, layers=LAYERS, width=16, heads=2))


def promised(model: nn.Module, recipe: Recipe) -> dict[str, str]:
    return {entry.name: str(entry.distribution) for entry in plan(model, recipe)}


def test_gpt2_promises_the_published_numbers() -> None:
    # nanoGPT model.py: N(0, 0.02), c_proj.weight N(0, 0.02 / sqrt(2 n_layer)), bias 0, norm 1, 0.
    residual = 0.02 / math.sqrt(2 * LAYERS)
    for entry in plan(demo_gpt(), recipes.gpt2()):
        if entry.name.endswith("c_proj.weight"):
            assert entry.distribution == Normal(residual)
            assert entry.rule == "residual projection"
        elif entry.name.endswith("bias"):
            assert entry.distribution == Constant(0.0)
        elif "ln_" in entry.name:
            assert entry.distribution == Constant(1.0)
        else:
            assert entry.distribution == Normal(0.02)


def test_gpt2_takes_every_parameter_of_the_demo_and_the_tied_head_once() -> None:
    model = demo_gpt()
    planned = plan(model, recipes.gpt2())
    assert planned.unmatched == ()
    assert len(planned) == len(list(model.parameters()))
    head = [entry for entry in planned if entry.parameter is model.lm_head.weight]
    assert [(entry.name, entry.tied_to) for entry in head] == [("wte.weight", ("lm_head.weight",))]


def test_gpt2_position_std_is_that_of_openai_when_asked() -> None:
    numbers = promised(demo_gpt(), recipes.gpt2(position_std=0.01))
    assert numbers["wpe.weight"] == "N(0, 0.01)"
    assert numbers["wte.weight"] == "N(0, 0.02)"


def test_gpt2_takes_the_layer_norm_of_nanogpt_with_and_without_bias() -> None:
    class LayerNorm(nn.Module):  # as in nanoGPT: torch's own has always had a bias
        def __init__(self, width: int, *, bias: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))
            self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    model = nn.ModuleDict({"a": LayerNorm(4, bias=True), "b": LayerNorm(4, bias=False)})
    assert promised(model, recipes.gpt2()) == {"a.weight": "1", "a.bias": "0", "b.weight": "1"}


def test_gpt2_of_transformers_has_the_promised_stds() -> None:
    # The oracle is transformers' own initialisation; false-alarm rate 1e-4 at a fixed seed.
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=3,
        n_embd=64,
        n_head=2,
        vocab_size=512,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    report = verify(model, "gpt2")
    assert report.ok, [entry.problem for entry in report.failures]
    assert {entry.name for entry in report.entries} == {
        name for name, _ in model.named_parameters()
    }
    stds = {entry.expected_std for entry in report.entries}
    assert stds == {0.0, 0.02, 0.02 / math.sqrt(6)}


def test_gpt2_outside_a_stack_of_blocks_needs_the_number_of_layers() -> None:
    model = nn.ModuleDict({"c_proj": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match=r"got name='c_proj.weight'; give the number of blocks"):
        plan(model, recipes.gpt2())
    assert promised(model, recipes.gpt2(layers=8))["c_proj.weight"] == "N(0, 0.005)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": 0.0}, "expected std finite and > 0, got std=0.0"),
        ({"std": math.nan}, "expected std finite and > 0, got std=nan"),
        ({"position_std": -1.0}, "expected position_std finite and > 0, got position_std=-1.0"),
        ({"layers": 0}, "expected layers >= 1, got layers=0"),
    ],
)
def test_gpt2_refuses_bad_numbers(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^initstats.gpt2: {message}$"):
        recipes.gpt2(**options)  # type: ignore[arg-type]


def test_every_available_recipe_can_be_made_by_name_and_states_its_source() -> None:
    assert "gpt2" in recipes.available()
    for name in recipes.available():
        recipe = recipes.by_name(name)
        assert recipe.name == name
        assert recipe.source
        assert "Source:" in (getattr(recipes, name).__doc__ or "")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"expected one of .*, got name='gtp2'; the nearest is 'gpt2'"
    ):
        recipes.by_name("gtp2")


def test_uniform_moments_are_those_of_a_sample() -> None:
    distribution = Uniform(-1.0, 3.0)
    sample = np.random.default_rng(0).uniform(-1.0, 3.0, 400_000)
    assert distribution.mean == pytest.approx(sample.mean(), abs=0.01)
    assert distribution.std == pytest.approx(sample.std(), rel=0.01)
    fourth = np.mean((sample - sample.mean()) ** 4) / sample.var() ** 2
    assert distribution.kurtosis == pytest.approx(fourth, rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(0.0), "Normal: expected std finite and > 0, got std=0.0; use Constant"),
        (lambda: Normal(1.0, math.inf), "Normal: expected mean finite, got mean=inf"),
        (lambda: Uniform(1.0, 1.0), "Uniform: expected low < high, got low=1.0, high=1.0"),
        (lambda: Uniform(math.nan, 1.0), "Uniform: expected low finite, got low=nan"),
        (lambda: Constant(math.nan), "Constant: expected value finite, got value=nan"),
        (lambda: Recipe([]), r"Recipe: expected at least one rule, got rules=\[\]"),
    ],
)
def test_bad_values_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^initstats.{message}"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Match(3), "Match: expected name patterns, got name=3"),
        (lambda: Match("*", 3), "Match: expected module classes or their names, got module=3"),
        (lambda: Rule(3, Normal(1.0)), "Rule: expected a Match or a name pattern, got match=3"),
        (lambda: Rule("*", 0.02), "Rule: expected a distribution or a function .* got fill=0.02"),
        (lambda: Recipe(["*"]), r"Recipe: expected Rule objects, got rules='\*'"),
    ],
)
def test_bad_kinds_are_refused(make: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"^initstats.{message}"):
        make()  # type: ignore[operator]


def test_a_rule_function_must_give_a_distribution() -> None:
    recipe = Recipe([Rule("*", lambda _slot: 0.02, "mine")])  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"expected rule 'mine' to give a distribution, got 0.02"):
        plan(nn.Linear(2, 2), recipe)


def test_a_rule_function_sees_the_place_in_the_stack() -> None:
    def by_depth(slot: Slot) -> Normal:
        assert slot.block is not None
        assert slot.blocks is not None
        return Normal((slot.block + 1) / slot.blocks)

    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(4)))
    stds = [entry.distribution.std for entry in plan(model, Recipe([Rule("*", by_depth)]))]
    assert stds == [0.25, 0.5, 0.75, 1.0]


def test_a_rule_tells_its_condition_and_promise_in_words() -> None:
    rule = Rule(Match(("*.a", "*.b"), (nn.Linear, "Conv1D")), Normal(0.5))
    assert rule.condition == "*.a or *.b of Linear or Conv1D"
    assert rule.promise == "N(0, 0.5)"
    assert Rule("*.a", lambda _slot: Normal(0.5)).condition == "*.a"
    assert Rule("*.a", lambda _slot: Normal(0.5)).promise == "depends on the parameter"


def test_blocks_are_found_among_other_modules_and_equal_layers_are_none() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2))

    def blocks(model: nn.Module) -> list[str]:
        return list(stack_blocks(model))

    assert blocks(nn.Sequential(nn.Linear(2, 2), block(), block(), nn.Linear(2, 2))) == ["1", "2"]
    assert blocks(nn.ModuleList([block()])) == ["0"]
    assert blocks(nn.Sequential(block())) == []
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU())) == []
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ["0", "1"]
    assert blocks(nn.ModuleDict({"a": block(), "b": block()})) == []

    class Kin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

    class Other(Kin):
        pass

    hybrid = [Kin(), Other(), Kin()]
    assert blocks(nn.ModuleList(hybrid)) == ["0", "1", "2"]
    assert blocks(nn.Sequential(*hybrid)) == []
    assert blocks(nn.ModuleList([*hybrid, nn.Linear(2, 2)])) == []
    assert blocks(nn.ModuleList([Kin(), block()])) == []  # nothing in common but torch's base
    planned = plan(
        nn.Sequential(nn.Linear(2, 2), block(), block()),
        Recipe([Rule("1.*", lambda s: Constant(s.blocks or 0)), Rule("*", Constant(0.0))]),
    )
    assert [entry.distribution.mean for entry in planned] == [0, 0, 2, 2, 0, 0]


def test_a_module_is_matched_by_the_names_of_its_bases_too() -> None:
    class Mine(nn.Linear):
        pass

    rule = Rule(Match("*.weight", "Linear"), Normal(1.0))
    slot = Slot("a.weight", torch.zeros(2, 2), Mine(2, 2))
    assert rule.explain(slot) == "name matches *.weight, module is Linear"
    assert rule.explain(Slot("a.bias", torch.zeros(2), Mine(2, 2))) is None
    assert rule.explain(Slot("a.weight", torch.zeros(2, 2), nn.Conv1d(2, 2, 1))) is None


class CustomNorm(nn.Module):
    """A norm of the last dimension whose scale is used in one of several ways."""

    def __init__(self, use: str, width: int = 16) -> None:
        super().__init__()
        self.use = use
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        y = x / x.square().mean(-1, keepdim=True).sqrt()
        if self.use == "gated":
            assert gate is not None
            return y * self.weight * gate.sigmoid()
        if self.use == "heads, 1 + w":
            assert x.dim() == 4
            assert x.shape[1] * x.shape[3] == len(self.weight)
            return y * (1 + self.weight) + self.bias
        if self.use == "grn":
            assert x.dim() == 4
            size = x.norm(dim=(1, 2), keepdim=True)
            return self.weight * (x * size / size.mean(-1, keepdim=True)) + self.bias + x
        return y * (1 + self.weight if self.use == "1 + w" else self.weight) + self.bias


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("recipe", ["llama", "resnet", "torch_default"])
def test_the_scale_of_a_norm_is_that_with_which_it_only_normalises(
    recipe: str, device: str
) -> None:
    wanted = {"w": "1", "1 + w": "0", "gated": "1", "grn": "0", "heads, 1 + w": "0"}
    with torch.device(device):
        model = nn.ModuleDict({use.replace(" ", ""): CustomNorm(use) for use in wanted})
    state = torch.get_rng_state()
    promises = promised(model, recipes.by_name(recipe))
    assert [promises[f"{use.replace(' ', '')}.weight"] for use in wanted] == list(wanted.values())
    assert {promises[f"{use.replace(' ', '')}.bias"] for use in wanted} == {"0"}
    assert torch.equal(state, torch.get_rng_state())


def test_norms_of_transformers_get_the_scale_that_they_start_with() -> None:
    # The oracle is transformers: each class as its constructor leaves it.
    pytest.importorskip("transformers")
    from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2GRN
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen3_next.modeling_qwen3_next import (
        Qwen3NextRMSNorm,
        Qwen3NextRMSNormGated,
    )
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRMSNorm

    kinds = (
        ConvNextV2GRN,
        Gemma2RMSNorm,
        LlamaRMSNorm,
        Qwen3NextRMSNorm,
        Qwen3NextRMSNormGated,
        RecurrentGemmaRMSNorm,
    )
    for kind in kinds:
        assert verify(nn.ModuleDict({"norm": kind(16)}), "llama").ok, kind


class Mixer(nn.Module):
    """The parameters of a state-space layer, by the names of Mamba and of Mamba 2."""

    def __init__(self) -> None:
        super().__init__()
        self.A_log, self.D = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
        self.dt_bias = nn.Parameter(torch.ones(8))
        self.dt_proj = nn.Linear(4, 8)


# Those whose rules name such parameters.
STATE_SPACES = {"gated_deltanet", "mamba1", "mamba2", "mamba3", "s4d"}
GENERIC = [name for name in recipes.available() if name not in STATE_SPACES]


@pytest.mark.parametrize("recipe", [*GENERIC, Recipe([Rule("*", Constant(0.0))])])
def test_generic_rules_never_take_state_space_parameters(recipe: Recipe | str) -> None:
    model = nn.ModuleDict({"mixer": Mixer(), "lm_head": nn.Linear(8, 8)})
    planned = plan(model, recipe)
    special = {f"mixer.{name}" for name in ("A_log", "D", "dt_bias", "dt_proj.bias")}
    assert special <= set(planned.unmatched)
    assert not special & {entry.name for entry in planned}


def test_a_rule_that_names_a_state_space_parameter_takes_it() -> None:
    names = ("*.A_log", "*.D", "*dt_bias*", "mixer.dt_proj.bias")
    rules = [*(Rule(name, Constant(2.0)) for name in names), Rule("*", Constant(0.0), "rest")]
    model = nn.ModuleDict({"mixer": Mixer()})
    planned = plan(model, Recipe(rules))
    assert planned.unmatched == ()
    assert {e.name for e in planned if e.rule == "rest"} == {"mixer.dt_proj.weight"}
    given = plan(model, Recipe([Rule("*", Constant(0.0))]), roles={"*.A_log": "gate"})
    assert "mixer.A_log" in {entry.name for entry in given}


def test_a_lone_d_is_no_state_space_parameter() -> None:
    model = nn.ParameterDict({"D": torch.ones(4)})
    assert plan(model, Recipe([Rule("*", Constant(0.0))])).unmatched == ()


def test_a_recipe_is_made_by_a_call_in_text() -> None:
    assert recipes.by_name("t5(head_width=16)").name == "t5"
    text = promised(demo_gpt(), recipes.by_name('gpt2(std=0.1, layers=2, residual="none")'))
    assert text == promised(demo_gpt(), recipes.gpt2(std=0.1, layers=2, residual="none"))
    assert promised(demo_gpt(), recipes.by_name("llama()")) == promised(demo_gpt(), recipes.llama())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t6(head_width=16)", "got name='t6'; the nearest is 't5'"),
        ("t5(16)", "expected a name, or a call with literal options"),
        ("t5(**{'head_width': 16})", "expected a name, or a call with literal options"),
        ("t5(head_width=16", "expected a name, or a call with literal options"),
        ("t5(head_width=open('x'))", "expected a name, or a call with literal options"),
        ("os.system('x')", "expected a name, or a call with literal options"),
        ("t5(width=16)", r"among \['head_width', 'head_std'\], got width=16"),
        ("t5(head_width=-1)", "initstats.t5: expected head_width finite and > 0"),
        ("t5(head_width='a')", "expected options that t5 takes, got name="),
    ],
)
def test_a_call_in_text_that_is_no_recipe_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.by_name(text)


def test_a_t5_without_its_code_gets_the_width_from_its_q() -> None:
    attention = nn.ModuleDict({"q": nn.Linear(64, 32, bias=False)})
    attention["relative_attention_bias"] = nn.Embedding(8, 4)
    model = nn.ModuleDict({"SelfAttention": attention})
    numbers = promised(model, recipes.by_name("t5(head_width=16)"))
    assert numbers["SelfAttention.relative_attention_bias.weight"] == "N(0, 0.125)"
    assert numbers["SelfAttention.q.weight"] == "N(0, 0.03125)"


@pytest.mark.parametrize("name", recipes.available())
def test_recipes_pickle_and_promise_the_same(name: str) -> None:
    model = demo_gpt()
    model.d_model = 16  # t5 needs it stated
    for recipe in (recipes.by_name(name), recipes.by_name(name).scaled(2.0)):
        back = pickle.loads(pickle.dumps(recipe))
        assert [rule.label for rule in back.rules] == [rule.label for rule in recipe.rules]
        assert promised(model, back) == promised(model, recipe)
        assert (back.name, back.source, back.partial) == (
            recipe.name,
            recipe.source,
            recipe.partial,
        )


def test_recipes_with_options_and_rules_of_ones_own_pickle() -> None:
    mine = Recipe([Rule("wpe.weight", Constant(0.5)), *recipes.gpt2(std=0.1, layers=2).rules])
    back = pickle.loads(pickle.dumps(mine))
    assert promised(demo_gpt(), back) == promised(demo_gpt(), mine)
    assert promised(demo_gpt(), back)["h.0.attn.c_proj.weight"] == "N(0, 0.05)"


def test_a_plan_pickles_with_its_model() -> None:
    planned = pickle.loads(pickle.dumps(plan(demo_gpt(), "gpt2", seed=0)))
    assert planned.to_dict() == plan(demo_gpt(), "gpt2", seed=0).to_dict()
    assert planned.entries[0].parameter is planned.entries[0].slot.parameter
