"""Command `initstats stats`: statistics of a checkpoint, or of the difference of two."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor

from initstats.checkpoints import Checkpoint, load_checkpoint
from initstats.cli.console import (
    FOUND_ERRORS,
    AsJson,
    make_console,
    print_json,
    refusals,
    refuse,
    working,
    write_output,
)
from initstats.sharding import Box
from initstats.statistics.blocks import stats_of_blocks
from initstats.statistics.compute import stats, why_no_statistics
from initstats.statistics.record import Stats
from initstats.statistics.table import StatsTable
from initstats.text import literal, number, plain_table


def add_stats_command(app: typer.Typer) -> None:
    """Add the command to the command line.

    Args:
        app: The command line.
    """
    app.command(name="stats")(stats_of_checkpoint)


def stats_of_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint: .pt, .safetensors, the index of several files, or a folder of "
            "torch.distributed.checkpoint."
        ),
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
        found, left_out = _load(file, expression)
        if not found.tensors and minus is None:
            named = ", ".join(f"{name}: {why}" for name, why in left_out.items())
            raise ValueError(
                f"initstats.stats: expected a tensor with statistics in {str(file)!r}, got {named}"
            )
        if minus is None:
            records = _records(found, fingerprint=fingerprint)
            shown: RenderableType = records
        else:
            others, also = _load(minus, expression)
            left_out |= also
            not_compared = _not_comparable(found.tensors, others.tensors)
            both = [name for name in found.tensors if name not in not_compared]
            records, base = _steps(found, others, both)
            shown = _differences(records, base)
    if output is not None:
        write_output("stats", output, records.to_dict())
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
            console.print(*literal(f"{what}: {name}: {reason}"), soft_wrap=True)
    if not_finite:
        console.print(*literal(f"not finite: {', '.join(not_finite)}"), soft_wrap=True)


def _load(file: Path, expression: re.Pattern[str]) -> tuple[Checkpoint, dict[str, str]]:
    """Return a checkpoint of the tensors that have statistics, and why others have none."""
    found = load_checkpoint(file, "stats")
    left_out = {name: why for name, why in found.left_out.items() if expression.search(name)}
    tensors = {}
    for name, tensor in found.tensors.items():
        if expression.search(name):
            stored = name in found.stored
            why = why_no_statistics(tensor.new_empty(0, device="cpu") if stored else tensor)
            if why:
                left_out[name] = why
            else:
                tensors[name] = tensor
    if not tensors and not left_out:
        raise ValueError(
            f"initstats.stats: expected a name in which {expression.pattern!r} is found, got none"
            f" in {str(file)!r}"
        )
    return dataclasses.replace(found, tensors=tensors), left_out


def _records(found: Checkpoint, *, fingerprint: bool) -> StatsTable:
    """Return the records of all tensors; what is stored in blocks is read block by block."""
    if not found.stored:
        return stats(found.tensors, fingerprint=fingerprint)
    batches = (
        [(name, block, Box(offset, tuple(tensor.shape)))]
        for name, tensor in found.tensors.items()
        for block, offset in found.blocks(name)
    )
    return stats_of_blocks(batches, fingerprint=fingerprint)


def _steps(
    found: Checkpoint, others: Checkpoint, names: list[str]
) -> tuple[StatsTable, StatsTable]:
    """Return the records of the differences of two checkpoints, and of what is subtracted."""
    if not found.stored and not others.stored:
        base = {name: others.tensors[name] for name in names}
        records = stats({name: found.tensors[name] for name in names}, minus=base)
        return records, stats(base, histogram=False)
    steps: dict[str, Stats] = {}
    before: dict[str, Stats] = {}
    for name in names:
        # A tensor that is not stored in blocks is read in those of the other file.
        in_blocks = found if name in found.stored else others
        for offset, size in in_blocks.stored[name]:
            block, other = (part.block(name, offset, size) for part in (found, others))
            for records_of, record in (
                (steps, stats(block, minus=other)),
                (before, stats(other, histogram=False)),
            ):
                known = records_of.get(name)
                records_of[name] = record if known is None else known.merge(record)
    return StatsTable(steps), StatsTable(before)


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
            *literal(name),
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
