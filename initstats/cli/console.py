"""Console of the commands, and their exit on bad usage."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from initstats.text import PLAIN_WIDTH

FOUND_ERRORS = 1
USAGE_ERROR = 2


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that is wide enough for the tables where no terminal tells its width.

    Args:
        stderr: Write to standard error.

    Returns:
        The console.
    """
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH)


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
