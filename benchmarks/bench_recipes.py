"""init_ of a GPT-2 medium from meta against normal_ per parameter, and verify against one read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import initstats
from benchmarks.harness import Case, Measure, cases
from initstats.auditing.demo.model import DemoConfig, DemoGPT

# 355 million parameters.
MEDIUM = DemoConfig(vocabulary=50257, context=1024, layers=24, width=1024, heads=16)
# At least so many times as fast as normal_ on every parameter, first touch of the pages included.
INIT_BAR = 4.0
# At most 3.5 times as long as torch.sum over the same bytes.
VERIFY_BAR = 1 / 3.5


@cases("config", {"init_ GPT-2 medium from meta": MEDIUM})
def bench_init(measure: Measure, device: torch.device, config: DemoConfig) -> None:
    """Initialise from meta."""
    with torch.device("meta"):
        model = DemoGPT(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    measure(
        Case(
            ours=lambda: initstats.init_(to_meta(model), "gpt2", seed=0, device=device),
            rival=lambda: normal_each(to_meta(model), device),
            rival_name="normal_ per parameter",
            count=count,
            bytes_moved=4 * count,
            floor="fill",
            bar_ratio=INIT_BAR,
        )
    )


@cases("config", {"verify GPT-2 medium": MEDIUM})
def bench_verify(measure: Measure, device: torch.device, config: DemoConfig) -> None:
    """Verify."""
    with torch.device("meta"):
        model = DemoGPT(config)
    initstats.init_(model, "gpt2", seed=0, device=device)
    count = sum(parameter.numel() for parameter in model.parameters())
    measure(
        Case(
            ours=lambda: initstats.verify(model, "gpt2"),
            count=count,
            bytes_moved=4 * count,
            floor="read",
            bar_floor=VERIFY_BAR,
        )
    )


def to_meta(model: DemoGPT) -> DemoGPT:
    """Give the memory of a model back, and keep its ties."""
    replace_parameters(model, lambda p: torch.empty_like(p, device="meta"))
    return model


def normal_each(model: DemoGPT, device: torch.device) -> None:
    """Do what a loop over the parameters does: memory, then one torch call each."""
    replace_parameters(model, lambda p: torch.empty_like(p, device=device))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)


def replace_parameters(model: nn.Module, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replace every parameter, tied ones once."""
    new: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            if id(old) not in new:
                new[id(old)] = nn.Parameter(make(old.detach()))
            module.register_parameter(name, new[id(old)])
