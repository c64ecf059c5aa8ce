"""The command line `initstats`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from initstats import recipes as known_recipes
from initstats._ops import build_info
from initstats.auditing.demo import run_demo, save_demo
from initstats.auditing.demo_model import DemoConfig
from initstats.auditing.plotting import require_matplotlib
from initstats.auditing.printing import findings_group, layer_table, loss_table
from initstats.monitoring.commands import add_commands
from initstats.skeletons import load_model
from initstats.tables import PLAIN_WIDTH
from initstats.verifying import verify as verify_model

app = typer.Typer(
    name="initstats",
    help="Initialise models well, and see how they start.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

USAGE_ERROR = 2


@app.command()
def audit(
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="Audit a small GPT on the text of Python's help.")
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe to initialise and compare with.")] = "gpt2",
    steps: Annotated[int, typer.Option(min=1, help="Steps of AdamW on one batch.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and batch.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for audit.json and audit.png.")] = Path(
        "initstats-audit"
    ),
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the demo model.")] = 6,
    width: Annotated[int, typer.Option(min=8, help="Width of the demo model, 4 heads.")] = 256,
) -> None:
    """Train a model for a few steps, and report how it starts, layer by layer.

    Exit status 1 when the audit finds an error in the model that the recipe initialised.
    """
    if not demo:
        _refuse(
            "initstats.audit: expected --demo, got nothing to audit; "
            "audit a model of your own from Python with initstats.audit(model, batch)"
        )
    if width % 4:
        _refuse(f"initstats.audit: expected --width to be a multiple of 4, got width={width}")
    console = _console()
    begin = time.perf_counter()
    try:
        known_recipes.by_name(recipe)
        require_matplotlib("audit")
    except (ImportError, ValueError) as error:
        _refuse(str(error))
    with Progress(
        TextColumn("training two models on one batch"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("steps", total=2 * steps)
        reports = run_demo(
            recipe,
            steps=steps,
            seed=seed,
            config=DemoConfig(layers=layers, width=width),
            on_step=lambda: progress.advance(task),
        )
    files = save_demo(reports, output, seed=seed)
    for label, report in reports.items():
        console.print(layer_table(report, label))
        console.print()
    console.print(loss_table(reports))
    console.print()
    for label, report in reports.items():
        console.print(Text(f"findings: {label}", style="bold italic"))
        console.print(findings_group(report.findings))
        console.print()
    written = " and ".join(str(file) for file in files)
    console.print(f"[dim]{time.perf_counter() - begin:.1f} s; wrote[/] {written}", soft_wrap=True)
    if not next(iter(reports.values())).ok:
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[
        str, typer.Argument(help="package.module:function, or a checkpoint (.pt, .safetensors).")
    ],
    *,
    recipe: Annotated[str, typer.Option(help="Recipe to compare with: see initstats recipes.")],
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Leave out what no rule takes.")
    ] = False,
    all_parameters: Annotated[
        bool, typer.Option("--all", help="Show parameters that are as promised, too.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
) -> None:
    """Compare the weights of a model with what a recipe promises.

    Exit status 1 when a parameter is not as promised.
    """
    try:
        report = verify_model(load_model(model), recipe, allow_unmatched=allow_unmatched)
    except (FileNotFoundError, ImportError, TypeError, ValueError) as error:
        _refuse(str(error))
    if output is not None:
        output.write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    console = _console()
    console.print(report.table(failures_only=not all_parameters))
    for name in report.unmatched:
        console.print(f"no rule takes {name}")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def recipes(
    names: Annotated[list[str] | None, typer.Argument(help="Some of them; all when empty.")] = None,
) -> None:
    """List the recipes with their rules and sources."""
    console = _console()
    try:
        for name in names or ():
            known_recipes.by_name(name)
    except ValueError as error:
        _refuse(str(error))
    for name in names or known_recipes.available():
        recipe = known_recipes.by_name(name)
        table = Table(
            title=f"{name} ({recipe.source})",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
        )
        for column in ("rule", "takes", "values"):
            table.add_column(column)
        for rule in recipe.rules:
            table.add_row(rule.label, rule.condition, rule.promise)
        console.print(table)


@app.command()
def doctor() -> None:
    """Show what was built, what was chosen on this machine, and why."""
    table = Table(title="initstats", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in build_info().items():
        text = value if isinstance(value, str) else ", ".join(map(str, value))
        table.add_row(name, Text(text or "-"))
    _console().print(table)


add_commands(app)


def main() -> None:
    """Run the command line."""
    app()


def _console() -> Console:
    """Return a console that is wide enough for the tables where no terminal tells its width."""
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)


def _refuse(message: str) -> NoReturn:
    """Print an error and leave.

    Raises:
        typer.Exit: Always, with the status of a usage error.
    """
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
    raise typer.Exit(USAGE_ERROR)


if __name__ == "__main__":
    main()
