"""Docstrings: descriptions of arguments and attributes begin with a capital letter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


def descriptions(docstring: str) -> Iterator[str]:
    """Yield `name: first word` of each description under `Args:` and `Attributes:`."""
    for section in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?)+)", docstring, re.MULTILINE):
        yield from re.findall(r"^    (\*{0,2}\w+: [^\s,;:.]+)", section, re.MULTILINE)


def test_descriptions_of_arguments_begin_with_a_capital_letter() -> None:
    small = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in sorted((ROOT / "initstats").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, DOCUMENTED)
        for found in descriptions(ast.get_docstring(node) or "")
        if re.fullmatch(r"\S+ [a-z]+", found)
    ]
    assert small == []
