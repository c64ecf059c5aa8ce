"""Command `initstats audit`: audit a model or a demo, compare two reports."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext, redirect_stdout
from enum import Enum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from initstats import recipes as known_recipes
from initstats.auditing.report.compare import compare_reports
from initstats.auditing.report.report import AuditReport
from initstats.cli.console import (
    FOUND_ERRORS,
    AsJson,
    make_console,
    print_json,
    refusals,
    refuse,
    require_writable,
)
from initstats.cli.demo_command import run_demo_command
from initstats.cli.own_model import OwnModel
from initstats.diagnostics.rules.table import DEFAULT_RULES
from initstats.diagnostics.thresholds import changed_rules
from initstats.drawing.png import require_matplotlib


class FailOn(str, Enum):
    """Lowest severity that makes the command fail."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"


def add_audit_command(app: typer.Typer) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
    """
    app.command()(audit)


def audit(
    model: Annotated[
        str | None,
        typer.Argument(
            help="package.module:name of a function or class that builds the model, or of a model; "
            "with --demo its name: healthy or broken.",
            show_default=False,
        ),
    ] = None,
    *,
    batch: Annotated[
        str | None,
        typer.Option(help="package.module:name of a function that makes a batch, or of a batch."),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="package.module:name of loss(output, target).")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="package.module:name of a function: parameters to optimizer.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe to compare the weights with: see initstats recipes.")
    ] = None,
    init: Annotated[
        bool, typer.Option("--init/--no-init", help="Initialise by the recipe before.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps on one batch.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and batch.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Draw the weights with so many seeds.")] = 1,
    device: Annotated[str | None, typer.Option(help="Where to run, such as cuda.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A threshold: initial-loss.severe=3.0; may be repeated."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A rule to leave out; may be repeated.")
    ] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit status 1 from this severity on.")] = (
        FailOn.ERROR
    ),
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("initstats-audit"),
    save: Annotated[bool, typer.Option("--save/--no-save", help="Write the report.")] = True,
    as_json: AsJson = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two reports, folders or audit.json.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Audit a small GPT on the text of Python's help.")
    ] = False,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Blocks of the demo model; 6, broken 4.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=8, help="Width of the demo model, 4 heads; 256, broken 128.")
    ] = None,
) -> None:
    """Train a model for a few steps, and report how it starts, layer by layer.

    Exit status 0: nothing found; 1: errors found (see --fail-on), or, with --compare, errors that
    only the second report has; 2: the audit could not be carried out.
    """
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    if demo:
        _refuse_own(batch=batch, loss=loss, optimizer=optimizer, device=device)
        run_demo_command(
            model or "healthy",
            recipe=recipe or "gpt2",
            steps=steps,
            seed=seed,
            output=output,
            layers=layers,
            width=width,
            as_json=as_json,
        )
        return
    if model is None:
        refuse(
            "initstats.audit: expected a model as package.module:name with --batch, or --demo, or "
            "--compare, got nothing to audit"
        )
    if batch is None:
        refuse(f"initstats.audit: expected --batch package.module:name, got none for {model!r}")
    if init and recipe is None:
        refuse("initstats.audit: expected --recipe with --init, got none")
    with refusals():
        rules = changed_rules(DEFAULT_RULES, settings=settings or (), ignored=ignore or ())
        if recipe is not None:
            known_recipes.by_name(recipe)
        if save:
            require_matplotlib("audit")
            require_writable("audit", output, "name another, or pass --no-save")
        own = OwnModel(
            model=model,
            batch=batch,
            loss=loss,
            optimizer=optimizer,
            recipe=recipe,
            initialise=init,
            steps=steps,
            seed=seed,
            seeds=seeds,
            device=None if device is None else _device(device),
            rules=rules,
        )
        begin = time.perf_counter()
        report = _run(own, as_json=as_json)
        files = report.save(output) if save else []
    if as_json:
        print_json(report.to_dict())
    else:
        console = make_console()
        console.print(report)
        written = f"; wrote {' and '.join(str(file) for file in files)}" if files else ""
        taken = f"{time.perf_counter() - begin:.1f} s{written}"
        console.print(Text(taken, style="dim"), soft_wrap=True)
    if _fails(report, fail_on):
        raise typer.Exit(FOUND_ERRORS)


def _run(own: OwnModel, *, as_json: bool) -> AuditReport:
    """Audit with a bar of progress on standard error; of JSON it is the only output."""
    hushed = redirect_stdout(sys.stderr) if as_json else nullcontext()
    with (
        hushed,
        Progress(
            TextColumn("training on one batch"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            console=make_console(stderr=True),
            transient=True,
        ) as progress,
    ):
        task = progress.add_task("steps", total=own.steps * own.seeds)
        return own.run(lambda step: progress.update(task, completed=step))


def _refuse_own(**options: str | None) -> None:
    """Leave if the demo is given what belongs to a model of one's own."""
    for name, value in options.items():
        if value is not None:
            refuse(f"initstats.audit: expected --demo without --{name}, which is for own models")


def _compare(first: Path, second: Path, *, as_json: bool) -> None:
    """Show how two reports differ; fail when the second has errors that the first has not."""
    with refusals():
        comparison = compare_reports(first, second)
    if as_json:
        print_json(comparison.to_dict())
    else:
        make_console().print(comparison)
    severities = [change.severities for change in comparison.findings]
    if any(before != "error" and after == "error" for before, after in severities):
        raise typer.Exit(FOUND_ERRORS)


def _fails(report: AuditReport, fail_on: FailOn) -> bool:
    """Tell whether a finding is as severe as asked for."""
    failing = {"error": {"error"}, "warning": {"error", "warning"}, "never": set()}[fail_on.value]
    return any(finding.severity in failing for finding in report.findings)


def _device(name: str) -> torch.device:
    """Return a device that exists.

    Raises:
        ValueError: If it does not.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"initstats.audit: expected --device to be here, got {name!r}: {reason}"
        ) from error
    return device
