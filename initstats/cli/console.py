"""Console of the commands, and their exit on bad usage."""

from __future__ import annotations

import errno
import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias

import typer
from rich.console import Console
from rich.text import Text

from initstats.auditing.report.schema import strict
from initstats.text import PLAIN_WIDTH

FOUND_ERRORS = 1
USAGE_ERROR = 2
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")
]


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that is wide enough for the tables where no terminal tells its width.

    Args:
        stderr: Write to standard error.

    Returns:
        The console.
    """
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH)


def print_json(values: Any, *, indent: int | None = 1) -> None:
    """Print strict JSON: NaN and infinities are the strings "nan", "inf" and "-inf".

    Args:
        values: What `json.dumps` can write.
        indent: As of `json.dumps`; None for one line.
    """
    typer.echo(_strict_json(values, indent))


def _strict_json(values: Any, indent: int | None) -> str:
    return json.dumps(strict(values), indent=indent, allow_nan=False)


def write_output(command: str, path: Path, values: Any) -> None:
    """Write strict JSON into a file that the user asked for, or leave with one line.

    Args:
        command: The command that the message names.
        path: The file.
        values: As in `print_json`.

    Raises:
        typer.Exit: With the status of a usage error, if it cannot be written.
    """
    with writing(command, path):
        path.write_text(_strict_json(values, 1) + "\n", encoding="utf-8")


def require_writable(command: str, folder: Path, instead: str = "name another") -> None:
    """Refuse a folder into which nothing can be written, before anything runs.

    Args:
        command: The command that the message names.
        folder: The folder, which need not exist.
        instead: What to do, for the end of the message.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    here = folder.absolute()
    try:
        nearest = next(path for path in (here, *here.parents) if path.exists())
        if not nearest.is_dir():
            why = f"{str(nearest)!r} is no folder"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            why = f"{str(nearest)!r} cannot be written to"
        else:
            return
    except OSError as error:  # such as a name that is too long
        why = error.strerror or str(error)
    raise ValueError(
        f"initstats.{command}: expected --output to be a folder to write to, got {str(folder)!r}, "
        f"and {why}; {instead}"
    )


@contextmanager
def writing(command: str, path: Path) -> Iterator[None]:
    """Leave with one line if an output cannot be written.

    Args:
        command: The command that the message names.
        path: The file or folder that the user asked for.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        refuse(f"initstats.{command}: expected an output to write to, got {str(path)!r} ({why})")


@contextmanager
def reading(command: str, file: Path) -> Iterator[None]:
    """Leave with one line if a file cannot be read.

    Args:
        command: The command that the message names.
        file: The file; an error that names another goes before it.
    """
    try:
        _require_an_end(file)
        yield
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "" if missing else f" ({error.strerror or error})"
        refuse(f"initstats.{command}: expected a file, got file={error.filename or file}{why}")


def _require_an_end(file: Path) -> None:
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or a device", file)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something takes time, on standard error, until it is done.

    Args:
        what: What is being done.
    """
    with make_console(stderr=True).status(Text(what)):
        yield


def refuse(message: str) -> NoReturn:
    """Print an error and leave.

    Args:
        message: The error.

    Raises:
        typer.Exit: Always, with the status of a usage error.
    """
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
    raise typer.Exit(USAGE_ERROR)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn exceptions into exit status 2: one line for usage, a traceback for the user's code."""
    try:
        yield
    except typer.Exit:
        raise
    except SystemExit as error:  # of the user's code: its status would be taken for the command's
        traceback.print_exception(error)
        refuse(f"initstats: the code that was called left with sys.exit({error.code!r})")
    except Exception as error:
        if str(error).startswith("initstats."):
            if error.__cause__ is not None and "while importing" in str(error):
                traceback.print_exception(error.__cause__)
            refuse(str(error))
        traceback.print_exception(error)
        if not hasattr(error, "add_note"):  # Python 3.10 keeps notes, and does not print them
            for note in getattr(error, "__notes__", ()):
                Console(stderr=True).print(Text(note), soft_wrap=True)
        raise typer.Exit(USAGE_ERROR) from error
