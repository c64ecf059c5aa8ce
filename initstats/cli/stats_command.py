"""Command `initstats stats`: statistics of a checkpoint, or of the difference of two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor

from initstats.checkpoints import load_checkpoint
from initstats.cli.console import (
    FOUND_ERRORS,
    AsJson,
    make_console,
    print_json,
    refusals,
    refuse,
    working,
)
from initstats.statistics.compute import stats, why_no_statistics
from initstats.statistics.record import Stats
from initstats.statistics.table import StatsTable
from initstats.text import number, plain_table


def add_stats_command(app: typer.Typer) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
    """
    app.command(name="stats")(stats_of_checkpoint)


def stats_of_checkpoint(
    file: Annotated[
        Path, typer.Argument(help="A checkpoint: .pt, .safetensors, or the index of several files.")
    ],
    *,
    minus: Annotated[
        Path | None, typer.Option(help="Another one: show how the first differs from it.")
    ] = None,
    match: Annotated[str, typer.Option(help="Only names in which this expression is found.")] = "",
    fingerprint: Annotated[
        bool, typer.Option("--fingerprint", help="Show 64-bit fingerprints, too.")
    ] = False,
    require_finite: Annotated[
        bool, typer.Option("--require-finite", help="Exit with 1 if a value is NaN or infinite.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the records as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the statistics of every tensor of a checkpoint, or of the step between two."""
    if minus is not None and fingerprint:
        refuse("initstats.stats: expected no --fingerprint with --minus, got both")
    not_compared: dict[str, str] = {}
    try:
        expression = re.compile(match)
    except re.error as error:
        refuse(f"initstats.stats: expected a regular expression, got match={match!r} ({error})")
    with refusals(), working(f"reading {file}"):
        tensors, left_out = _load(file, expression)
        if not tensors and minus is None:
            named = ", ".join(f"{name}: {why}" for name, why in left_out.items())
            raise ValueError(
                f"initstats.stats: expected a tensor with statistics in {str(file)!r}, got {named}"
            )
        if minus is None:
            records = stats(tensors, fingerprint=fingerprint)
            shown: RenderableType = records
        else:
            others, also = _load(minus, expression)
            left_out |= also
            not_compared = _not_comparable(tensors, others)
            base = {name: others[name] for name in tensors if name not in not_compared}
            records = stats({name: tensors[name] for name in base}, minus=base)
            shown = _differences(records, stats(base, histogram=False))
    if output is not None:
        output.write_text(json.dumps(records.to_dict(), indent=1) + "\n")
    bad = [name for name, record in records.items() if record.nan + _infinite(record) > 0]
    reasons = {"left out": left_out, "not compared": not_compared}
    if as_json:
        not_shown = {what.replace(" ", "_"): names for what, names in reasons.items()}
        print_json({"tensors": records.to_dict(), **not_shown, "not_finite": bad})
    else:
        _show(shown, reasons, bad)
    if bad and require_finite:
        raise typer.Exit(FOUND_ERRORS)


def _show(table: RenderableType, reasons: dict[str, dict[str, str]], not_finite: list[str]) -> None:
    """Print the table, what is not in it and why, and what is not finite."""
    console = make_console()
    console.print(table)
    for what, names in reasons.items():
        for name, reason in names.items():
            console.print(f"{what}: {name}: {reason}", soft_wrap=True, highlight=False)
    if not_finite:
        console.print(f"not finite: {', '.join(not_finite)}", soft_wrap=True, highlight=False)


def _load(file: Path, expression: re.Pattern[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that have statistics, and why others have none."""
    found = load_checkpoint(file, "stats")
    left_out = {name: why for name, why in found.left_out.items() if expression.search(name)}
    tensors = {}
    for name, tensor in found.tensors.items():
        if expression.search(name):
            why = why_no_statistics(tensor)
            if why:
                left_out[name] = why
            else:
                tensors[name] = tensor
    if not tensors and not left_out:
        raise ValueError(
            f"initstats.stats: expected a name in which {expression.pattern!r} is found, got none"
            f" in {str(file)!r}"
        )
    return tensors, left_out


def _not_comparable(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, str]:
    """Return the names that cannot be subtracted, with the reason."""
    reasons = {}
    for name in dict.fromkeys((*tensors, *others)):
        x, y = tensors.get(name), others.get(name)
        if x is None or y is None:
            reasons[name] = f"only in the {'second' if x is None else 'first'} file"
        elif x.shape != y.shape:
            reasons[name] = f"shapes {tuple(x.shape)} and {tuple(y.shape)}"
        elif x.dtype != y.dtype or not x.is_floating_point() or x.element_size() == 1:
            reasons[name] = f"dtypes {x.dtype} and {y.dtype}"
    return reasons


def _differences(records: StatsTable, base: StatsTable) -> Table:
    """Return the table of a step: its size beside that of what it started from."""
    table = plain_table()
    table.add_column("name", overflow="fold")
    for column in ("count", "unchanged", "mean", "rms", "max size", "rms / before", "nan", "inf"):
        table.add_column(column, justify="right")
    for name, record in records.items():
        before = base[name].rms
        table.add_row(
            name,
            f"{record.count:,}",
            f"{record.zero / record.count:.1%}" if record.count else "-",
            *(number(value) for value in (record.mean, record.rms, record.abs_max)),
            number(record.rms / before if before > 0 else None),
            f"{record.nan:,}",
            f"{_infinite(record):,}",
        )
    return table


def _infinite(record: Stats) -> int:
    return record.pos_inf + record.neg_inf
