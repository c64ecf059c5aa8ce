"""The command line `initstats`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from initstats import __version__
from initstats import recipes as known_recipes
from initstats.checkpoints import load_checkpoint, not_judged, skeleton
from initstats.cli.audit_command import add_audit_command
from initstats.cli.console import (
    AsJson,
    make_console,
    print_json,
    refusals,
    refuse,
    working,
    write_output,
)
from initstats.cli.coord_check_command import add_coord_check_command
from initstats.cli.doctor_command import add_doctor_command
from initstats.cli.import_strings import call_with_seed, load_object
from initstats.cli.monitor_commands import add_commands
from initstats.cli.stats_command import add_stats_command
from initstats.text import literal, plain_table
from initstats.verification.block_values import Blocks
from initstats.verification.explanation import AUTO
from initstats.verification.verifier import verify as verify_model
from initstats.verification.verifier import verify_blocks

app = typer.Typer(
    name="initstats",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _show_version(asked: bool) -> None:
    """Print the version, and leave."""
    if asked:
        typer.echo(f"initstats {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Initialise models well, and see how they start."""


add_audit_command(app)
add_stats_command(app)
add_coord_check_command(app)


@app.command()
def verify(
    model: Annotated[
        str, typer.Argument(help="package.module:function, or a checkpoint, as in stats.")
    ],
    *,
    recipe: Annotated[
        str, typer.Option(help="Recipe to compare with: see initstats recipes; auto finds it.")
    ],
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Leave out what no rule takes.")
    ] = False,
    all_parameters: Annotated[
        bool, typer.Option("--all", help="Show parameters that are as promised, too.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the weights of a model against a recipe.

    Exit status 1 when a parameter is not as promised.
    """
    with refusals():
        if recipe != AUTO:
            known_recipes.by_name(recipe)
        with working(f"reading {model}"):
            loaded, left_out, blocks = _load(model)
        with working("measuring"):
            lenient = allow_unmatched or bool(left_out)
            if blocks is None:
                report = verify_model(loaded, recipe, allow_unmatched=lenient)
            else:
                report = verify_blocks(loaded, recipe, blocks, allow_unmatched=lenient)
    if output is not None:
        write_output("verify", output, report.to_dict())
    if as_json:
        print_json({**report.to_dict(), "not_judged": left_out})
    else:
        console = make_console()
        console.print(report.table(failures_only=not all_parameters))
        for name in report.unmatched:
            console.print(*literal(f"no rule takes {name}"), soft_wrap=True)
        for name, reason in left_out.items():
            console.print(*literal(f"not judged: {name}: {reason}"), soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


def _load(where: str) -> tuple[nn.Module, dict[str, str], Blocks | None]:
    """Return the model that a function makes, or a skeleton of a file, and what it leaves out.

    Of a checkpoint that is read in blocks the skeleton is on the meta device, and the blocks come.
    """
    if ":" not in where or os.path.exists(where):  # noqa: PTH110  # Path.exists raises for long names
        found = load_checkpoint(Path(where), "verify")
        left_out = {**found.left_out, **not_judged(found.tensors)}
        if not found.tensors.keys() - left_out.keys():
            raise ValueError(
                "initstats.verify: expected floating-point parameters, got none in "
                f"{where!r}: {', '.join(f'{name} is {why}' for name, why in left_out.items())}"
            )
        blocks: Blocks = lambda name, _: found.blocks(name)  # noqa: E731
        made = skeleton(found.tensors, found.padding_row)
        return made, left_out, blocks if found.stored else None
    make = load_object("verify", "model", where)
    model = make if isinstance(make, nn.Module) else None
    if model is None and callable(make):
        model = call_with_seed("verify", "model", make, torch.initial_seed())
    if not isinstance(model, nn.Module):
        raise TypeError(
            "initstats.verify: expected module:function to name a function that returns a "
            f"torch.nn.Module, got {where!r}"
        )
    return model, {}, None


@app.command()
def recipes(
    names: Annotated[list[str] | None, typer.Argument(help="Some of them; all when empty.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the recipes with their rules and sources."""
    try:
        found = {n: known_recipes.by_name(n) for n in names or known_recipes.available()}
    except ValueError as error:
        refuse(str(error))
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "source": recipe.source,
                    "rules": [
                        {"rule": r.label, "takes": r.condition, "values": r.promise}
                        for r in recipe.rules
                    ],
                }
                for name, recipe in found.items()
            ]
        )
        return
    console = make_console()
    for name, recipe in found.items():
        table = plain_table(f"{name} ({recipe.source})")
        for column in ("rule", "takes", "values"):
            table.add_column(column)
        for rule in recipe.rules:
            table.add_row(rule.label, rule.condition, rule.promise)
        console.print(table)


add_doctor_command(app)
add_commands(app)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # Names in files may hold what the terminal's encoding does not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="initstats")
