"""Findings of healthy models, recorded once for all tests that read them."""

from __future__ import annotations

import hashlib
import pickle
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from cuda_on_cpu.cache import cached
from cuda_on_cpu.toolkit import REPOSITORY
from initstats.auditing import Finding
from zoo.healthy import HEALTHY
from zoo.specimens import Size


def healthy_findings(model: str) -> tuple[Finding, ...]:
    """Return what an audit of a healthy model finds, of an earlier call where nothing changed."""

    def make(folder: Path) -> None:
        findings = tuple(HEALTHY[model](Size()).audited().findings)
        (folder / "findings.pickle").write_bytes(pickle.dumps(findings))

    folder = cached("healthy-zoo", [model, _everything_that_decides()], [], make)
    found: tuple[Finding, ...] = pickle.loads((folder / "findings.pickle").read_bytes())
    return found


@cache
def _everything_that_decides() -> str:
    """Return a hash of the package with its extension, of the zoo, and of the libraries."""
    versions = [version(package) for package in ("torch", "numpy", "transformers")]
    digest = hashlib.blake2b("\0".join([platform.processor(), *versions]).encode())
    for folder in ("initstats", "tests/zoo"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in {".py", ".so"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()
