"""Files, notes and symbols that comments, docstrings and documents name exist under these names."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CPP = {".h", ".cuh", ".cpp", ".cu"}
# Where a path may begin: at the root, in a folder of sources, or beside the file that names it.
BASES = ("", "csrc", "initstats", "tests", "docs", "benchmarks")
FILE = re.compile(
    r"(?<![\w/.<{*:$-])(?:(?:[\w.-]+/)*[\w-]+\.(?:h|cuh|cpp|cu|py|md)\b(?![\w*])"
    r"|(?:csrc|initstats|tests|docs|benchmarks)/[\w/-]+(?![\w/*.{<-]))"
)
# A definition begins a sentence, and the text follows: "Note [Box]. ..." or "Note [Box]: ...".
NOTE = re.compile(r"(^\s*|\. )?Note \[([^\]]+)\]([.:] )?(?: in (\S+\.h))?", re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SYMBOL = re.compile(r"~?([A-Za-z_][\w.]*)(?:\([^`]*\))?")
SYMBOL_OF_FILE = re.compile(r"\b(\w*(?:_|[a-z][A-Z])\w*) of ((?:[\w.-]+/)+[\w-]+\.\w+)\b")

# Files of others: torch's, the CUDA toolkit's.
FOREIGN_FILES = {
    "test/nn/test_init.py",
    "cuda_runtime.h",
    "cuda_runtime_api.h",
    "math.h",
    "initstats/step",  # a metric
}
# Names of others, beyond those of torch and Python: of exporters, instructions, fields of configs,
# parameters, a logger.
FOREIGN_NAMES = {
    *("OTLPMetricExporter", "ConsoleMetricExporter", "capturable", "madvise", "solve_triangular"),
    *("LDS", "STS", "__hadd", "cp.async", "rgb", "h.3.mlp.c_fc.weight", "run.jsonl.1"),
    *("initializer_range", "init_method_std", "head_init_scale", "initstats.monitor", "time_decay"),
    *("torchrun", "experts.17.w1", "experts.1.w1"),
}


@cache
def files() -> tuple[Path, ...]:
    """Return the text files of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    kinds = CPP | {".py", ".md", ".pyi", ".toml", ".js", ".css", ".sh", ".j2", ".yaml", ""}
    paths = [ROOT / name for name in listed if name]
    return tuple(path for path in paths if path.suffix in kinds and path.is_file())


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments and the docstrings of a module, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            for each in node.body[:1]:
                if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                    value = each.value.value
                    if isinstance(value, str):  # sources are files of others
                        yield (
                            each.lineno,
                            value.partition("\nSource:")[0].partition("    Source:")[0],
                        )


@cache
def prose(path: Path) -> tuple[tuple[int, str], ...]:
    """Return what a file says to people, with the line at which each piece begins."""
    return tuple(_prose(path))


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text()
    if path.suffix in {".py", ".pyi"}:
        yield from python_prose(text)
    elif path.suffix in CPP:
        for match in re.finditer(r"(?://[^\n]*\n\s*)*//[^\n]*", text):
            words = re.sub(r"(^|\n)\s*//", r"\1", match[0])
            yield text.count("\n", 0, match.start()) + 1, words
    elif path.suffix == ".md":
        blanked = re.sub(r"(?ms)^```.*?^```", lambda m: "\n" * m[0].count("\n"), text)
        yield 1, blanked
    elif path.name == "Makefile" or path.suffix == ".sh":
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line:
                yield number, line.partition("#")[2]


def code(path: Path) -> str:
    """Return what a file says to machines."""
    text = path.read_text()
    if path.suffix in {".py", ".pyi"}:
        for _, words in python_prose(text):
            text = text.replace(words, " ")
        return text
    if path.suffix in CPP:
        return re.sub(r"//[^\n]*", "", text)
    return "" if path.suffix == ".md" else text


@cache
def defined() -> frozenset[str]:
    """Return the words of all code, and the names of torch and of Python."""
    words = {word for path in files() for word in re.findall(r"[A-Za-z_]\w*", code(path))}
    for of in (torch, torch.nn, torch.nn.init, torch.nn.functional, torch.Tensor, builtins):
        words |= set(dir(of))
    return frozenset(words | {path.stem for path in files()} | FOREIGN_NAMES)


def lines(pattern: re.Pattern[str]) -> Iterator[tuple[Path, str, re.Match[str]]]:
    """Yield the matches in the prose of all files, with their places in words."""
    for path in files():
        for start, text in prose(path):
            for match in pattern.finditer(text):
                line = start + text.count("\n", 0, match.start())
                yield path, f"{path.relative_to(ROOT).as_posix()}:{line}", match


def exists(name: str, beside: Path) -> bool:
    if "/" not in name:
        return name in {path.name for path in files()}
    return any((base / name).exists() for base in (*(ROOT / b for b in BASES), beside.parent))


def test_files_that_are_named_exist() -> None:
    missing = [
        f"{place} names {match[0]}"
        for path, place, match in lines(FILE)
        if match[0] not in FOREIGN_FILES and not exists(match[0], path)
    ]
    assert missing == []


def test_notes_that_are_cited_are_defined_once_and_where_it_is_said() -> None:
    cited: list[tuple[str, str, str | None]] = []
    defined_in: dict[str, list[str]] = {}
    for path, place, match in lines(NOTE):
        note = " ".join(match[2].split())
        if match[1] is not None and match[3]:
            defined_in.setdefault(note, []).append(path.relative_to(ROOT).as_posix())
        else:
            cited.append((place, note, match[4]))
    wrong = [
        f"{place} cites Note [{note}], which {defined_in.get(note, 'nothing')} defines"
        for place, note, where in cited
        if note not in defined_in or (where and defined_in[note] != [where.strip("`")])
    ]
    assert wrong == []
    assert {note: found for note, found in defined_in.items() if len(found) > 1} == {}


def resolves(words: list[str]) -> bool:
    """Whether a dotted name that begins with a module leads to something."""
    found: object = importlib.import_module(words[0])
    for i, word in enumerate(words[1:], 2):
        if not hasattr(found, word):
            if importlib.util.find_spec(".".join(words[:i])) is None:
                return False
            importlib.import_module(".".join(words[:i]))
        found = getattr(found, word)
    return True


def test_symbols_in_backticks_exist() -> None:
    missing = []
    for _, place, match in lines(SPAN):
        symbol = SYMBOL.fullmatch(match[1])
        if symbol is None or symbol[1] in FOREIGN_NAMES:
            continue
        words = symbol[1].strip(".").split(".")
        importable = len(words) > 1 and words[0] in {"initstats", *sys.stdlib_module_names}
        if not (resolves(words) if importable else set(words) <= defined()):
            missing.append(f"{place} names `{match[1]}`")
    assert missing == []


def test_a_symbol_that_is_said_to_be_of_a_file_is_there() -> None:
    missing = [
        f"{place}: no {match[1]} in {match[2]}"
        for _, place, match in lines(SYMBOL_OF_FILE)
        if (ROOT / match[2]).exists() and match[1] not in code(ROOT / match[2])
    ]
    assert missing == []
