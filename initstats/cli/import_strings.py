"""Import objects by `package.module:name`, with hints for wrong names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


def add_current_folder() -> None:
    """Make modules of the current folder importable, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()


def load_object(function: str, option: str, where: str) -> Any:
    """Import a module and return an object of it.

    Args:
        function: Public function on whose behalf this is done, for messages.
        option: Name of the argument, for messages.
        where: `package.module:name`; the name may have dots.

    Returns:
        The object.

    Raises:
        ImportError: If a part of the module's path does not exist, or the module raises while it
            is imported; that exception is the cause then.
        ValueError: If there is no colon, or no object of that name; near names are given.
    """
    expected = f"initstats.{function}: expected {option} as package.module:name"
    path, colon, name = where.partition(":")
    if not (colon and path and name):
        raise ValueError(f"{expected}, got {option}={where!r}")
    add_current_folder()
    missing = _missing_part(path)
    if missing is not None:
        part, siblings = missing
        raise ImportError(
            f"{expected}, got no module {part!r} in {option}={where!r}"
            f"{_near(part.rpartition('.')[2], siblings)}"
        )
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:
        raise ImportError(
            f"{expected}, got an exception while importing {path!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            holder = getattr(found, "__name__", path)
            raise ValueError(
                f"{expected}, got no {part!r} in {holder!r}{_near(part, _public(found))}"
            )
        found = getattr(found, part)
    return found


def call_with_seed(function: str, option: str, made: Callable[..., Any], seed: int) -> Any:
    """Call a function that takes nothing, or `seed`.

    Args:
        function: Public function on whose behalf this is done, for messages.
        option: Name of the argument, for messages.
        made: The function or class.
        seed: Passed if it has a parameter of that name.

    Returns:
        What it returns.

    Raises:
        TypeError: If it needs other arguments.
    """
    try:
        parameters = dict(inspect.signature(made).parameters)
    except (TypeError, ValueError):  # some builtins have none
        parameters = {}
    needed = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}
    ]
    if set(needed) - {"seed"}:
        raise TypeError(
            f"initstats.{function}: expected {option} to take no argument, or seed, "
            f"got {getattr(made, '__name__', made)!r} that takes {', '.join(needed)}; "
            "write a function without arguments that calls it"
        )
    return made(seed=seed) if "seed" in parameters else made()


def _missing_part(path: str) -> tuple[str, list[str]] | None:
    """Return the first part of a module's path that does not exist, and what is beside it."""
    known: list[str] | None = None
    parts = path.split(".")
    for i in range(len(parts)):
        full = ".".join(parts[: i + 1])
        if full in sys.modules:
            known = list(getattr(sys.modules[full], "__path__", ()))
            continue
        spec = PathFinder.find_spec(full, known)
        if spec is None and not (i == 0 and parts[0] in sys.builtin_module_names):
            return full, [module.name for module in pkgutil.iter_modules(known)]
        known = None if spec is None else list(spec.submodule_search_locations or ())
    return None


def _public(found: object) -> list[str]:
    """Return the names of an object that do not begin with an underscore."""
    return [name for name in dir(found) if not name.startswith("_")]


def _near(name: str, names: Iterable[str]) -> str:
    """Return a hint on near names, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
