"""The demo: one small GPT on English text, initialised by a recipe and by torch's defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from initstats.auditing.demo.data import batch
from initstats.auditing.demo.model import DemoConfig, DemoGPT
from initstats.auditing.report.report import AuditReport, save_reports
from initstats.auditing.report.schema import DEMO_SCHEMA
from initstats.auditing.runner import audit
from initstats.planning.initialize import init_

TORCH_DEFAULT = "torch default"


def run_demo(
    recipe: str,
    *,
    steps: int,
    seed: int,
    config: DemoConfig | None = None,
    on_step: Callable[[], None] | None = None,
) -> dict[str, AuditReport]:
    """Audit the demo model twice on the same batch: by recipe, and with torch's defaults.

    Both are compared with the recipe, so that the second report shows what leaving it out costs.

    Args:
        recipe: Name of a recipe that takes every parameter of the model.
        steps: Steps per audit, >= 1.
        seed: Seed of the weights and of the batch.
        config: Sizes; `DemoConfig()` when None.
        on_step: Called after each of the `2 * steps` steps.

    Returns:
        The reports by label, the recipe first.

    Raises:
        ValueError: If the recipe is unknown, or leaves parameters out.

    Determinism: run_to_run. torch's own matrix products decide the last digits of what follows.
    """
    config = config or DemoConfig()
    tokens = batch(config.vocabulary, config.context, config.batch, seed)

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return DemoGPT(config)

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=config.learning_rate)

    def report(model: nn.Module) -> AuditReport:
        return audit(
            model,
            tokens,
            optimizer=optimizer,
            steps=steps,
            recipe=recipe,
            on_step=None if on_step is None else lambda _step: on_step(),
        )

    by_recipe = make()
    init_(by_recipe, recipe, seed=seed)
    return {f"recipe {recipe}": report(by_recipe), TORCH_DEFAULT: report(make())}


def save_demo(reports: dict[str, AuditReport], folder: str | Path, *, seed: int) -> list[Path]:
    """Write both reports as `audit.json`, on one page and in one picture.

    Args:
        reports: The reports by label.
        folder: Made when it does not exist.
        seed: The seed, for the file.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is missing; install `initstats[plot]`.
    """
    values = {label: report.to_dict() for label, report in reports.items()}
    whole = {"schema": DEMO_SCHEMA, "seed": seed, "reports": values}
    return save_reports(values, whole, folder, plot=True)
