"""Runs benchmarks: python -m benchmarks [fills stats ...] [--device cuda] [--match trunc].

It is `pytest benchmarks` with the results in a file by default; other options go to pytest as they
are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.results_file import default_path


def main() -> int:
    """Run pytest on what the command line asks for."""
    folder = Path(__file__).parent
    known = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(known)} (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, help="of the CPU, default those of torch")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=6.0, help="per case (default: 6)")
    parser.add_argument("--no-avx2", action="store_true", help="leave out the second run")
    parser.add_argument("--output", type=Path, help="the results file; default: by machine, date")
    arguments, others = parser.parse_known_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"expected names among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    threads = arguments.threads or torch.get_num_threads()
    output = arguments.output or default_path(torch.device(arguments.device), threads)
    output.parent.mkdir(parents=True, exist_ok=True)
    return pytest.main(
        [
            *(str(folder / f"bench_{name}.py") for name in arguments.names or known),
            f"--device={arguments.device}",
            f"--threads={threads}",
            f"--match={arguments.match}",
            f"--benchmark-max-time={arguments.seconds}",
            f"--benchmark-json={output}",
            *(["--no-avx2"] if arguments.no_avx2 else []),
            *others,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
