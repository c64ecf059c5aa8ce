"""Optional packages: imported when a sink is made, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn


def require(module: str, sink: str, extra: str) -> Any:
    """Import a module of an extra.

    Args:
        module: Full name of the module.
        sink: Public name that needs it.
        extra: Extra of this package that installs it.

    Returns:
        The module.

    Raises:
        ImportError: Naming the extra, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0] if not module.startswith("torch.") else "tensorboard"
        msg = (
            f"initstats.{sink}: expected {package} to be installed, got {package}=missing;"
            f" pip install initstats[{extra}]"
        )
        raise ImportError(msg) from error


def refuse_pickle(sink: str, what: str, todo: str) -> NoReturn:
    """Refuse to pickle or copy a sink that holds what belongs to its process.

    Args:
        sink: Public name of the sink.
        what: What it holds.
        todo: What to do instead.

    Raises:
        TypeError: Always.
    """
    msg = f"initstats.{sink}: expected no pickle or copy of a sink that holds {what}; {todo}"
    raise TypeError(msg)
