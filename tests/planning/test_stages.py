"""Parts of a model: pipeline stages get the weights of the whole, or one clear refusal."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.planning.warm_starts import warm_start_
from initstats.recipes import Constant, Match, Normal, Recipe, Rule
from initstats.verification.verifier import verify

BLOCKS, WIDTH = 8, 16


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH)
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(WIDTH)
        self.mlp = Mlp()


class Whole(nn.Module):
    def __init__(self, container: type[nn.Module] = nn.ModuleList) -> None:
        super().__init__()
        self.wte = nn.Embedding(100, WIDTH)
        blocks = [Block() for _ in range(BLOCKS)]
        self.h: nn.Module = nn.ModuleList(blocks)
        if container is nn.ModuleDict:
            self.h = nn.ModuleDict({str(i): block for i, block in enumerate(blocks)})
        self.lm_head = nn.Linear(WIDTH, 100, bias=False)


def as_sequential() -> tuple[nn.Module, dict[str, str] | None]:
    return nn.Sequential(*[Block() for _ in range(4)]), {str(i): f"h.{i + 4}" for i in range(4)}


def as_torchtitan_does() -> tuple[nn.Module, dict[str, str] | None]:
    model = Whole(nn.ModuleDict)
    for i in range(4):
        del model.h[str(i)]  # type: ignore[operator]
    del model.wte
    return model, None


def by_slicing() -> tuple[nn.Module, dict[str, str] | None]:
    model = Whole()
    model.n_layers = BLOCKS  # type: ignore[assignment]
    model.h = model.h[4:]  # type: ignore[index]
    del model.wte
    return model, {f"h.{i}": f"h.{i + 4}" for i in range(4)}


STAGES = [as_sequential, as_torchtitan_does, by_slicing]
Stage = Callable[[], tuple[nn.Module, "dict[str, str] | None"]]


def weights_of_the_whole(recipe: str) -> dict[str, Tensor]:
    model = Whole()
    init_(model, recipe, seed=3)
    return dict(model.named_parameters())


def renamed(name: str, names: dict[str, str] | None) -> str:
    for local, full in (names or {}).items():
        if name.startswith(f"{local}."):
            return full + name[len(local) :]
    return name


@pytest.mark.parametrize("recipe", ["gpt2", "llama_torchtitan"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_gets_the_weights_of_the_whole(stage: Stage, recipe: str) -> None:
    model, names = stage()
    receipt = init_(model, recipe, seed=3, names=names, depth=BLOCKS)
    whole = weights_of_the_whole(recipe)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, whole[renamed(name, names)]), name
    assert verify(model, recipe, names=names, depth=BLOCKS).ok
    assert receipt.check(model, names=names) == {}
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    receipt.remake_(model, names=names)
    assert receipt.check(model, names=names) == {}


def test_the_receipt_of_the_whole_checks_and_remakes_no_more_than_the_stage_has() -> None:
    whole = Whole()
    receipt = init_(whole, "gpt2", seed=3)
    model, names = as_sequential()
    init_(model, "gpt2", seed=3, names=names, depth=BLOCKS)
    missing = receipt.check(model, names=names)
    assert set(missing.values()) == {"not in the model"}
    assert not any(name.startswith(("h.4", "h.5", "h.6", "h.7")) for name in missing)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("recipe", "rule_needs_depth"), [("gpt2", True), ("t_fixup", True), ("llama", False)]
)
def test_a_rule_of_depth_is_refused_on_a_stage_without_it(
    recipe: str, rule_needs_depth: bool, stage: Stage
) -> None:
    model, names = stage()
    before = [p.clone() for p in model.parameters()]
    if not rule_needs_depth:
        init_(model, recipe, seed=0, names=names)
        return
    with pytest.raises(ValueError, match=re.escape("expected depth= of the whole model")):
        init_(model, recipe, seed=0, names=names)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_rule_of_block_numbers_needs_names_but_no_depth() -> None:
    model, names = by_slicing()
    init_(model, "olmo_mitchell", seed=3, names=names)
    whole = weights_of_the_whole("olmo_mitchell")
    assert torch.equal(model.get_parameter("h.0.mlp.c_proj.weight"), whole["h.4.mlp.c_proj.weight"])
    with pytest.raises(ValueError, match="it holds 4 blocks and states 8"):
        plan(model, "olmo_mitchell")
    with pytest.raises(ValueError, match="its blocks are numbered from 0; give names="):
        plan(model, "olmo_mitchell", depth=BLOCKS)


def test_the_last_block_of_a_stage_is_the_last_of_the_whole_alone() -> None:
    rules = [
        Rule(Match("*.c_proj.weight", blocks=(-1, -1)), Constant(0.0), "last"),
        Rule("*", Normal(0.02)),
    ]
    recipe = Recipe(rules)
    model, names = as_sequential()
    taken = [e.name for e in plan(model, recipe, names=names, depth=BLOCKS) if e.rule == "last"]
    assert taken == ["h.7.mlp.c_proj.weight"]
    with pytest.raises(ValueError, match="expected depth= of the whole model"):
        plan(model, recipe, names=names)


def test_a_whole_model_needs_neither() -> None:
    model = Whole()
    model.n_layers = BLOCKS  # type: ignore[assignment]
    for depth in (None, BLOCKS):
        entries = {entry.name: entry for entry in plan(model, "gpt2", depth=depth)}
        assert entries["h.3.mlp.c_proj.weight"].slot.block == 3
        assert entries["h.3.mlp.c_proj.weight"].slot.blocks == BLOCKS


def test_a_warm_start_takes_global_names() -> None:
    whole = weights_of_the_whole("gpt2")
    model, names = as_sequential()
    found = {name: p for name, p in whole.items() if "c_fc" in name}
    done = warm_start_(model, found, "gpt2", seed=3, names=names, depth=BLOCKS)
    assert "h.4.mlp.c_fc.weight" in done.copied
    assert "h.4.mlp.c_proj.weight" in done.initialised
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, whole[renamed(name, names)]), name


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": 3}, TypeError, "expected names to be a mapping or a function, got names=3"),
        ({"names": {"0": 3}}, TypeError, "expected names to give text, got 3"),
        ({"names": lambda _: 3}, TypeError, "expected names to give text, got 3"),
        ({"names": {"9": "h.9"}}, ValueError, "in names, got '9'"),
        ({"names": {"0": "h.1", "1": "h.1"}}, ValueError, "expected a global name for every"),
        ({"depth": 0}, ValueError, "expected depth >= 1, got depth=0"),
        ({"depth": "8"}, TypeError, "expected depth to be a number of blocks"),
        ({"depth": True}, TypeError, "expected depth to be a number of blocks"),
        ({"depth": 2}, ValueError, "got depth=2 with 4 blocks here"),
        ({"depth": {"h": 7}, "names": {"3": "h.7"}}, ValueError, "among them block 7"),
    ],
)
def test_what_names_no_part_of_a_model_is_refused(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    model, _ = as_sequential()
    with pytest.raises(error, match=re.escape(message)):
        plan(model, "gpt2", **options)  # type: ignore[arg-type]
