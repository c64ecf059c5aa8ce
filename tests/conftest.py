"""Runs the suite against one of three backends: pytest --backend=cpu, cuda or cuda-on-cpu.

cpu          every test, with the extension as it is installed
cuda         the tests that take a `device`, on a GPU
cuda-on-cpu  the tests that take a `device`, with the CUDA kernels compiled by g++ for the CPU

A test that asks for the fixture `device` says by that that it holds for every backend. The marker
`backends("cpu", ...)` narrows this: what a GPU fills in a blink takes the executor minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("cpu", "cuda", "cuda-on-cpu")
DISTRIBUTED_AS = {"yaml": "pyyaml", "sklearn": "scikit_learn"}  # modules named otherwise

sys.path.insert(0, str(ROOT / "csrc/build"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend", choices=BACKENDS, default="cpu", help="what runs the kernels (default: cpu)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "backends(*names): run the test on these backends only (cpu, cuda, cuda-on-cpu)"
    )
    config.addinivalue_line("markers", "long: start the test before those that take no time")
    # For the workers of xdist, which share the cores: a thread that spins while it waits takes the
    # core of the thread that it waits for. 14 times the processor time in the audits of the zoo.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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

    target = ROOT / "build/cuda_on_cpu/_C.so"
    try:
        compile_extension(target, variant="cuda_on_cpu")
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
    """Return the packages that are not installed and that a test file imports at its top.

    What its helpers under tests/ import counts, wherever Python looks for modules.
    """
    todo, seen, missing = [path], set(), set()
    while todo:
        file = todo.pop()
        seen.add(file)
        for name in imported_modules(file):
            helpers = helper_files(name)
            todo += [helper for helper in helpers if helper not in seen]
            if not helpers and importlib.util.find_spec(name) is None:
                missing.add(name)
    return sorted(missing)


def imported_modules(file: Path) -> set[str]:
    """Return the top-level names of the modules that a file imports at its top."""
    statements = ast.parse(file.read_text()).body
    names = [a.name for node in statements if isinstance(node, ast.Import) for a in node.names]
    names += [
        node.module or ""
        for node in statements
        if isinstance(node, ast.ImportFrom) and not node.level
    ]
    return {name.split(".")[0] for name in names}


def helper_files(name: str) -> list[Path]:
    """Return the files of a module under tests/ by its name, none where it is not one."""
    for folder in (ROOT / "tests", ROOT / "tests/support"):
        if (folder / f"{name}.py").exists():
            return [folder / f"{name}.py"]
        if (folder / name / "__init__.py").exists():
            return sorted((folder / name).glob("*.py"))
    return []


def packages_to_go_without(path: Path) -> list[str]:
    """Return the missing packages that leave a file out; none where it is collected.

    Only a package of pyproject.toml may be missing: any other name, of a helper that was moved for
    instance, fails the run when the file is imported.
    """
    declared = (ROOT / "pyproject.toml").read_text().split("[tool.")[0].replace("-", "_")
    missing = missing_packages(path)
    names = [DISTRIBUTED_AS.get(name, name) for name in missing]
    return missing if all(f'"{name}' in declared for name in names) else []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """On a GPU machine leave out what needs a package that is not there; elsewhere it is an error.

    Such a machine may be offline. The CPU run of the suite, with all packages, is not on it.
    """
    if config.getoption("--backend") != "cuda" or collection_path.suffix != ".py":
        return None
    return True if packages_to_go_without(collection_path) else None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which test files were left out; read again, because workers of xdist do not tell."""
    if config.getoption("--backend") != "cuda":
        return
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if packages := packages_to_go_without(file):
            terminalreporter.write_line(f"left out {file.name}: needs {', '.join(packages)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    backend = config.getoption("--backend")
    kept = [item for item in items if _runs_on(item, backend)]
    dropped = [item for item in items if not _runs_on(item, backend)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    # Long ones first, so that no worker is left with one at the end.
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("long") is None)


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
