"""Compiled files, kept by the hash of everything that they were made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from .toolkit import REPOSITORY


def cache_folder() -> Path:
    """Return $INITSTATS_TEST_CACHE, or a folder under build/ of the repository."""
    given = os.environ.get("INITSTATS_TEST_CACHE")
    return Path(given) if given else REPOSITORY / "build" / "test-cache"


def cached(
    kind: str, parts: Iterable[str], files: Iterable[Path], make: Callable[[Path], None]
) -> Path:
    """Return the folder that `make` fills, from the cache where it is there.

    Args:
        kind: the subfolder of the cache.
        parts: text that the result depends on, such as the command line.
        files: files whose content the result depends on.
        make: writes its results into the folder that it gets.
    """
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part.encode() + b"\0")
    for file in sorted(set(files)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    target = cache_folder() / kind / digest.hexdigest()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Tests that run in parallel wait for the first that wants it.
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            # Made elsewhere and moved: what is there is whole, also after a kill.
            scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix="making-"))
            try:
                make(scratch)
                scratch.rename(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target
