"""Finds what the build compiles against: torch's headers and nvcc, without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

OLDEST_TORCH = (2, 10)


def torch_include() -> Path | None:
    """Returns torch's include folder: of an importable torch, else of the interpreter's site-packages."""
    folders = []
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        folders += [Path(location) for location in spec.submodule_search_locations]
    folders += [Path(sysconfig.get_path(name)) / "torch" for name in ("purelib", "platlib")]
    for folder in folders:
        if _version(folder) >= OLDEST_TORCH and (folder / "include/torch/csrc/stable").is_dir():
            return folder / "include"
    return None


def _version(folder: Path) -> tuple[int, int]:
    version = folder / "version.py"
    found = re.search(r"__version__ = '(\d+)\.(\d+)", version.read_text()) if version.exists() else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def cuda_home() -> Path | None:
    """Returns the CUDA toolkit to use: $CUDA_HOME, else the one whose nvcc is on the PATH, else /usr/local/cuda."""
    candidates = [os.environ.get("CUDA_HOME"), _home_of(shutil.which("nvcc")), "/usr/local/cuda"]
    for candidate in candidates:
        if candidate and (Path(candidate) / "bin/nvcc").exists():
            return Path(candidate)
    return None


def _home_of(nvcc: str | None) -> str | None:
    if nvcc is None:
        return None
    # nvcc on the PATH may be a wrapper script: ask it where its toolkit is.
    text = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    found = re.search(r"#\$ TOP=(\S+)", text.stderr)
    return str(Path(found[1]).resolve()) if found else str(Path(nvcc).resolve().parent.parent)
