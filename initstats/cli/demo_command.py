"""The demos of `initstats audit --demo`: a healthy start, and a tour of broken ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from initstats import recipes as known_recipes
from initstats.auditing.demo.broken import BROKEN_CONFIG, FAULTS, run_broken, tour_group
from initstats.auditing.demo.model import DemoConfig
from initstats.auditing.demo.run import run_demo, save_demo
from initstats.auditing.report.text import findings_group, layer_table, loss_table
from initstats.cli.console import (
    FOUND_ERRORS,
    make_console,
    print_json,
    refuse,
    require_writable,
)
from initstats.drawing.png import require_matplotlib
from initstats.text import nearest

DEMOS = ("healthy", "broken")


def run_demo_command(
    name: str,
    *,
    recipe: str,
    steps: int,
    seed: int,
    output: Path,
    layers: int | None,
    width: int | None,
    as_json: bool,
) -> None:
    """Run a demo and print its result.

    Args:
        name: "healthy" (by recipe, and as torch leaves it) or "broken" (sick variants).
        recipe: Name of the recipe that initialises the model.
        steps: Steps per audit, >= 1.
        seed: Seed of weights and batch.
        output: Folder for the report of the healthy demo.
        layers: Blocks of the model; the demo's default when None.
        width: Width of the model; the demo's default when None.
        as_json: Print JSON and nothing else on standard output.

    Raises:
        typer.Exit: With status 2 for bad usage; with status 1 if the healthy model has an error,
            and always for the broken ones.
    """
    if name not in DEMOS:
        refuse(
            f"initstats.audit: expected --demo with one of {', '.join(DEMOS)}, got {name!r}"
            f"{nearest(name, DEMOS)}"
        )
    config = BROKEN_CONFIG if name == "broken" else DemoConfig()
    config = replace(config, layers=layers or config.layers, width=width or config.width)
    if config.width % config.heads:
        refuse(f"initstats.audit: expected --width to be a multiple of 4, got width={width}")
    try:
        known_recipes.by_name(recipe)
        if name == "healthy":
            require_matplotlib("audit")
            require_writable("audit", output)
    except (ImportError, ValueError) as error:
        refuse(str(error))
    if name == "broken":
        _broken(recipe, steps=steps, seed=seed, config=config, as_json=as_json)
    else:
        _healthy(recipe, steps=steps, seed=seed, output=output, config=config, as_json=as_json)


def _healthy(
    recipe: str, *, steps: int, seed: int, output: Path, config: DemoConfig, as_json: bool
) -> None:
    """Show the same model by recipe and as torch leaves it.

    Raises:
        typer.Exit: With status 1, if the model that the recipe initialised has an error.
    """
    begin = time.perf_counter()
    with _bar("training two models on one batch", 2 * steps) as (progress, task):
        reports = run_demo(
            recipe,
            steps=steps,
            seed=seed,
            config=config,
            on_step=lambda: progress.advance(task),
        )
    files = save_demo(reports, output, seed=seed)
    values = {label: report.to_dict() for label, report in reports.items()}
    if as_json:
        print_json({"seed": seed, "reports": values})
    else:
        _show(values, files, time.perf_counter() - begin)
    if not next(iter(values.values()))["ok"]:
        raise typer.Exit(FOUND_ERRORS)


def _show(values: dict[str, dict[str, Any]], files: list[Path], seconds: float) -> None:
    """Print both reports."""
    console = make_console()
    for label, report in values.items():
        console.print(layer_table(report, label))
        console.print()
    console.print(loss_table(values))
    console.print()
    for label, report in values.items():
        console.print(Text(f"findings: {label}", style="bold italic"))
        console.print(findings_group(report["findings"]))
        console.print()
    written = " and ".join(str(file) for file in files)
    console.print(f"[dim]{seconds:.1f} s; wrote[/] {written}", soft_wrap=True)


def _broken(recipe: str, *, steps: int, seed: int, config: DemoConfig, as_json: bool) -> None:
    """Show sick variants of the model being caught.

    Raises:
        typer.Exit: Always, with status 1: the models are sick.
    """
    begin = time.perf_counter()
    with _bar("training sick models on one batch", len(FAULTS) * steps) as (progress, task):
        cases = run_broken(
            recipe,
            steps=steps,
            seed=seed,
            config=config,
            on_step=lambda: progress.advance(task),
        )
    if as_json:
        print_json(
            [
                {"fault": case.fault.name, "findings": [f.to_dict() for f in case.report.findings]}
                for case in cases
            ]
        )
        raise typer.Exit(FOUND_ERRORS)
    console = make_console()
    console.print(tour_group(cases))
    console.print(f"[dim]{time.perf_counter() - begin:.1f} s[/]")
    raise typer.Exit(FOUND_ERRORS)


@contextmanager
def _bar(what: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """Show a bar of progress while models train."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=make_console(stderr=True),
        transient=True,
    ) as progress:
        yield progress, progress.add_task("steps", total=total)
