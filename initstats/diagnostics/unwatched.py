"""Forward passes and steps of our own, which a monitor must not record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Thread(threading.local):
    """What one thread is in; a default of the class costs a hook a tenth of a missing attribute."""

    unwatched = False


_THREAD = _Thread()


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
    return _THREAD.unwatched
