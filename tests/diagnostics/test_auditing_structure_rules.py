"""The rules on structure and on gradients of blocks: the fault is found, healthy kin is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initstats.auditing import (
    AuditRule,
    BlockStructure,
    GradientSpread,
    ResidualPath,
    ZeroGradient,
)
from judged_models import judged, mlp, only, silent


class Block(nn.Module):
    """A residual block whose parts a test changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.act = nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU()
        self.out = nn.Linear(64, 64)
        self.after = nn.Identity()
        self.skip, self.branch = 1.0, 1.0

    def forward(self, x: Tensor) -> Tensor:
        branch = self.out(self.act(self.linear(self.norm(x))))
        out: Tensor = self.after(self.skip * x + self.branch * branch)
        return out


class Blocks(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


Change = Callable[[Blocks], object]


def blocks(change: Change) -> Blocks:
    model = Blocks()
    with torch.no_grad():
        change(model)
    return model


def each(change: Callable[[Block], object]) -> Change:
    return lambda model: [change(block) for block in model.blocks]


def put(name: str, value: object) -> Callable[[Block], object]:
    return lambda block: setattr(block, name, value)


# --- residual paths


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda m: put("skip", 0.0)(m.blocks[2]), "3 other blocks of Block pass it on"),
        (lambda m: put("skip", -1.0)(m.blocks[2]), "3 other blocks of Block pass it on"),
        (lambda m: put("skip", 8.0)(m.blocks[2]), "returns its input times"),
    ],
)
def test_a_block_that_loses_or_multiplies_its_input_is_found(fault: Change, words: str) -> None:
    finding = only(ResidualPath(), judged(blocks(fault)))
    assert (finding.where, finding.severity) == ("blocks.2", "error")
    assert words in finding.cause


def post_norm(block: Block) -> None:
    block.norm, block.after = nn.Identity(), nn.LayerNorm(64)


@pytest.mark.parametrize(
    "start",
    [
        lambda _m: None,
        each(put("branch", 20.0)),  # a large branch
        each(put("branch", 0.0)),
        each(post_norm),
        each(put("skip", 0.0)),  # a plain network, no block of which has one
    ],
)
def test_branches_of_any_size_post_norms_and_plain_networks_are_no_finding(start: Change) -> None:
    assert silent(ResidualPath(), judged(blocks(start)))


# --- blocks unlike their siblings


def without(name: str) -> Change:
    return lambda model: setattr(model.blocks[1], name, nn.Identity())


@pytest.mark.parametrize(
    ("fault", "where", "severity"),
    [
        (without("norm"), "blocks.1.norm", "error"),
        (without("act"), "blocks.1.act", "warning"),
        (lambda m: m.blocks[2].requires_grad_(requires_grad=False), "blocks.2", "warning"),
    ],
)
def test_a_block_without_a_part_of_its_siblings_is_found(
    fault: Change, where: str, severity: str
) -> None:
    finding = only(BlockStructure(), judged(blocks(fault)))
    assert (finding.where, finding.severity) == (where, severity)


def test_a_norm_that_is_there_and_not_called_is_found() -> None:
    model = Blocks()
    block = model.blocks[1]
    block.forward = lambda x: block.after(x + block.out(block.act(block.linear(x))))
    finding = only(BlockStructure(), judged(model))
    assert (finding.where, finding.severity) == ("blocks.1.norm", "error")
    assert "an idle LayerNorm" in finding.cause


@pytest.mark.parametrize(
    "start",
    [
        lambda _m: None,
        each(post_norm),
        lambda m: m.blocks[0].requires_grad_(requires_grad=False),  # fine-tuning
        lambda m: setattr(m.blocks[3], "act", nn.Identity()),  # often comes after the sum
        lambda m: [setattr(m.blocks[i], "act", nn.ReLU()) for i in (0, 2)],  # half and half
    ],
)
def test_frozen_beginnings_and_ends_of_another_make_are_no_finding(start: Change) -> None:
    assert silent(BlockStructure(), judged(blocks(start)))


def test_blocks_of_one_class_are_peers_wherever_they_stand() -> None:
    model = Blocks()
    model.more = nn.ModuleList(Block() for _ in range(3))
    stacks = judged(model).evidence.stacks
    assert list(stacks) == ["Block"]
    assert list(stacks["Block"]) == [
        *(f"blocks.{i}" for i in range(4)),
        "more.0",
        "more.1",
        "more.2",
    ]
    assert stacks["Block"]["more.1"]["norm"] == "LayerNorm"


# --- gradients that stay 0


@pytest.mark.parametrize(
    ("fault", "where", "severity"),
    [
        (lambda m: [p.zero_() for p in m.parameters()], "blocks.0.linear.weight", "error"),
        (
            lambda m: [p.zero_() for p in (m.blocks[1].linear.weight, m.blocks[1].out.weight)],
            "blocks.1.linear.weight",
            "error",
        ),
        (lambda m: put("branch", 0.0)(m.blocks[1]), "blocks.1.norm.weight", "error"),
    ],
)
def test_weights_that_nothing_trains_are_found(fault: Change, where: str, severity: str) -> None:
    def start(model: Blocks) -> None:
        for block in model.blocks:
            block.act = nn.Tanh()  # 0 at 0
            block.linear.bias.zero_()
        fault(model)

    finding = only(ZeroGradient(), judged(blocks(start)))
    assert (finding.where, finding.severity) == (where, severity)


class Adapted(nn.Module):
    """A frozen layer with an adapter B A, B = 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(64, 10).requires_grad_(requires_grad=False)
        self.lora_A, self.lora_B = nn.Linear(64, 4, bias=False), nn.Linear(4, 10, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.frozen(x) + self.lora_B(self.lora_A(x))
        return out


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_adapters_gates_and_heads_that_start_at_zero_are_no_finding(steps: int) -> None:
    def gates(block: Block) -> None:
        block.__dict__.pop("branch")
        block.branch = nn.Parameter(torch.zeros(64))

    def start(model: Blocks) -> None:
        each(gates)(model)
        model.head.weight.zero_()

    for model in (Adapted(), blocks(start)):
        assert silent(ZeroGradient(), judged(model, steps=steps))


def test_the_last_gradient_is_that_of_the_last_step() -> None:
    trained = judged(Adapted(), steps=3).evidence.parameters["lora_A.weight"]
    assert trained.gradient is not None
    assert trained.last_gradient is not None
    assert trained.gradient.abs_max == 0 < trained.last_gradient.abs_max
    parameters = judged(Adapted(), steps=1).evidence.parameters
    assert {p.last_gradient for p in parameters.values()} == {None}


# --- gradients of very different size


@pytest.mark.parametrize(("depth", "severity"), [(8, "warning"), (14, "error")])
def test_gradients_of_very_different_size_are_found(depth: int, severity: str) -> None:
    # Sigmoids without normalisation: each layer divides the gradient by 4 or more.
    finding = only(GradientSpread(), judged(mlp(depth, nn.Sigmoid, 1.0)))
    assert (finding.where, finding.severity) == ("0", severity)
    assert finding.value > finding.threshold == 300


@pytest.mark.parametrize("branch", [1.0, 1e-6])
def test_branches_scaled_down_are_no_spread(branch: float) -> None:
    model = blocks(lambda m: [put("branch", branch)(block) for block in m.blocks[1:]])
    assert silent(GradientSpread(), judged(model))


# --- thresholds


@pytest.mark.parametrize(
    "rule",
    [
        ResidualPath(slope=0.9, cosine=0.9999),
        GradientSpread(factor=1.01, signal=1.0),
    ],
)
def test_a_changed_threshold_makes_a_finding_of_a_healthy_model(rule: AuditRule) -> None:
    def start(model: Blocks) -> None:
        model.blocks[0].skip = 0.6  # cosine and slope alike are below 0.9

    report = judged(blocks(start))
    assert silent(type(rule)(), report)
    assert not silent(rule, report)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (BlockStructure(share=0.2), without("norm")),
        (ResidualPath(slope=-2.0), lambda m: put("skip", -1.0)(m.blocks[2])),
        (ResidualPath(multiple=100.0), lambda m: put("skip", 8.0)(m.blocks[2])),
        (ZeroGradient(steps=11), lambda m: [p.zero_() for p in m.parameters()]),
    ],
)
def test_a_changed_threshold_lets_a_fault_pass(rule: AuditRule, fault: Change) -> None:
    report = judged(blocks(fault))
    assert not silent(type(rule)(), report)
    assert silent(rule, report)
