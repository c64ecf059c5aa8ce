"""The benchmark harness: what it computes from times, which bars it applies, what it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import results_file
from benchmarks.harness import Case, Measurement, bars, floor_call, measure, median_error, spread
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
        "step",
        lambda: turns.append("ours"),
        count=1,
        bytes_moved=0,
        rival=lambda: turns.append("rival"),
        before=lambda: turns.append("|"),
        paired=True,
        bar_times=1.03,
        own_seconds=lambda: float(next(spent)),
    )
    measurement = measure(case, CPU, "avx2", seconds=0.0)
    # After the warm-up, whoever was second is the first of the next pair.
    order = [part[0] for part in "".join(turns).split("|")[1:]]
    assert order == ["o", "r", "r", "o", "o", "r", "r", "o", "o", "r"]
    assert measurement.times is not None
    assert measurement.times_error is not None
    assert measurement.own_share is not None
    assert measurement.bars == {"times": 1.03}


def test_the_error_of_a_median_is_that_of_normal_samples() -> None:
    # Quartiles of 1 ... 7 are 2 and 6: a standard deviation of 4 / 1.349.
    expected = 1.2533 * 4 / 1.349 / 7**0.5
    assert median_error([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == pytest.approx(expected)


def test_bars_hold_on_avx512_and_half_of_a_ratio_on_avx2() -> None:
    case = Case("x", do_nothing, 1, 1, bar_ratio=9.0, bar_floor=0.9)
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
        "zero",
        lambda: calls.append("ours"),
        count=10_000,
        bytes_moved=40_000,
        floor=kind,
        rival=tensor.zero_,
    )
    measurement = measure(case, CPU, "avx512", seconds=0.0)
    assert measurement.rounds == 5
    assert len(calls) > 5
    assert measurement.floor_bytes_per_second is not None
    assert measurement.rival_median_ns is not None


def test_a_floor_moves_the_bytes_of_the_case() -> None:
    assert floor_call("fill", 4096, CPU)().nbytes == 4096  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="expected fill, read or copy, got kind=write"):
        floor_call("write", 4096, CPU)


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new/results.json"
    where = results_file.machine(CPU)
    results_file.write(path, where, "python -m benchmarks", [MEASURED])
    assert results_file.read(path) == (where, [MEASURED])
    path.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(ValueError, match=r"expected schema initstats.bench/1, got other"):
        results_file.read(path)


def test_the_name_of_a_results_file_tells_machine_and_threads() -> None:
    where = {"cpu": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz", "threads": 2}
    name = results_file.default_path(where).name
    assert name.startswith("intel-xeon-platinum-8488c-2-threads-20")


def test_the_table_has_a_row_per_case_with_both_capabilities(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    avx2 = dataclasses.replace(MEASURED, capability="avx2", median_ns=5000.0)
    where = results_file.machine(CPU) | {"cpu": "a processor", "threads": 2, "torch": "2.13.0"}
    results_file.write(path, where, "python -m benchmarks", [MEASURED, avx2])
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
    results_file.write(path, results_file.machine(CPU), "python -m benchmarks", [MEASURED])
    with pytest.raises(ValueError, match=r"expected rows \['normal_'\], found none"):
        table(path, ["fill", "normal_"])
