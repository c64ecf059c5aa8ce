"""The benchmarks: what they compute from times, which bars they apply, what results hold."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import __main__, harness, results_file, sharded_fills
from benchmarks.harness import Case, Clock, Measurement, bars, floor_call, median_error, spread
from benchmarks.readme_table import BLOCK, FULL, README_ROWS, ROOT, table

CPU = torch.device("cpu")
# 1000 elements of 4 bytes in 2000 ns: 2 ns each, 2 GB/s, half of the floor, a tenth of torch.
MEASURED = Measurement(
    name="fill",
    unit="element",
    count=1000,
    bytes_moved=4000,
    capability="avx512",
    rounds=5,
    median_ns=2000.0,
    spread=0.01,
    floor="fill",
    floor_bytes_per_second=4e9,
    rival_name="torch",
    rival_median_ns=20_000.0,
    rival_spread=0.02,
    times=1.02,
    times_error=0.005,
)


def do_nothing() -> None:
    pass


class Benchmark:
    """The part of pytest-benchmark's fixture that `measure` uses."""

    def __init__(self) -> None:
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[]))

    def pedantic(
        self,
        target: Callable[[], None],
        setup: Callable[[], None],
        teardown: Callable[[], None],
        rounds: int,
    ) -> None:
        for _ in range(rounds):
            setup()
            begin = time.perf_counter()
            target()
            self.stats.stats.data.append(time.perf_counter() - begin)
            teardown()


def measure(case: Case, capability: str) -> Measurement:
    clock = Clock(CPU)
    return harness.measure(
        Benchmark(), case, CPU, capability, name="a case", clock=clock, seconds=0.0
    )


def write(path: Path, where: dict[str, Any], measurements: list[Measurement]) -> None:
    results = [{"extra_info": dataclasses.asdict(m) | {"more": 1}} for m in measurements]
    path.write_text(json.dumps({"machine_info": where, "benchmarks": results}))


def test_rates_follow_from_the_median() -> None:
    assert MEASURED.ns_per_unit == 2.0
    assert MEASURED.bytes_per_second == pytest.approx(2e9)
    assert MEASURED.floor_share == pytest.approx(0.5)
    assert MEASURED.ratio == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("bar", "missed"),
    [
        ({"ratio": 10.0, "floor": 0.5, "ns": 2.0}, []),
        ({"ratio": 11.0}, ["ratio 10, bar 11"]),
        ({"floor": 0.6}, ["floor 0.5, bar 0.6"]),
        ({"ns": 1.5}, ["ns 2, bar 1.5"]),
        ({"times": 1.02}, []),
        ({"times": 1.01}, ["times 1.02, bar 1.01"]),
    ],
)
def test_a_bar_is_missed_only_on_its_wrong_side(bar: dict[str, float], missed: list[str]) -> None:
    measurement = dataclasses.replace(MEASURED, bars=bar)
    assert measurement.missed == missed
    assert ("MISSED" in measurement.line()) == bool(missed)


def test_what_costs_little_is_measured_in_pairs_with_its_own_time() -> None:
    turns: list[str] = []
    spent = iter(range(1000))
    case = Case(
        lambda: turns.append("ours"),
        count=1,
        bytes_moved=0,
        rival=lambda: turns.append("rival"),
        before=lambda: turns.append("|"),
        paired=True,
        bar_times=1.03,
        own_seconds=lambda: float(next(spent)),
    )
    measurement = measure(case, "avx2")
    # After the warm-up, whoever was second is the first of the next pair.
    order = [part[0] for part in "".join(turns).split("|")[1:]]
    assert order == ["r", "o", "o", "r", "r", "o", "o", "r", "r", "o"]
    assert measurement.times is not None
    assert measurement.times_error is not None
    assert measurement.own_share is not None
    assert measurement.bars == {"times": 1.03}


def test_the_error_of_a_median_is_that_of_normal_samples() -> None:
    # Quartiles of 1 ... 7 are 2 and 6: a standard deviation of 4 / 1.349.
    expected = 1.2533 * 4 / 1.349 / 7**0.5
    assert median_error([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(expected)


def test_bars_hold_on_avx512_and_half_of_a_ratio_on_avx2() -> None:
    case = Case(do_nothing, 1, 1, bar_ratio=9.0, bar_floor=0.9)
    assert bars(case, CPU, "avx512") == {"ratio": 9.0, "floor": 0.9}
    assert bars(case, CPU, "avx2") == {"ratio": 4.5}
    assert bars(case, CPU, "baseline") == {}
    assert bars(case, torch.device("cuda"), "avx512") == {}


def test_the_spread_is_half_the_distance_of_the_quartiles_over_the_median() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx((6 - 2) / 2 / 4)


@pytest.mark.parametrize("kind", ["fill", "read", "copy"])
def test_a_case_is_measured_beside_its_rival_and_its_floor(kind: str) -> None:
    tensor = torch.empty(10_000)
    calls = []
    case = Case(
        lambda: calls.append("ours"),
        count=10_000,
        bytes_moved=40_000,
        floor=kind,
        rival=tensor.zero_,
    )
    measurement = measure(case, "avx512")
    assert measurement.rounds == 5
    assert len(calls) > 5
    assert measurement.floor_bytes_per_second is not None
    assert measurement.rival_median_ns is not None


def test_a_floor_moves_the_bytes_of_the_case() -> None:
    assert floor_call("fill", 4096, CPU)().nbytes == 4096  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="expected fill, read or copy, got kind=write"):
        floor_call("write", 4096, CPU)


def test_a_sample_is_the_time_of_one_call_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def half_a_millisecond() -> None:
        now[0] += 0.0005

    clock = Clock(CPU)
    assert clock.sample(half_a_millisecond, 3) == pytest.approx(0.0005)
    assert clock.calls_per_sample(half_a_millisecond) == (4, pytest.approx(0.002))


def test_the_cache_of_a_gpu_is_flushed_by_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "sum", read.append)
    monkeypatch.setattr(harness, "GpuMoment", lambda: 0.0)
    clock = Clock(CPU)
    clock._flush = torch.ones(4)
    clock.sample(do_nothing, 1)
    assert read == [clock._flush]
    assert clock._flush._version == 0  # nothing has written to it


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    where = results_file.machine(CPU)
    write(path, where, [MEASURED])
    assert results_file.read(path) == (where, [MEASURED])
    path.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(ValueError, match=r"expected results of the benchmarks, found no"):
        results_file.read(path)


@pytest.mark.parametrize("path", sorted(results_file.RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_every_committed_file_can_be_read(path: Path) -> None:
    where, measurements = results_file.read(path)
    assert where["cpu"]
    assert measurements


def test_the_name_of_a_results_file_tells_machine_and_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz"
    monkeypatch.setattr(results_file, "cpu_model", lambda: cpu)
    name = results_file.default_path(CPU, 2).name
    assert name.startswith("intel-xeon-platinum-8488c-2-threads-20")


def test_the_table_has_a_row_per_case_with_both_capabilities(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    avx2 = dataclasses.replace(MEASURED, capability="avx2", median_ns=5000.0)
    where = results_file.machine(CPU) | {"cpu": "a processor", "threads": 2, "torch": "2.13.0"}
    write(path, where, [MEASURED, avx2])
    lines = table(path).splitlines()
    assert lines[0] == "a processor, 2 threads, avx512, torch 2.13.0; medians."
    assert lines[-1] == "| fill | 2 ns/element | 20 ns (torch) | 10.0× | 4.0× | 0.50 (fill) |"
    assert len(lines) == 6


def test_the_whole_table_is_what_the_script_makes_of_the_results_file() -> None:
    ((file, text),) = BLOCK.findall(FULL.read_text())
    assert text == table(ROOT / file)
    rows = [line for line in table(ROOT / file, README_ROWS).splitlines() if "element" in line]
    assert len(rows) == 5
    assert [row for row in rows if row not in text] == []


def test_a_row_that_was_not_measured_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(path, results_file.machine(CPU), [MEASURED])
    with pytest.raises(ValueError, match=r"expected rows \['normal_'\], found none"):
        table(path, ["fill", "normal_"])


# ---- under pytest

BENCHMARKS = """
import torch
from benchmarks.harness import Case, cases

@cases("n", {"one": 1, "one more": 2, "other": 3})
def bench_fill(measure, device, n):
    x = torch.empty(n, device=device)
    measure(Case(ours=x.zero_, rival=x.fill_(1).zero_, count=n, bytes_moved=4 * n, floor="fill"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a benchmark and the hooks of the project, measured once."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "bench_tiny.py").write_text(BENCHMARKS)
    (folder / "conftest.py").write_text("from benchmarks.conftest import *\n")
    shutil.copy(ROOT / "benchmarks/pytest.ini", folder)
    run_pytest(folder, "--benchmark-json=first.json", "--match=one")
    return folder


def run_pytest(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "--benchmark-max-time=0.01", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)  # pytest-benchmark measures nothing in a worker
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_results_hold_rival_and_floor_of_both_capabilities(folder: Path) -> None:
    from initstats._ops import build_info

    best = str(build_info()["cpu_capability"])
    _, measurements = results_file.read(folder / "first.json")
    runs = ["avx512", "avx2"] if best == "avx512" else [best]
    found = [(m.name, m.capability) for m in measurements]
    assert found == [(name, run) for run in runs for name in ("one", "one more")]
    for m, result in zip(
        measurements, json.loads((folder / "first.json").read_text())["benchmarks"], strict=True
    ):
        info = result["extra_info"]
        assert info["bytes_moved"] == 4 * m.count
        assert info["rival_name"] == "torch"
        assert info["ratio"] == pytest.approx(m.ratio)
        assert info["floor_share"] == pytest.approx(m.floor_share)
        assert result["stats"]["median"] * 1e9 == pytest.approx(m.median_ns)


def test_results_do_not_tell_whose_machine_it_was(folder: Path) -> None:
    text = (folder / "first.json").read_text()
    assert platform.node() not in text
    assert str(folder) not in text
    assert str(ROOT) not in text
    assert json.loads(text)["commit_info"].keys() <= {"id", "time", "dirty"}


def test_two_runs_can_be_compared(folder: Path) -> None:
    text = run_pytest(folder, "--no-avx2", "--match=one", "--benchmark-compare=first.json")
    assert text.count("(NOW)") == 2
    assert "machine_info is different" not in text


def test_the_command_line_is_that_of_pytest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(pytest, "main", lambda arguments: calls.append(arguments) or 0)
    output = tmp_path / "new/results.json"
    line = f"fills stats --match x --threads 3 --no-avx2 --seconds 0.2 --output {output} -x"
    monkeypatch.setattr(sys, "argv", ["benchmarks", *line.split()])
    assert __main__.main() == 0
    files = [str(ROOT / f"benchmarks/bench_{name}.py") for name in ("fills", "stats")]
    options = ["--device=cpu", "--threads=3", "--match=x", "--benchmark-max-time=0.2"]
    assert calls == [[*files, *options, f"--benchmark-json={output}", "--no-avx2", "-x"]]
    assert output.parent.is_dir()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "fill"])
    with pytest.raises(SystemExit):
        __main__.main()


def test_every_benchmark_is_collected_by_name() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "--match=4096x4096"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = {m.name for m in results_file.read(ROOT / BLOCK.findall(FULL.read_text())[0][0])[1]}
    wanted = {name for name in measured if "4096x4096" in name}
    assert {name for name in wanted if f"[{name}]" not in done.stdout} == set()


def test_the_guide_of_sharded_fills_shows_the_results() -> None:
    results = json.loads((results_file.RESULTS / "sharded/cpu.json").read_text())
    guide = (ROOT / "docs/guides/sharded_fills.md").read_text()
    assert sharded_fills.table(results) in guide
    assert f"median of\n{results['rounds']}." in guide
    assert all(row["equal_bits"] == {"initstats": True, "torch": False} for row in results["rows"])
