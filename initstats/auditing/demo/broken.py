"""Demo of sick models: one fault at a time in the small GPT, and the audit's findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor, nn
from torch.nn import functional

from initstats.auditing.demo.data import batch
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.auditing.report.report import AuditReport
from initstats.auditing.report.text import findings_group
from initstats.auditing.runner import audit
from initstats.diagnostics.findings import Finding
from initstats.planning.initialize import init_
from initstats.text import plain_table

# Smaller than the healthy demo: nine models are trained, in well under a minute on two cores.
BROKEN_CONFIG = DemoConfig(context=64, layers=4, width=128, batch=4)
_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@dataclass(frozen=True)
class Fault:
    """A common mistake.

    Attributes:
        name: The mistake.
        break_: Does it to an initialised model, and returns the sick one.
        rate: Factor on the learning rate.
        compared: Pass the recipe to the audit. Without it, the audit has to see the symptoms.
    """

    name: str
    break_: Callable[[DemoGPT], nn.Module]
    rate: float = 1.0
    compared: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """A fault, and the report of the model that has it."""

    fault: Fault
    report: AuditReport

    @property
    def first(self) -> Finding | None:
        """The worst finding."""
        return next(iter(self.report.findings), None)


class _DetachedBranch(nn.Module):
    """A module whose output is cut off from the gradient, as a stray detach() does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the output without its graph."""
        out: Tensor = self.module(x)
        return out.detach()


class _SummedLoss(nn.Module):
    """A model whose loss is summed over the tokens instead of averaged."""

    def __init__(self, model: DemoGPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and the sum of the cross-entropies, in nats."""
        logits, _ = self.model(tokens, targets)
        return logits, functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="sum"
        )


def _middle(model: DemoGPT) -> int:
    """Return the index of a block in the middle."""
    return len(model.h) // 2


def _block_of(model: DemoGPT, path: str) -> nn.Module:
    """Return a module inside the block in the middle."""
    return model.get_submodule(f"h.{_middle(model)}.{path}")


def _scaled(model: DemoGPT, path: str, factor: float) -> nn.Module:
    with torch.no_grad():
        _block_of(model, path).get_parameter("weight").mul_(factor)
    return model


def _constant(model: DemoGPT) -> nn.Module:
    with torch.no_grad():
        _block_of(model, "mlp.c_fc").get_parameter("weight").fill_(0.02)
    return model


def _not_a_number(model: DemoGPT) -> nn.Module:
    with torch.no_grad():
        _block_of(model, "attn.c_proj").get_parameter("weight")[3, 7] = torch.nan
    return model


def _unit_embedding(model: DemoGPT) -> nn.Module:
    with torch.no_grad():
        model.wte.weight.mul_(1 / 0.02)  # what nn.Embedding draws, N(0, 1), tied to the head
    return model


def _unscaled_residuals(model: DemoGPT) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.mul_(math.sqrt(2 * len(model.h)))
    return model


def _detached(model: DemoGPT) -> nn.Module:
    block = model.get_submodule(f"h.{_middle(model)}")
    block.mlp = _DetachedBranch(block.get_submodule("mlp"))
    return model


def _dead(model: DemoGPT) -> nn.Module:
    mlp = _block_of(model, "mlp")
    with torch.no_grad():
        mlp.get_parameter("c_fc.bias").fill_(-10.0)
    mlp.gelu = nn.ReLU()
    return model


FAULTS: tuple[Fault, ...] = (
    Fault("a NaN in one weight", _not_a_number),
    Fault("one matrix 10 times too large", lambda model: _scaled(model, "attn.c_attn", 10.0)),
    Fault("one matrix all 0.02: no symmetry broken", _constant),
    Fault("embedding of std 1 tied to the head", _unit_embedding),
    Fault("a ReLU with a bias of -10: dead units", _dead),
    Fault("a stray detach() in one branch", _detached),
    Fault("loss summed over tokens, not averaged", _SummedLoss),
    Fault("learning rate 1000 times too high", lambda model: model, rate=1000.0),
    Fault("residual scaling forgotten", _unscaled_residuals, compared=True),
)


def run_broken(
    recipe: str,
    *,
    steps: int,
    seed: int,
    config: DemoConfig,
    on_step: Callable[[], None] | None = None,
) -> list[Case]:
    """Audit the demo model once per fault, each time initialised anew.

    Args:
        recipe: Name of a recipe that takes every parameter of the model.
        steps: Steps per audit, >= 1.
        seed: Seed of the weights and of the batch.
        config: Sizes.
        on_step: Called after each step.

    Returns:
        The faults with their reports.

    Raises:
        ValueError: If the recipe is unknown, or leaves parameters out.

    Determinism: run_to_run. torch's own matrix products decide the last digits of what follows.
    """
    tokens = batch(config.vocabulary, config.context, config.batch, seed)
    cases = []
    for fault in FAULTS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = DemoGPT(config)
        init_(model, recipe, seed=seed, fingerprints=False)
        report = audit(
            fault.break_(model),
            tokens,
            optimizer=partial(torch.optim.AdamW, lr=config.learning_rate * fault.rate),
            steps=steps,
            recipe=recipe if fault.compared else None,
            on_step=None if on_step is None else lambda _step: on_step(),
        )
        cases.append(Case(fault, report))
    return cases


def tour_group(cases: Sequence[Case]) -> Group:
    """Lay out the tour: a table of faults and findings, and each finding with cause and fix.

    Args:
        cases: The faults with their reports.

    Returns:
        A renderable for rich.
    """
    table = plain_table(
        "one fault at a time in a healthy GPT on real text, and the first finding", edge=False
    )
    for column in ("fault", "severity", "rule", "where"):
        table.add_column(column, overflow="fold")
    lines: list[RenderableType] = []
    for case in cases:
        first = case.first
        if first is None:
            table.add_row(case.fault.name, Text("missed", style="bold red"), "", "")
            continue
        severity = Text(first.severity, style=_COLOURS[first.severity])
        table.add_row(case.fault.name, severity, first.rule, first.where)
        lines += [
            Text(case.fault.name, style="bold italic"),
            findings_group([first.to_dict()]),
            Text(),
        ]
    return Group(table, Text(), *lines)
