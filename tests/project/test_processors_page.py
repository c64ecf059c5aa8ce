"""The page on other processors says what was counted."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/explanation/processors.md"
COLUMNS = ("avx512", "avx2", "aarch64", "baseline")


def between(marker: str) -> str:
    return PAGE.read_text().split(f"<!-- {marker} -->\n")[1].split(f"<!-- end of {marker} -->")[0]


def test_the_page_shows_the_counted_instructions() -> None:
    counts = json.loads((ROOT / "tests/project/instructions.json").read_text())["counts"]
    rows = [
        f"| {kernel} | {' | '.join(f'{counts[column][kernel]:.1f}' for column in COLUMNS)} |"
        for kernel in counts["avx2"]
    ]
    head = "| kernel | AVX-512 | AVX2 | NEON | SSE2 |\n| --- | ---: | ---: | ---: | ---: |\n"
    assert between("instructions") == head + "\n".join(rows) + "\n"
