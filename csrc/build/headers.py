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
    """Return torch's include folder: of an importable torch, else of the site-packages."""
    folders = []
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        folders += [Path(location) for location in spec.submodule_search_locations]
    # In an isolated build torch cannot be imported, but these still name the target environment.
    folders += [Path(sysconfig.get_path(name)) / "torch" for name in ("purelib", "platlib")]
    for folder in folders:
        has_headers = (folder / "include/torch/csrc/stable").is_dir()
        if has_headers and _version(folder) >= OLDEST_TORCH:
            return folder / "include"
    return None


def _version(folder: Path) -> tuple[int, int]:
    file = folder / "version.py"
    text = file.read_text() if file.exists() else ""
    found = re.search(r"__version__ = '(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def wanted_cuda() -> Path | None:
    """Return the toolkit that INITSTATS_CUDA asks for, None where the module goes without.

    Raises:
        RuntimeError: If the value is unknown, or demands a toolkit that is not there.
    """
    wanted = os.environ.get("INITSTATS_CUDA", "auto")
    if wanted not in {"auto", "0", "1"}:
        raise RuntimeError(f"initstats: expected INITSTATS_CUDA to be auto, 0 or 1, got {wanted}")
    home = None if wanted == "0" else cuda_home()
    if wanted == "1" and home is None:
        raise RuntimeError(
            "initstats: expected nvcc, because INITSTATS_CUDA=1, found none; "
            "set CUDA_HOME or the PATH"
        )
    return home


def cuda_home() -> Path | None:
    """Return the toolkit of $CUDA_HOME, else of the nvcc on the PATH, else /usr/local/cuda."""
    candidates = [os.environ.get("CUDA_HOME"), _home_of(shutil.which("nvcc")), "/usr/local/cuda"]
    for candidate in candidates:
        if candidate and (Path(candidate) / "bin/nvcc").exists():
            return Path(candidate)
    return None


def _home_of(nvcc: str | None) -> str | None:
    if nvcc is None:
        return None
    # nvcc on the PATH may be a wrapper script: ask it where its toolkit is.
    text = _output([nvcc, "--dryrun", "-x", "cu", os.devnull])
    found = re.search(r"#\$ TOP=(\S+)", text)
    return str(Path(found[1]).resolve()) if found else str(Path(nvcc).resolve().parent.parent)


def supported_archs(home: Path) -> set[str]:
    """Return the compute capabilities that this toolkit compiles for, such as 90."""
    return set(re.findall(r"compute_(\w+)", _output([f"{home}/bin/nvcc", "--list-gpu-arch"])))


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
