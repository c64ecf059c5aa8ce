"""Command `initstats coord-check`: sizes of outputs and updates against the width of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from torch import nn

from initstats import recipes as known_recipes
from initstats.cli.console import (
    FOUND_ERRORS,
    AsJson,
    make_console,
    print_json,
    refusals,
    require_writable,
)
from initstats.cli.import_strings import load_object
from initstats.cli.own_model import load_batch, load_loss
from initstats.coordinates.runner import coord_check

_FUNCTION = "coord_check"


def add_coord_check_command(app: typer.Typer) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
    """
    app.command(name="coord-check")(check)


def check(
    build: Annotated[
        str, typer.Argument(help="package.module:name of a function from a width to a model.")
    ],
    *,
    batch: Annotated[
        str,
        typer.Option(help="package.module:name of a function that makes a batch, or of a batch."),
    ],
    widths: Annotated[str, typer.Option(help="Widths, ascending.")] = "64,128,256,512",
    recipe: Annotated[
        str | None,
        typer.Option(help='Initialise by it, and group parameters: "mup(base=64)".'),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="package.module:name of loss(output, target).")
    ] = None,
    optimizer: Annotated[
        str,
        typer.Option(help="adamw, adam, sgd, muon; or package.module:name, model to optimizer."),
    ] = "adamw",
    lr: Annotated[float | None, typer.Option(help="Learning rate at the base.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Forward passes.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per width.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Write coordinates.html and coordinates.json there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that outputs and updates of every layer have one size at all widths.

    Exit status 0: they have; 1: they depend on the width, and the layers to blame are named; 2: the
    check could not be carried out.
    """
    with refusals():
        numbers = _widths(widths)
        if recipe is not None:
            known_recipes.by_name(recipe)
        if output is not None:
            require_writable(_FUNCTION, output)
        torch.manual_seed(seed)
        values = load_batch(_FUNCTION, batch, seed, None)
        chosen: Any = optimizer
        if ":" in optimizer:
            chosen = load_object(_FUNCTION, "optimizer", optimizer)
        options = {
            "recipe": recipe,
            "loss_fn": load_loss(_FUNCTION, loss, None),
            "optimizer": chosen,
            "lr": lr,
            "steps": steps,
            "seeds": seeds,
            "seed": seed,
        }
        make: Callable[[int], nn.Module] = load_object(_FUNCTION, "build", build)
        with _progress() as progress:
            task = progress.add_task("models", total=len(numbers) * seeds)
            report = coord_check(
                make,
                numbers,
                values,
                on_model=lambda done: progress.update(task, completed=done),
                **options,
            )
        files = report.save(output) if output is not None else []
    if as_json:
        print_json(report.to_dict())
    else:
        console = make_console()
        console.print(report)
        if files:
            written = f"wrote {' and '.join(map(str, files))}"
            console.print(Text(written, style="dim"), soft_wrap=True)
    if not report.ok:
        raise typer.Exit(FOUND_ERRORS)


def _widths(text: str) -> list[int]:
    """Read widths between commas.

    Raises:
        ValueError: If one is no integer.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"initstats.{_FUNCTION}: expected --widths as 64,128,256,512, got {text!r}"
        ) from None


def _progress() -> Progress:
    """Return a bar of progress on standard error."""
    return Progress(
        TextColumn("training models of each width"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=make_console(stderr=True),
        transient=True,
    )
