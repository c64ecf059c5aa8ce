"""Times a case, its rival and the memory's floor in turns, so that all three see the same machine.

One sample is the time of one call, or of as many calls as fill a few milliseconds. Ours is what
pytest-benchmark times; its setup takes the samples of the rival and the floor: A B F A B F ... What
counts is the median; the spread is half of the distance between the quartiles, relative to the
median.

What is to cost next to nothing on top of its rival (a monitored step beside a plain one) is taken
in pairs, A B, B A, ...: the median of their quotients, with its standard error, and beside it the
time that our own code took, which wanders far less than the wall clock of a whole step.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

Call = Callable[[], object]

SHORTEST_SAMPLE = 0.002  # seconds
MOST_ROUNDS, MOST_PAIRS = 25, 400


@dataclass(frozen=True)
class Case:
    """What to measure, and what to hold it against."""

    ours: Call
    count: int  # of units done in one call
    bytes_moved: int  # read and written by one call
    floor: str | None = None  # "fill", "read" or "copy": what the memory can do at best
    rival: Call | None = None
    rival_name: str = "torch"
    unit: str = "element"
    before: Call | None = None  # done before every sample of ours and the rival, not timed
    # The bars of the project: at least so many times as fast as the rival, at least this share of
    # the floor's bandwidth, at most so many nanoseconds per unit.
    bar_ratio: float | None = None
    bar_floor: float | None = None
    bar_ns: float | None = None
    # For what is to cost little on top of its rival: measured in pairs, at most so many times the
    # rival's time, and the seconds that our own code has taken so far, on all threads.
    paired: bool = False
    bar_times: float | None = None
    own_seconds: Callable[[], float] | None = None


@dataclass(frozen=True)
class Measurement:
    """The outcome of one case."""

    name: str
    unit: str
    count: int
    bytes_moved: int
    capability: str
    rounds: int
    median_ns: float  # of one call
    spread: float
    floor: str | None = None
    floor_bytes_per_second: float | None = None
    rival_name: str | None = None
    rival_median_ns: float | None = None
    rival_spread: float | None = None
    times: float | None = None  # ours / rival, median over pairs
    times_error: float | None = None  # its standard error
    own_share: float | None = None  # of the rival's time, spent in our own code
    bars: dict[str, float] = field(default_factory=dict)

    @property
    def ns_per_unit(self) -> float:
        """Nanoseconds per element, or per tensor where that is the unit."""
        return self.median_ns / self.count

    @property
    def bytes_per_second(self) -> float:
        """Bytes read and written per second."""
        return self.bytes_moved / self.median_ns * 1e9

    @property
    def floor_share(self) -> float | None:
        """The bandwidth reached, as a share of what the floor reached beside it."""
        floor = self.floor_bytes_per_second
        return None if floor is None else self.bytes_per_second / floor

    @property
    def ratio(self) -> float | None:
        """How many times as long the rival takes."""
        return None if self.rival_median_ns is None else self.rival_median_ns / self.median_ns

    @property
    def missed(self) -> list[str]:
        """The bars that the measurement is below, in words; empty when all are met."""
        missed = []
        for kind, bar in self.bars.items():
            reached = {
                "ratio": self.ratio,
                "floor": self.floor_share,
                "ns": self.ns_per_unit,
                "times": self.times,
            }[kind]
            assert reached is not None, f"{self.name}: a bar for {kind}, but nothing to compare to"
            if reached > bar if kind in {"ns", "times"} else reached < bar:
                missed.append(f"{kind} {reached:.4g}, bar {bar:.4g}")
        return missed

    def line(self) -> str:
        """Return the outcome in one line."""
        parts = [
            f"{self.name:<44} {self.ns_per_unit:9.3f} ns/{self.unit} ±{self.spread:4.0%}",
            f"{self.bytes_per_second / 1e9:7.1f} GB/s",
        ]
        if self.floor_share is not None:
            parts.append(f"{self.floor_share:5.2f} of {self.floor}")
        if self.times is not None:
            parts.append(f"{self.times:.3f} ±{self.times_error:.3f} times {self.rival_name}")
            if self.own_share is not None:
                parts.append(f"own code {self.own_share:.2%} of it")
        elif self.ratio is not None:
            parts.append(f"{self.ratio:6.1f}x {self.rival_name} (±{self.rival_spread or 0:.0%})")
        parts += [f"MISSED: {text}" for text in self.missed]
        return "  ".join(parts)


Measure = Callable[[Case], None]  # the fixture of conftest.py


def cases(arguments: str, by_name: Mapping[str, Any]) -> pytest.MarkDecorator:
    """Give a benchmark one case per entry, named as its key."""
    return pytest.mark.parametrize(arguments, list(by_name.values()), ids=list(by_name))


class Clock:
    """The timer that pytest-benchmark reads: a difference of two readings is seconds per call.

    Attributes:
        calls: How many calls one sample makes.
    """

    def __init__(self, device: torch.device) -> None:
        self.calls = 1
        self._flush: torch.Tensor | None = None
        if device.type == "cuda":
            # Twice the cache: a result left there would read as speed. It is read, because lines
            # that were written would have to be evicted within the sample.
            cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
            self._flush = torch.ones(cache_bytes // 2, device=device)

    def __call__(self) -> Any:
        """Read the clock."""
        return time.perf_counter() / self.calls if self._flush is None else GpuMoment()

    def __repr__(self) -> str:
        return "time.perf_counter" if self._flush is None else "torch.cuda.Event"

    def prepare(self, calls: int) -> None:
        """Make ready for a sample of so many calls."""
        self.calls = calls
        if self._flush is not None:
            torch.sum(self._flush)

    def sample(self, call: Call, calls: int) -> float:
        """Return the seconds that one call takes, over so many calls."""
        self.prepare(calls)
        begin = self()
        for _ in range(calls):
            call()
        return float(self() - begin)

    def calls_per_sample(self, call: Call) -> tuple[int, float]:
        """Warm up; return how many calls make a long enough sample, and the seconds that it takes.

        On a GPU it is one call, whose launch the flush of the cache hides.
        """
        call()
        seconds = max(self.sample(call, 1), 1e-9)
        calls = max(1, int(SHORTEST_SAMPLE / seconds)) if self._flush is None else 1
        return calls, calls * seconds


class GpuMoment:
    """A point in the current CUDA stream's time; the difference of two is in seconds."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record()

    def __sub__(self, begin: GpuMoment) -> float:
        self._event.synchronize()
        return float(begin._event.elapsed_time(self._event)) / 1e3


def floor_call(kind: str, bytes_moved: int, device: torch.device) -> Call:
    """Return what moves so many bytes as fast as torch can: zero_, torch.sum or copy_."""
    n = max(1, bytes_moved // 4)
    if kind == "fill":
        return torch.ones(n, device=device).zero_
    if kind == "read":
        source = torch.ones(n, device=device)
        return lambda: torch.sum(source)
    if kind == "copy":
        halves = torch.ones(2, max(1, n // 2), device=device)
        return lambda: halves[0].copy_(halves[1])
    raise ValueError(f"floor_call: expected fill, read or copy, got kind={kind}")


class Turns:
    """A case, its rival and its floor: what pytest-benchmark runs before, as and after ours."""

    def __init__(self, case: Case, clock: Clock, device: torch.device) -> None:
        self._case = case
        self._clock = clock
        self._others: dict[str, Call] = {}
        if case.rival is not None:
            self._others["rival"] = case.rival
        if case.floor is not None:
            self._others["floor"] = floor_call(case.floor, case.bytes_moved, device)
        self._lengths = {who: clock.calls_per_sample(call) for who, call in self._others.items()}
        self.calls, self._length = clock.calls_per_sample(case.ours)
        self._before = case.before or (lambda: None)
        self._own_seconds = case.own_seconds or (lambda: 0.0)
        self.samples: dict[str, list[float]] = {who: [] for who in self._others}  # ns per call
        self.own: list[float] = []  # seconds per sample

    def rounds(self, seconds: float, fewest: int) -> int:
        """Return how many rounds fit into the time."""
        length = self._length + sum(length for _, length in self._lengths.values())
        return max(
            fewest, min(int(seconds / length), MOST_PAIRS if self._case.paired else MOST_ROUNDS)
        )

    def setup(self) -> None:
        """Take the samples of the others, in every other pair after ours."""
        if not (self._case.paired and len(self.own) % 2):
            self._sample_others()
        self._before()
        self.own.append(-self._own_seconds())
        self._clock.prepare(self.calls)

    def ours(self) -> None:
        """Make the calls of one sample."""
        for _ in range(self.calls):
            self._case.ours()

    def teardown(self) -> None:
        """Read the time of our own code, and take the samples that come after ours."""
        self.own[-1] += self._own_seconds()
        if self._case.paired and len(self.own) % 2 == 0:
            self._sample_others()

    def _sample_others(self) -> None:
        for who, call in self._others.items():
            self._before()
            self.samples[who].append(self._clock.sample(call, self._lengths[who][0]) * 1e9)


def measure(
    benchmark: Any,
    case: Case,
    device: torch.device,
    capability: str,
    *,
    name: str,
    clock: Clock,
    seconds: float,
    fewest_rounds: int = 5,
) -> Measurement:
    """Measure a case, its rival and its floor in turns.

    Args:
        benchmark: The fixture of pytest-benchmark, with `clock` as its timer.
        case: What to measure.
        device: Where its tensors are.
        capability: The CPU capability in use; below the best one half of a ratio is asked for.
        name: Of the case.
        clock: What times all samples.
        seconds: Time for the case, at least `fewest_rounds` whatever they take.
        fewest_rounds: At least 2, for the quartiles.
    """
    turns = Turns(case, clock, device)
    rounds = turns.rounds(seconds, fewest_rounds)
    gc.collect()
    gc.disable()
    try:
        benchmark.pedantic(turns.ours, setup=turns.setup, teardown=turns.teardown, rounds=rounds)
    finally:
        gc.enable()
    ours = [sample * 1e9 for sample in benchmark.stats.stats.data]
    floor, rival = turns.samples.get("floor"), turns.samples.get("rival")
    rival_median = statistics.median(rival) if rival else None
    times = times_error = own_share = None
    if case.paired and rival:
        quotients = [a / b for a, b in zip(ours, rival, strict=True)]
        times, times_error = statistics.median(quotients), median_error(quotients)
    if case.own_seconds and rival_median:
        own_share = statistics.mean(turns.own) / turns.calls * 1e9 / rival_median
    return Measurement(
        name=name,
        unit=case.unit,
        count=case.count,
        bytes_moved=case.bytes_moved,
        capability=capability,
        rounds=rounds,
        median_ns=statistics.median(ours),
        spread=spread(ours),
        floor=case.floor,
        floor_bytes_per_second=case.bytes_moved / statistics.median(floor) * 1e9 if floor else None,
        rival_name=case.rival_name if rival else None,
        rival_median_ns=rival_median,
        rival_spread=spread(rival) if rival else None,
        times=times,
        times_error=times_error,
        own_share=own_share,
        bars=bars(case, device, capability),
    )


def bars(case: Case, device: torch.device, capability: str) -> dict[str, float]:
    """Return the bars that hold here: they were set for CPUs, and a ratio is halved on AVX2."""
    if device.type != "cpu" or capability not in {"avx512", "avx2"}:
        return {}
    found = {"ratio": case.bar_ratio, "floor": case.bar_floor, "ns": case.bar_ns}
    if capability == "avx2":
        found = {"ratio": case.bar_ratio and case.bar_ratio / 2}
    found["times"] = case.bar_times
    return {kind: bar for kind, bar in found.items() if bar is not None}


def spread(samples: list[float]) -> float:
    """Return half of the distance between the quartiles, relative to the median."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2 / middle


def median_error(samples: list[float]) -> float:
    """Return the standard error of the median, from the quartiles, for normal samples."""
    low, _, high = statistics.quantiles(samples, n=4)
    return 1.2533 * (high - low) / 1.349 / math.sqrt(len(samples))
