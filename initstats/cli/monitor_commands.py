"""Commands of the monitor: `initstats watch`, `plot`, `report` and `merge`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.live import Live
from rich.text import Text

from initstats.cli.console import (
    AsJson,
    make_console,
    print_json,
    reading,
    refuse,
    working,
    writing,
)
from initstats.drawing.template import write_page
from initstats.monitoring.heat_map import draw_heat_map
from initstats.monitoring.report.page import run_page
from initstats.monitoring.row import Row
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines, other_schema, read_rows
from initstats.sinks.row_table import row_table
from initstats.sinks.row_text import from_lines
from initstats.sinks.row_words import NamedNumbers

_POLL_SECONDS = 0.5


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line.

    Args:
        app: The command line.
    """
    app.command()(watch)
    app.command()(plot)
    app.command()(report)
    app.command()(merge)


def watch(
    file: Annotated[Path, typer.Argument(help="File that sinks.JsonLines writes.")],
    *,
    once: Annotated[bool, typer.Option("--once", help="Show the last row and leave.")] = False,
    lines: Annotated[int, typer.Option(min=2, help="Lines per table at most.")] = 30,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON per row instead.")
    ] = False,
) -> None:
    """Show the last row of a run, live; Ctrl-C ends it."""
    console = make_console()
    if once:
        last = None
        with reading("watch", file):
            for row in read_rows(file):
                last = row
        if last is None:
            _refuse_without_rows("watch", [file])
        if as_json:
            print_json(_values(last), indent=None)
        else:
            console.print(row_table(last, lines))
        return
    rows = from_lines(follow(file))
    try:
        with reading("watch", file):
            if as_json:
                for row in rows:
                    print_json(_values(row), indent=None)
                return
            with Live(Text("waiting for a row"), console=console, auto_refresh=False) as live:
                for row in rows:
                    live.update(row_table(row, lines), refresh=True)
    except KeyboardInterrupt:
        return


def _values(row: Row) -> dict[str, Any]:
    """Return what a row says: its steps, scalars, alerts, and what is missing and why."""
    return {
        "step": row.step,
        "first_step": row.first_step,
        "time": row.time,
        "scalars": dict(row.scalars()),
        **{kind: numbers for kind, numbers in NamedNumbers().of(row).items() if numbers},
        "alerts": [finding.to_dict() for finding in row.alerts],
        "missing": row.missing,
    }


def plot(
    file: Annotated[Path, typer.Argument(help="File that sinks.JsonLines writes.")],
    *,
    kind: Annotated[
        str,
        typer.Option(
            help="activations, gradients, weights, update_ratio, near_zero, calls, momentum_cosine"
        ),
    ] = "activations",
    field: Annotated[str, typer.Option(help="Field of Stats, such as rms or abs_max.")] = "rms",
    match: Annotated[str, typer.Option(help="Regular expression that names must hold.")] = "",
    output: Annotated[Path, typer.Option(help="The PNG file.")] = Path("initstats-run.png"),
    as_json: AsJson = False,
) -> None:
    """Draw scale by depth and time of a run as a heat map."""
    rows = _rows("plot", file)
    try:
        with writing("plot", output):
            draw_heat_map(rows, output, kind=kind, field=field, match=match)
    except (ImportError, ValueError) as error:
        refuse(str(error))
    if as_json:
        print_json({"wrote": str(output), "rows": len(rows)})
    else:
        typer.echo(f"wrote {output}")


def merge(
    files: Annotated[list[Path], typer.Argument(help="One file per rank: run.rank*.jsonl.")],
    *,
    output: Annotated[Path, typer.Option(help="The file of the whole model's rows.")],
    as_json: AsJson = False,
) -> None:
    """Join the files that each rank of a run wrote to rows of the whole model."""
    # JsonLines("run.jsonl") makes an empty file before it writes one per rank instead.
    with writing("merge", output):
        if output.exists() and (not output.is_file() or output.stat().st_size):
            refuse(f"initstats.merge: expected a new or empty file, got output={output}")
    try:
        with reading("merge", files[0]):
            rows = list(join_rows(files))
    except ValueError as error:
        refuse(str(error))
    if not rows:
        _refuse_without_rows("merge", files)
    with writing("merge", output):
        sink = JsonLines(output)
        for row in rows:
            sink.write(row)
        sink.close()
    if as_json:
        print_json({"wrote": str(output), "rows": len(rows)})
    else:
        typer.echo(f"wrote {len(rows)} rows to {output}")


def report(
    file: Annotated[Path, typer.Argument(help="File that sinks.JsonLines writes.")],
    *,
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path("initstats-run.html"),
    as_json: AsJson = False,
) -> None:
    """Draw a run as one page that opens from disk: norms, updates, depth and time, alerts."""
    rows = _rows("report", file)
    with writing("report", output):
        write_page(output, run_page(rows, file.name))
    if as_json:
        print_json({"wrote": str(output), "rows": len(rows)})
    else:
        typer.echo(f"wrote {output}")


def _rows(command: str, file: Path) -> list[Row]:
    """Read all rows of a run, or leave with one line where there is none."""
    with reading(command, file), working(f"reading {file}"):
        rows = list(read_rows(file))
    return rows or _refuse_without_rows(command, [file])


def _refuse_without_rows(command: str, files: Sequence[Path]) -> NoReturn:
    """Say that no file holds a row, or that another version wrote them."""
    named = ", ".join(map(str, files))
    message = f"initstats.{command}: expected at least one row, got none in {named}"
    for file in files:
        if schema := other_schema(file):
            message += f"; {file} holds rows of schema {schema!r}, which this version does not read"
            break
    refuse(message)


def follow(path: Path, poll_seconds: float = _POLL_SECONDS) -> Iterator[str]:
    """Read the whole lines of a file, and go on as it grows or is rotated.

    Args:
        path: The file.
        poll_seconds: Seconds between two looks, >= 0.

    Yields:
        Lines with their ends; it never stops by itself.
    """
    while True:
        with path.open("rb") as file:
            number = path.stat().st_ino
            rest = b""
            while True:
                block = file.readline()
                if block:
                    rest += block
                    if rest.endswith(b"\n"):
                        yield rest.decode(errors="replace")
                        rest = b""
                    continue
                if path.exists() and path.stat().st_ino != number:
                    break
                time.sleep(poll_seconds)
