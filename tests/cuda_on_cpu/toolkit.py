"""Where the CUDA toolkit and nvdisasm are, and what a test does when they are missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


def _toolkit_roots() -> list[Path]:
    """Return the folders that may hold a CUDA toolkit, the most explicit first."""
    roots = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    if found := shutil.which("nvcc"):
        roots.append(Path(found).resolve().parents[1])
    return [*roots, Path("/usr/local/cuda")]


def find_nvcc() -> Path | None:
    """Return the path of nvcc, or None."""
    paths = (root / "bin" / "nvcc" for root in _toolkit_roots())
    return next((path for path in paths if path.exists()), None)


def require_nvcc() -> Path:
    """Return nvcc; without it skip the test, or fail it where INITSTATS_REQUIRE_NVCC=1."""
    nvcc = find_nvcc()
    if nvcc is None:
        _give_up("nvcc is not installed (looked in CUDA_HOME, PATH and /usr/local/cuda)")
    return nvcc


def cuda_include() -> Path:
    """Return the folder of the toolkit's headers, which g++ needs too."""
    for root in _toolkit_roots():
        if (root / "include" / "cuda_runtime_api.h").exists():
            return root / "include"
    return _give_up("the CUDA toolkit's headers are not installed")


def require_nvdisasm() -> Path:
    """Return nvdisasm: from the package nvidia-cuda-nvdisasm, or from the toolkit."""
    return _require_tool("nvdisasm")


def require_cuobjdump() -> Path:
    """Return cuobjdump: from the package nvidia-cuda-cuobjdump, or from the toolkit."""
    return _require_tool("cuobjdump")


def _require_tool(name: str) -> Path:
    candidates = [root / "bin" / name for root in _toolkit_roots()]
    if (package := importlib.util.find_spec("nvidia")) is not None:
        for folder in package.submodule_search_locations or []:
            candidates = [*sorted(Path(folder).glob(f"**/bin/{name}")), *candidates]
    for path in candidates:
        if path.exists():
            return path
    return _give_up(f"{name} is not installed: pip install nvidia-cuda-{name}")


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("INITSTATS_REQUIRE_NVCC") == "1":
        pytest.fail(f"INITSTATS_REQUIRE_NVCC=1, but {reason}")
    pytest.skip(reason)
