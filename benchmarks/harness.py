"""Times a case, its rival and the memory's floor in turns, so that all three see the same machine.

One sample is the time of one call, or of as many calls as fill a few milliseconds. The samples go
A B F A B F ...: ours, the rival, the floor. What counts is the median; the spread is half of the
distance between the quartiles, relative to the median.

What is to cost next to nothing on top of its rival (a monitored step beside a plain one) is taken
in pairs, A B, B A, ...: the median of their quotients, with its standard error, and beside it the
time that our own code took, which wanders far less than the wall clock of a whole step.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Call = Callable[[], object]

SHORTEST_SAMPLE_NS = 2_000_000
FEWEST_ROUNDS, MOST_ROUNDS = 5, 25
MOST_PAIRS = 400


@dataclass(frozen=True)
class Case:
    """What to measure, and what to hold it against."""

    name: str
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


class Clock:
    """Takes samples on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush: torch.Tensor | None = None
        if device.type == "cuda":
            # Twice the cache, written before each sample: a result left there would read as speed.
            cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
            self._flush = torch.empty(2 * cache_bytes, dtype=torch.uint8, device=device)

    def sample(self, call: Call, repeats: int) -> float:
        """Return the nanoseconds that one call takes, over so many calls."""
        if self._flush is not None:
            return self._sample_on_gpu(call, self._flush)
        begin = time.perf_counter_ns()
        for _ in range(repeats):
            call()
        return (time.perf_counter_ns() - begin) / repeats

    def _sample_on_gpu(self, call: Call, flush: torch.Tensor) -> float:
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        flush.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e6

    def repeats(self, call: Call) -> int:
        """Warm up, and return how many calls make a sample that is long enough."""
        call()
        return max(1, int(SHORTEST_SAMPLE_NS / max(self.sample(call, 1), 1.0)))


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


def measure(
    case: Case, device: torch.device, capability: str, *, seconds: float = 6.0
) -> Measurement:
    """Measure a case, its rival and its floor in turns.

    Args:
        case: What to measure.
        device: Where its tensors are.
        capability: The CPU capability in use; below the best one half of a ratio is asked for.
        seconds: Time for the case, at least FEWEST_ROUNDS rounds whatever they take.
    """
    clock = Clock(device)
    calls = {"ours": case.ours}
    if case.rival is not None:
        calls["rival"] = case.rival
    if case.floor is not None:
        calls["floor"] = floor_call(case.floor, case.bytes_moved, device)
    repeats = {who: clock.repeats(call) for who, call in calls.items()}
    samples: dict[str, list[float]] = {who: [] for who in calls}
    own: list[float] = []
    gc.collect()
    gc.disable()
    begin = time.perf_counter()
    try:
        for rounds in range(MOST_PAIRS if case.paired else MOST_ROUNDS):
            if rounds >= FEWEST_ROUNDS and time.perf_counter() - begin > seconds:
                break
            turns = list(calls.items())
            for who, call in reversed(turns) if case.paired and rounds % 2 else turns:
                if case.before is not None:
                    case.before()
                spent = case.own_seconds() if case.own_seconds and who == "ours" else 0.0
                samples[who].append(clock.sample(call, repeats[who]))
                if case.own_seconds and who == "ours":
                    own.append((case.own_seconds() - spent) / repeats[who] * 1e9)
    finally:
        gc.enable()
    floor = samples.get("floor")
    rival = samples.get("rival")
    times = times_error = None
    if case.paired and rival:
        quotients = [a / b for a, b in zip(samples["ours"], rival, strict=True)]
        times, times_error = statistics.median(quotients), median_error(quotients)
    return Measurement(
        name=case.name,
        unit=case.unit,
        count=case.count,
        bytes_moved=case.bytes_moved,
        capability=capability,
        rounds=len(samples["ours"]),
        median_ns=statistics.median(samples["ours"]),
        spread=spread(samples["ours"]),
        floor=case.floor,
        floor_bytes_per_second=case.bytes_moved / statistics.median(floor) * 1e9 if floor else None,
        rival_name=case.rival_name if rival else None,
        rival_median_ns=statistics.median(rival) if rival else None,
        rival_spread=spread(rival) if rival else None,
        times=times,
        times_error=times_error,
        own_share=statistics.mean(own) / statistics.median(rival) if own and rival else None,
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
