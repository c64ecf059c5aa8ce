"""Writes the README's table of measurements from a results file.

python -m benchmarks.readme_table benchmarks/results/<file>.json rewrites what stands between the
two markers; the first names the file, so that a test can make the table again and compare.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks import results_file
from benchmarks.harness import Measurement

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"<!-- measured: (\S+) -->\n(.*?)<!-- end of measured -->", re.DOTALL)
NOT_MEASURED = "Not measured yet.\n"


def main() -> None:
    """Rewrite the table in the README."""
    file = Path(sys.argv[1]).resolve().relative_to(ROOT).as_posix()
    block = f"<!-- measured: {file} -->\n{table(ROOT / file)}<!-- end of measured -->"
    README.write_text(BLOCK.sub(lambda _: block, README.read_text()))


def table(path: Path) -> str:
    """Return the table of one results file, as Markdown."""
    where, measurements = results_file.read(path)
    best = [m for m in measurements if m.capability != "avx2"]
    avx2 = {m.name: m for m in measurements if m.capability == "avx2"}
    processor = f"{where['cpu']}, {where['threads']} threads, {best[0].capability}"
    lines = [
        f"{processor}, torch {where['torch']}; medians.",
        "Floor: the bandwidth of `zero_` (fill) or `torch.sum` (read) in the same run.",
        "",
        "| operation | time | rival | speed-up | with AVX2 | of the floor |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(measurement, avx2.get(measurement.name)) for measurement in best]
    return "\n".join(lines) + "\n"


def _row(measurement: Measurement, avx2: Measurement | None) -> str:
    rival = speed_up = slower = floor = "–"
    if measurement.ratio is not None and measurement.rival_median_ns is not None:
        rival = (
            f"{_time(measurement.rival_median_ns / measurement.count)} ({measurement.rival_name})"
        )
        speed_up = f"{measurement.ratio:.1f}×"
    if avx2 is not None and avx2.ratio is not None:
        slower = f"{avx2.ratio:.1f}×"
    if measurement.floor_share is not None:
        floor = f"{measurement.floor_share:.2f} ({measurement.floor})"
    time = f"{_time(measurement.ns_per_unit)}/{measurement.unit}"
    return f"| {measurement.name} | {time} | {rival} | {speed_up} | {slower} | {floor} |"


def _time(ns: float) -> str:
    if ns < 1e3:
        return f"{ns:.3g} ns"
    return f"{ns / 1e3:.3g} µs" if ns < 1e6 else f"{ns / 1e6:.3g} ms"


if __name__ == "__main__":
    main()
