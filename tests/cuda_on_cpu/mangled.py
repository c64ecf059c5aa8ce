"""Find a kernel by the name that its source gives it."""

from __future__ import annotations

from collections.abc import Iterable


def find_kernel(names: Iterable[str], stem: str) -> str:
    """Return the one mangled name that stands for `stem`.

    Args:
        names: mangled names.
        stem: a mangled name, the kernel's identifier, or any part of a mangled name (which tells
            the instances of a template apart).

    Raises:
        KeyError: there is no such name, or more than one.
    """
    names = list(names)
    if stem in names:
        return stem
    # Identifiers are mangled with their length: 13normal_kernel is not in 19trunc_normal_kernel.
    found = [name for name in names if f"{len(stem)}{stem}" in name]
    found = found or [name for name in names if stem in name]
    if len(found) != 1:
        raise KeyError(f"expected one kernel named like {stem!r}, got {found} of {names}")
    return found[0]
