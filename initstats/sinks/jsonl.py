"""Sink for lines of JSON in a file that survives a crash, and its reader."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from initstats.monitoring.row import Row
from initstats.sinks.row_text import SCHEMA, from_lines, step_of_line, to_lines


class JsonLines:
    """Write each row as one line of JSON.

    It pickles as its path, so that a process that is spawned opens the file for itself. A line is
    written by one system call; a line cut short by a crash or a full disk is removed by
    the next write or passed over by `read_rows`. A file that exists is gone on with.

    Args:
        path: The file, such as `run.jsonl`.
        max_bytes: Size from which the file is renamed to `run.jsonl.1` (and that to `.2`, ...) and
            begun again; None for never.
        keep: How many renamed files are kept, >= 1.
        sync: Ask the system to put every row onto the disk: survives a crash of the machine too.

    Raises:
        ValueError: If `max_bytes` or `keep` is below 1.
        OSError: If the file cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int | None = None,
        keep: int = 5,
        sync: bool = False,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("keep", keep)):
            if value is not None and value < 1:
                msg = f"initstats.sinks.JsonLines: expected {name} >= 1, got {name}={value}"
                raise ValueError(msg)
        self.path = Path(path).absolute()  # of this folder, wherever the process goes
        self._max_bytes = max_bytes
        self._keep = keep
        self._sync = sync
        self._written: set[str] = set()
        self._file = self._open()

    def for_rank(self, rank: int) -> JsonLines:
        """Return a sink for the file of one rank: `run.rank00017.jsonl` beside `run.jsonl`."""
        path = self.path.with_name(f"{self.path.stem}.rank{rank:05d}{self.path.suffix}")
        return JsonLines(path, max_bytes=self._max_bytes, keep=self._keep, sync=self._sync)

    def write(self, row: Row) -> None:
        """Append a row.

        Args:
            row: The row.

        Raises:
            OSError: If it could not be written whole; the file then ends with the row before.
        """
        if self._file < 0:
            self._file = self._open()
        if self._max_bytes is not None and os.fstat(self._file).st_size >= self._max_bytes:
            self._rotate()
        known = set(self._written)
        data = "".join(f"{line}\n" for line in to_lines(row, known)).encode()
        size = os.fstat(self._file).st_size
        try:
            while data:  # once, unless the disk is nearly full: then the next write says so
                data = data[os.write(self._file, data) :]
            if self._sync:
                os.fsync(self._file)
        except OSError:
            self._cut(size)
            raise
        self._written = known

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def resume(self, step: int) -> None:
        """Cut off the rows that an interrupted run wrote after a step that is gone on from.

        Args:
            step: The last step that counts; rows of later ones are written again.
        """
        self.close()
        for i in range(self._keep + 1):
            file = _numbered(self.path, i)
            if file.is_file():
                _cut_rows(file, step)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle by the path: another process opens the file for itself."""
        return {**self.__dict__, "_file": -1, "_written": set()}

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(self.path)
        self._written = set()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.open(self.path, flags, 0o644)

    def _rotate(self) -> None:
        self.close()
        for i in range(self._keep, 0, -1):
            older = _numbered(self.path, i - 1)
            if older.exists():
                older.replace(_numbered(self.path, i))
        self._file = self._open()

    def _cut(self, size: int) -> None:
        """Take back a part of a line; not every file can be cut."""
        try:
            os.ftruncate(self._file, size)
        except OSError:
            return


def read_rows(path: str | Path) -> Iterator[Row]:
    """Read the rows of a file, and of the files that it was rotated into, oldest first.

    Args:
        path: The file that was given to `JsonLines`.

    Yields:
        Rows. What a crash left of the last line is passed over.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    older: list[Path] = []
    while (found := _numbered(path, len(older) + 1)).exists():
        older.append(found)
    for file in (*reversed(older), path):
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            yield from from_lines(line for line in lines if line.endswith("\n"))


def other_schema(path: str | Path) -> str:
    """Return the schema of a file whose rows another version wrote, which `read_rows` passes over.

    Args:
        path: The file.

    Returns:
        Such as "initstats.monitor/2"; empty for a file of this version, or of anything else.
    """
    with Path(path).open("rb") as file:
        found = _SCHEMA_OF_A_LINE.match(file.read(_BLOCK))
    schema = found[1].decode() if found else ""
    return "" if schema == SCHEMA else schema


def _numbered(path: Path, i: int) -> Path:
    return path.with_name(f"{path.name}.{i}") if i else path


def _cut_rows(path: Path, step: int) -> None:
    """Cut a file before the first row of a later step."""
    with path.open("r+b") as file:
        at = 0
        for line in file:
            found = step_of_line(line)
            if found is not None and found > step:
                file.truncate(at)
                return
            at += len(line)


def _drop_torn_line(path: Path) -> None:
    """Cut off an incomplete last line."""
    if not path.exists() or not path.is_file():
        return
    with path.open("r+b") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            at = file.read(end - begin).rfind(b"\n")
            if at >= 0:
                end = begin + at + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


_BLOCK = 1 << 16
_SCHEMA_OF_A_LINE = re.compile(rb'\{"schema": ?"(initstats\.monitor/\d{1,9})"')
