"""Runs the suite against one of three backends: pytest --backend=cpu, cuda or cuda-on-cpu.

cpu          every test, with the extension as it is installed
cuda         the tests that take a `device`, on a GPU
cuda-on-cpu  the tests that take a `device`, with the CUDA kernels compiled by g++ for the CPU

A test that asks for the fixture `device` says by that that it holds for every backend. The marker
`backends("cpu", ...)` narrows this: what a GPU fills in a blink takes the executor minutes.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("cpu", "cuda", "cuda-on-cpu")
LEFT_OUT: list[str] = []

sys.path.insert(0, str(ROOT / "csrc/build"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend", choices=BACKENDS, default="cpu", help="what runs the kernels (default: cpu)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "backends(*names): run the test on these backends only (cpu, cuda, cuda-on-cpu)"
    )
    backend = config.getoption("--backend")
    if backend == "cuda-on-cpu":
        load_executed_kernels()
    if backend == "cuda":
        require_gpu()


def load_executed_kernels() -> None:
    """Build the variant that executes the CUDA kernels, and make it `initstats._C`."""
    if "initstats" in sys.modules:
        raise pytest.UsageError("--backend=cuda-on-cpu: initstats is imported already")
    from compile import compile_extension

    folder = ROOT / "build/cuda_on_cpu"
    target = folder / "_C.so"
    try:
        compile_extension(target, folder, variant="cuda_on_cpu")
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None
    spec = importlib.util.spec_from_file_location("initstats._C", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["initstats._C"] = module
    spec.loader.exec_module(module)


def require_gpu() -> None:
    """Stop where a run for the GPU would test something else."""
    from initstats._ops import build_info

    if not torch.cuda.is_available():
        raise pytest.UsageError("--backend=cuda: torch finds no GPU")
    if not build_info()["cuda_archs"]:
        raise pytest.UsageError("--backend=cuda: the extension was built without CUDA kernels")


def missing_packages(path: Path) -> list[str]:
    """Return the packages that a test file imports at its top and that are not installed."""
    lines = re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
    return [name for name in sorted(set(lines)) if importlib.util.find_spec(name) is None]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """On a GPU machine leave out what needs a package that is not there; elsewhere it is an error.

    Such a machine may be offline. The CPU run of the suite, with all packages, is not on it.
    """
    if config.getoption("--backend") != "cuda" or collection_path.suffix != ".py":
        return None
    missing = missing_packages(collection_path)
    if missing:
        LEFT_OUT.append(f"left out {collection_path.name}: needs {', '.join(missing)}")
    return True if missing else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in LEFT_OUT:
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    backend = config.getoption("--backend")
    kept = [item for item in items if _runs_on(item, backend)]
    dropped = [item for item in items if not _runs_on(item, backend)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _runs_on(item: pytest.Item, backend: str) -> bool:
    marker = item.get_closest_marker("backends")
    if marker is not None:
        unknown = set(marker.args) - set(BACKENDS)
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: unknown backends {sorted(unknown)}")
        return backend in marker.args
    return backend == "cpu" or "device" in getattr(item, "fixturenames", ())


def pytest_report_header(config: pytest.Config) -> str:
    return f"backend: {config.getoption('--backend')}"


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the backend under test."""
    return str(request.config.getoption("--backend"))


@pytest.fixture(scope="session")
def device(backend: str) -> torch.device:
    """Where tests put their tensors: on the GPU for the backend cuda, else on the CPU."""
    return torch.device("cuda" if backend == "cuda" else "cpu")


@pytest.fixture
def set_thread_count() -> Iterator[Callable[[int], None]]:
    """A function that sets torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
