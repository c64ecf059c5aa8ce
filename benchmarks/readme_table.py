"""Write the tables of measurements in README.md and docs/benchmarks.md from a results file.

python -m benchmarks.readme_table benchmarks/results/<file>.json rewrites the text between the two
markers of each; the first marker names the file, so that a test can make the tables again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks import results_file
from benchmarks.harness import Measurement

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FULL = ROOT / "docs/benchmarks.md"
# The rows of the README; docs/benchmarks.md has all.
README_ROWS = (
    "uniform_ float32 4096x4096",
    "normal_ float32 4096x4096",
    "trunc_normal_ float32 4096x4096",
    "stats all groups float32 4096x4096, nine calls",
    "orthogonal_ float32 4096x4096",
)
BLOCK = re.compile(r"<!-- measured: (\S+) -->\n(.*?)<!-- end of measured -->", re.DOTALL)
NOT_MEASURED = "Not measured yet.\n"
CAPABILITIES = ("avx512", "avx2", "baseline")  # the first one that was measured has the table
_WITH_AVX2 = 4  # column, left out where nothing better was measured


def main() -> None:
    """Rewrite both tables."""
    file = Path(sys.argv[1]).resolve().relative_to(ROOT).as_posix()
    for document, names in ((README, README_ROWS), (FULL, None)):
        block = f"<!-- measured: {file} -->\n{table(ROOT / file, names)}<!-- end of measured -->"
        document.write_text(BLOCK.sub(block, document.read_text()))


def table(path: Path, names: Collection[str] | None = None) -> str:
    """Return the table of one results file as Markdown: the rows with these names, or all.

    Raises:
        ValueError: If the file lacks a row.
    """
    where, measurements = results_file.read(path)
    found = {m.capability for m in measurements}
    capability = next((c for c in CAPABILITIES if c in found), "cuda")
    best = [m for m in measurements if capability in (m.capability, "cuda")]
    if names is not None:
        if missing := set(names) - {m.name for m in best}:
            raise ValueError(f"{path}: expected rows {sorted(missing)}, found none")
        best = [m for m in best if m.name in names]
    avx2 = (
        {m.name: m for m in measurements if m.capability == "avx2"} if "avx512" in found else None
    )
    processor = f"{where['cpu']}, {where['threads']} threads, {capability}"
    lines = [
        f"{processor}, torch {where['torch']}; medians.",
        "Floor: the bandwidth of `zero_` (fill) or `torch.sum` (read) in the same run.",
        "",
    ]
    columns = ["operation", "time", "rival", "speed-up", "with AVX2", "of the floor"]
    rows = [_row(measurement, avx2 or {}) for measurement in best]
    for cells in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows):
        shown = [cell for i, cell in enumerate(cells) if avx2 is not None or i != _WITH_AVX2]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _row(measurement: Measurement, avx2: dict[str, Measurement]) -> list[str]:
    rival = speed_up = slower = floor = "–"
    there = avx2.get(measurement.name)
    if measurement.ratio is not None and measurement.rival_median_ns is not None:
        rival = (
            f"{_time(measurement.rival_median_ns / measurement.count)} ({measurement.rival_name})"
        )
        speed_up = f"{measurement.ratio:.1f}×"
    if there is not None and there.ratio is not None:
        slower = f"{there.ratio:.1f}×"
    if measurement.floor_share is not None:
        floor = f"{measurement.floor_share:.2f} ({measurement.floor})"
    time = f"{_time(measurement.ns_per_unit)}/{measurement.unit}"
    return [measurement.name, time, rival, speed_up, slower, floor]


def _time(ns: float) -> str:
    if ns < 1e3:
        return f"{ns:.3g} ns"
    return f"{ns / 1e3:.3g} µs" if ns < 1e6 else f"{ns / 1e6:.3g} ms"


if __name__ == "__main__":
    main()
