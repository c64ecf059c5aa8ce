"""Fuzzes the readers with atheris: `python tests/fuzz/fuzz.py [-max_total_time=600 ...]`.

Options are libFuzzer's. The first byte of an input chooses the reader. Needs `pip install atheris`.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

with atheris.instrument_imports(include=["initstats", "json", "safetensors", "readers"]):
    import readers

KINDS = sorted(readers.READERS)


def main() -> None:
    """Write the seeds, and run until time is up or something is found."""
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for kind, contents in readers.seeds().items():
        for i, content in enumerate(contents):
            (corpus / f"{kind}-{i}").write_bytes(bytes([KINDS.index(kind)]) + content)

    def one_input(data: bytes) -> None:
        if data:
            readers.read(KINDS[data[0] % len(KINDS)], data[1:], folder)

    options = ["-rss_limit_mb=4096", "-timeout=20", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
