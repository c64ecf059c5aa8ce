"""What the commands share: a console of sensible width, and the way to refuse."""

from __future__ import annotations

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
