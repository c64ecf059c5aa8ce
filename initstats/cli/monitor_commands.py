"""Commands of the monitor: `initstats watch` and `initstats plot`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from initstats.monitoring.heat_map import draw_heat_map
from initstats.sinks.jsonl import read_rows
from initstats.sinks.row_table import row_table
from initstats.sinks.row_text import from_lines
from initstats.text import PLAIN_WIDTH

USAGE_ERROR = 2
_POLL_SECONDS = 0.5


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line.

    Args:
        app: The command line.
    """
    app.command()(watch)
    app.command()(plot)


def watch(
    file: Annotated[Path, typer.Argument(help="File that sinks.JsonLines writes.")],
    *,
    once: Annotated[bool, typer.Option("--once", help="Show the last row and leave.")] = False,
    lines: Annotated[int, typer.Option(min=2, help="Lines per table at most.")] = 30,
) -> None:
    """Show the last row of a run, live; Ctrl-C ends it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    if not file.exists():
        _refuse(f"initstats.watch: expected a file, got file={file}")
    if once:
        last = None
        for row in read_rows(file):
            last = row
        if last is None:
            _refuse(f"initstats.watch: expected at least one row, got none in {file}")
        console.print(row_table(last, lines))
        return
    with Live(Text("waiting for a row"), console=console, auto_refresh=False) as live:
        try:
            for row in from_lines(follow(file)):
                live.update(row_table(row, lines), refresh=True)
        except KeyboardInterrupt:
            return


def plot(
    file: Annotated[Path, typer.Argument(help="File that sinks.JsonLines writes.")],
    *,
    kind: Annotated[str, typer.Option(help="activations, gradients, weights, ...")] = "activations",
    field: Annotated[str, typer.Option(help="Field of Stats, such as rms or abs_max.")] = "rms",
    output: Annotated[Path, typer.Option(help="The PNG file.")] = Path("initstats-run.png"),
) -> None:
    """Draw scale by depth and time of a run as a heat map."""
    try:
        rows = list(read_rows(file))
        if not rows:
            _refuse(f"initstats.plot: expected at least one row, got none in {file}")
        draw_heat_map(rows, output, kind=kind, field=field)
    except FileNotFoundError:
        _refuse(f"initstats.plot: expected a file, got file={file}")
    except (ImportError, ValueError) as error:
        _refuse(str(error))
    typer.echo(f"wrote {output}")


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


def _refuse(message: str) -> NoReturn:
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
    raise typer.Exit(USAGE_ERROR)
