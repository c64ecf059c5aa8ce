"""Write the tables of docs/benchmarks_gpu.md from benchmarks/results/gpu/.

python -m benchmarks.gpu_table rewrites the text between the two markers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/benchmarks_gpu.md"
RESULTS = ROOT / "benchmarks/results/gpu"
BLOCK = re.compile(r"<!-- measured on a GPU -->\n(.*?)<!-- end of measured -->", re.DOTALL)
COUNTED = re.compile(r"<!-- counted on a GPU -->\n(.*?)<!-- end of counted -->", re.DOTALL)
FILES = {
    "H100, first run": "nvidia-h100-2026-11-28-before.json",
    "H200, the same code": "nvidia-h200-2026-11-28-before.json",
    "H200, new kernels": "nvidia-h200-2026-11-28-kernels.json",
    "H200, all of the day": "nvidia-h200-2026-11-28.json",
}
# Calls of tests/gpu/profile_calls.py by the number that ncu gave their kernel, and that file.
COUNTERS = "nvidia-h200-2026-11-28-ncu.json"
PROFILED_ELEMENTS = 1 << 26
PROFILED = {
    "uniform_ bfloat16": 14,
    "normal_ bfloat16": 15,
    "trunc_normal_ float32": 0,
    "trunc_normal_ bfloat16": 16,
    "stats moments float32": 1,
    "stats moments + histogram float32": 5,
    "stats all groups float32": 9,
    "stats moments bfloat16": 17,
    "stats moments + histogram bfloat16": 21,
    "stats float32 units dim=0": 12,
}
_DEVICES = {"H100": "NVIDIA H100 80GB HBM3", "H200": "NVIDIA H200"}


def tables() -> str:
    """Return the tables: bandwidths with their share of the floor, and times.

    Raises:
        ValueError: If a results file is of another device than its column says.
    """
    runs = {}
    for column, file in FILES.items():
        document = json.loads((RESULTS / file).read_text())
        if document["where"]["device"] != _DEVICES[column.split(",")[0]]:
            raise ValueError(f"{file}: expected results of {column}, got {document['where']}")
        runs[column] = {row["name"]: row for row in document["rows"]}
    names = list(runs["H100, first run"])
    bandwidths = [n for n in names if "share" in runs["H100, first run"][n]]
    times = [n for n in names if {"ms", "us", "step_ms"} & set(runs["H100, first run"][n])]
    text = [_table("GB/s (share of the floor; × torch)", bandwidths, runs, _bandwidth)]
    text.append(_table("time (× torch)", [n for n in times if n not in bandwidths], runs, _time))
    return "\n".join(text)


def counters() -> str:
    """Return the table of what the hardware counted in one launch of each kernel."""
    found = {row["id"]: row for row in json.loads((RESULTS / COUNTERS).read_text())}
    head = ["kernel of", "instructions of a warp, × 32 per element", "per cycle, of 4"]
    head += ["of DRAM's rate", "registers", "warps active"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * 5]
    for name, number in PROFILED.items():
        row = found[number]
        count = row["instructions"] * 32 / PROFILED_ELEMENTS
        lines.append(
            f"| {name} | {count:.1f} | {row['per_cycle']:.2f} | {row['of_dram_percent']:.0f} %"
            f" | {row['registers']} | {row['warps_active_percent']:.0f} % |"
        )
    return "\n".join(lines) + "\n"


def _table(title: str, names: list[str], runs: dict[str, dict[str, Any]], cell: Any) -> str:
    lines = [f"| {title} | {' | '.join(runs)} |", f"| --- |{' ---: |' * len(runs)}"]
    lines += [
        f"| {name} | {' | '.join(cell(rows.get(name, {})) for rows in runs.values())} |"
        for name in names
    ]
    return "\n".join(lines) + "\n"


def _bandwidth(row: dict[str, Any]) -> str:
    if "share" not in row:
        return "–"
    rate = f"{row['gb_s']:.0f}" if "gb_s" in row else f"{row['ms']:.2f} ms"
    return f"{rate} ({row['share']:.2f}{_rival(row)})"


def _time(row: dict[str, Any]) -> str:
    if "step_ms" in row:
        return f"{row['step_ms']:.1f} ms, {row['times']:.3f} of a plain step"
    for key, unit in (("ms", "ms"), ("us", "µs")):
        if key in row:
            rival = _rival(row).removeprefix("; ")
            return f"{row[key]:.3g} {unit}" + (f" ({rival})" if rival else "")
    return "–"


def _rival(row: dict[str, Any]) -> str:
    ratios = [row[key] for key in ("torch_ratio", "torch_loop_ratio") if key in row]
    return f"; {ratios[0]:.2f}×" if ratios and ratios[0] == ratios[0] else ""


def main() -> None:
    """Rewrite the tables."""
    block = f"<!-- measured on a GPU -->\n{tables()}<!-- end of measured -->"
    text = BLOCK.sub(lambda _: block, PAGE.read_text())
    counted = f"<!-- counted on a GPU -->\n{counters()}<!-- end of counted -->"
    PAGE.write_text(COUNTED.sub(lambda _: counted, text))


if __name__ == "__main__":
    main()
