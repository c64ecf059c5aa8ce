"""The benchmarks under pytest-benchmark: their options, the fixture `measure`, what results hold.

On a CPU with AVX-512 everything runs a second time, in a process of its own, on the kernels for
AVX2.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.harness import Case, Clock, Measure, Measurement
from benchmarks.harness import measure as measure_case
from benchmarks.results_file import machine
from initstats._ops import build_info

OVERRIDE = "INITSTATS_CPU_CAPABILITY"
CAPABILITY = str(build_info()["cpu_capability"])
MEASURED = pytest.StashKey[list[Measurement]]()
WITH_AVX2 = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `python -m benchmarks` offers."""
    group = parser.getgroup("initstats")
    group.addoption("--device", default="cpu", help="cpu (default) or cuda")
    group.addoption("--threads", type=int, help="of the CPU, default those of torch")
    group.addoption("--match", default="", help="only cases whose name contains this")
    group.addoption("--no-avx2", action="store_true", help="leave out the second run")


def pytest_configure(config: pytest.Config) -> None:
    """Set the number of threads before anything is measured."""
    if config.getoption("--threads"):
        torch.set_num_threads(config.getoption("--threads"))
    config.stash[MEASURED] = []
    config.stash[WITH_AVX2] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tell where the numbers come from."""
    where = machine(torch.device(session.config.getoption("--device")))
    print(f"# {where}, kernels for {CAPABILITY}", flush=True)
    load = os.getloadavg()[0]
    if load > 1:
        print(f"# the machine is busy (load {load:.2f}): do not publish these numbers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the cases that match, and give them the clock of the device."""
    clock = Clock(torch.device(config.getoption("--device")))
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=clock))
    match = config.getoption("--match")
    config.hook.pytest_deselected(items=[item for item in items if match not in case_name(item)])
    items[:] = [item for item in items if match in case_name(item)]


def case_name(item: pytest.Item) -> str:
    """Return the name of a case: the id of its parameters."""
    return item.name.partition("[")[2].removesuffix("]")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Leave out the dots: `measure` prints a line per case."""
    return ("passed", "", "") if report.when == "call" and report.passed else None


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the tensors of the cases are."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest, device: torch.device) -> Measure:
    """A function that measures a case and prints what came out."""
    config = request.config

    def measure_and_print(case: Case) -> None:
        benchmark.name = benchmark.param = name = case_name(request.node)
        # `--benchmark-compare` compares what has the same full name.
        benchmark.fullname, benchmark.params = f"{name} ({CAPABILITY})", None
        load = os.getloadavg()[0]
        measurement = measure_case(
            benchmark,
            case,
            device,
            CAPABILITY,
            name=name,
            clock=request.node.get_closest_marker("benchmark").kwargs["timer"],
            seconds=float(config.getoption("benchmark_max_time")),
            fewest_rounds=config.getoption("benchmark_min_rounds"),
        )
        benchmark.extra_info |= dataclasses.asdict(measurement) | {
            "floor_share": measurement.floor_share,
            "ratio": measurement.ratio,
            "load_before": round(load, 2),  # other work makes all numbers worse
        }
        config.stash[MEASURED].append(measurement)
        print(measurement.line(), flush=True)

    return measure_and_print


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Run again with the AVX2 kernels, in a new process, before the results are written."""
    config = session.config
    if CAPABILITY == "avx512" and config.stash[MEASURED] and wants_avx2(config):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            options = [
                f"--{name.replace('_', '-')}={config.getoption(name)}"
                for name in ("match", "threads", "benchmark_max_time", "benchmark_min_rounds")
                if config.getoption(name) is not None
            ]
            command = [sys.executable, "-m", "pytest", *config.args, *options]
            command += ["-k", config.getoption("keyword"), f"--benchmark-json={path}"]
            done = subprocess.run(command, check=False, env=os.environ | {OVERRIDE: "avx2"})
            session.exitstatus = done.returncode or session.exitstatus
            if path.exists():
                config.stash[WITH_AVX2] = json.loads(path.read_text())["benchmarks"]
    yield


def wants_avx2(config: pytest.Config) -> bool:
    """Tell whether the second run was asked for."""
    return config.getoption("--device") == "cpu" and not config.getoption("--no-avx2")


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Put the second run beside the first."""
    output_json["benchmarks"] += config.stash[WITH_AVX2]


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Describe the machine without its name."""
    return machine(torch.device(config.getoption("--device")))


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    """Keep the commit; the names of branch and folder say where it was made."""
    for key in commit_info.keys() - {"id", "time", "dirty"}:
        del commit_info[key]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what is below its bar."""
    for m in config.stash[MEASURED]:
        if m.missed:
            line = f"# below the bar: {m.name} ({m.capability}): {'; '.join(m.missed)}"
            terminalreporter.write_line(line)
