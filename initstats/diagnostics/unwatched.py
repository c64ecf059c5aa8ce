"""Forward passes and steps of our own, which a monitor must not record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_THREAD = threading.local()


@contextmanager
def unwatched() -> Iterator[None]:
    """Keep monitors from recording what this thread does inside, such as an audit."""
    before = is_unwatched()
    _THREAD.unwatched = True
    try:
        yield
    finally:
        _THREAD.unwatched = before


def is_unwatched() -> bool:
    """Tell whether this thread is inside `unwatched`."""
    return getattr(_THREAD, "unwatched", False)
