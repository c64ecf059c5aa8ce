"""Rows of the monitor: one table of merged records per kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from initstats.diagnostics.findings import Finding
from initstats.statistics.histogram import PLACES, edges
from initstats.statistics.record import Stats
from initstats.statistics.record_array import ZERO, Floats, Groups, Integers, RecordRow, Records

# What is followed through a window, beside the merged record.
WINDOWED = ("mean", "std", "rms", "l2", "abs_max")


@dataclass(frozen=True, eq=False)
class Places:
    """Histograms of many records, cut to the places that any of them uses.

    Attributes:
        first: Place of the first column.
        counts: int64 `[n, 2, width]`, positive values, then negative ones.
        scale: Scale of the histograms.
    """

    first: int
    counts: Integers
    scale: int = 0

    @classmethod
    def cut(cls, places: Integers, scale: int) -> Places:
        """Cut histograms `[n, 512 << scale]`."""
        sides = places.reshape(len(places), 2, PLACES << scale)
        used = np.flatnonzero(sides.any(axis=(0, 1)))
        first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        return cls(first, sides[:, :, first:end].copy(), scale)

    def full(self, i: int) -> Integers:
        """Return the counts of one record, `[2, 256 << scale]`."""
        counts = np.zeros((2, PLACES << self.scale), dtype=np.int64)
        counts[:, self.first : self.first + self.counts.shape[2]] = self.counts[i]
        return counts

    def dense(self, i: int) -> tuple[list[float], list[int]]:
        """Return one record as an ordinary histogram of neighbouring buckets, infinities apart.

        Returns:
            Upper edges in ascending order, and how many values lie at or below each and above the
            one before. The first bucket is empty: its edge is where the histogram begins. The
            bucket with edge 0 is for zeros; it is left empty here.
        """
        width = self.counts.shape[2]
        if width == 0:
            return [-_TINY, 0.0], [0, 0]
        pairs = [edges(place, self.scale) for place in range(self.first, self.first + width)]
        low, high = [low or _TINY for low, _ in pairs], [min(high, _HUGE) for _, high in pairs]
        positive, negative = self.counts[i].tolist()
        limits = [-high[-1], *(-edge for edge in reversed(low)), 0.0, low[0], *high]
        return limits, [0, *reversed(negative), 0, 0, *positive]


# Sizes from which GELU and SiLU pass on less than a thousandth: GELU below -3.4, SiLU below -9.1.
_NEAR_ZERO = 2.0**-10
# Share of the norm before below which a gradient was clipped: torch adds 1e-6 to the norm.
_CLIPPED = 0.9999
_TINY = 5e-324
_HUGE = 1.7976931348623157e308


@dataclass(frozen=True, eq=False)
class Table(Mapping[str, Stats]):
    """The records of one kind, merged over a window.

    Attributes:
        names: Names of the tensors, n of them.
        records: Merged records, `[n]`.
        places: Merged histograms, None without.
        low: Smallest value in any measured step, by field of `WINDOWED`, float64 `[n]`.
        high: Largest value, likewise.
        average: Mean over the measured steps, likewise.
    """

    names: tuple[str, ...]
    records: Records
    places: Places | None = None
    low: Mapping[str, Floats] = field(default_factory=dict)
    high: Mapping[str, Floats] = field(default_factory=dict)
    average: Mapping[str, Floats] = field(default_factory=dict)

    def column(self, name: str) -> Floats:
        """Return a field of `Stats` for all records, float64 `[n]`."""
        column: Floats = self.records.column(name)
        return column

    def near_zero(self, name: str) -> float:
        """Return the share of values that GELU or SiLU made of inputs far below 0.

        They are 0, or negative and at most 2**-10 in size, in excess of the positive values of that
        size: small inputs of both signs pass through on both sides and do not count.

        Args:
            name: Name of a module whose function is one of these.

        Returns:
            The share of the finite values, as that of zeros after a ReLU; NaN without histograms.
        """
        i = self.index[name]
        finite = float(self.records.finite[i])
        if self.places is None or not finite:
            return math.nan
        first, scale = self.places.first, self.places.scale
        width = self.places.counts.shape[2]
        small = sum(edges(first + k, scale)[1] <= _NEAR_ZERO for k in range(width))
        positive, negative = self.places.counts[i, :, :small].sum(axis=1).tolist()
        return float(int(self.records.counts[i, ZERO]) + max(0, negative - positive)) / finite

    @cached_property
    def index(self) -> dict[str, int]:
        """Row by name."""
        return {name: i for i, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> Stats:
        i = self.index[name]
        moments, counts = self.records.moments[i].tolist(), self.records.counts[i].tolist()
        if self.places is None:
            return Stats(RecordRow(moments, counts), groups=Groups.MOMENTS)
        numbers = RecordRow(moments, counts, self.places.full(i), self.places.scale)
        return Stats(numbers, groups=Groups.COUNTED)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class RankInfo:
    """Which ranks a row is of.

    Attributes:
        rank: Global rank that wrote the row.
        scope: "merged" for a row of all ranks of the group, "rank" for one of this rank alone.
        world: Number of ranks: of the group, or of the job.
        run: Name of the run, the same on all ranks.
        restarts: How often the launcher has restarted the run.
        slowest: The rank with the longest steps of the window, and their mean seconds; None where
            none were measured, as in the first row.
        fastest: The rank with the shortest.
        learning_rates: Those of ranks that have others than `Row.learning_rates`, by rank, as
            "rank 3", and name; of 16 ranks at most.
    """

    rank: int
    scope: str
    world: int
    run: str = ""
    restarts: int = 0
    slowest: tuple[int, float] | None = None
    fastest: tuple[int, float] | None = None
    learning_rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Shard(NamedTuple):
    """What a rank holds of a parameter: first rank of its mesh, which piece, elements of all."""

    mesh: int
    piece: int
    numel: int


class Taken(NamedTuple):
    """Steps of the optimizer that a rank has taken up to the last measured step of a row.

    Attributes:
        step: Number of that step.
        updates: Since the monitor was attached; calls of `Monitor.step` without any count as usual.
        idle: Calls of `Monitor.step` without any.
        usual: From one call of `Monitor.step` to the next, the fewest.
        caught_up: Calls of `Monitor.step` that the rank had left out, and that its number of the
            step has caught up with.
    """

    step: int
    updates: int
    idle: int
    usual: int
    caught_up: int = 0


@dataclass(frozen=True, eq=False)
class Part:
    """What a row of one rank keeps for the row of all ranks that is made of them afterwards.

    Attributes:
        peers: Ranks that share a batch with this one, itself included.
        seconds: Mean seconds of a step, 0 in the first row.
        steps: Measured steps that have gradients.
        squares: Sum of squares of each gradient in these, in the order of the table, float64
            `[steps, n]`; NaN or infinite where the gradient is.
        unclipped: The same before clipping, empty when nothing was clipped.
        clipped: Whether gradients were clipped, bool `[steps]`.
        local_norm: Largest norm of the local gradients in any step, None without.
        products: Of shards, by name, the product of momentum and gradient and the squares of both
            in each step of `product_steps`, float64 `[steps, 3]`.
        product_steps: Measured steps that have these.
        prints: By kind the fingerprint of each tensor in the last measured step, in the order of
            the table; None where that step has none.
        taken: Steps of the optimizer, None where none are counted.
        by_step: Where the row has several measured steps, by kind those of them that have records,
            and the records `[steps, n]`, in the order of the table.
        without_loss: Measured steps that no loss was given for, where one was for others.
    """

    peers: tuple[int, ...] = ()
    seconds: float = 0.0
    steps: tuple[int, ...] = ()
    squares: Floats = field(default_factory=lambda: np.empty((0, 0)))
    unclipped: Floats = field(default_factory=lambda: np.empty((0, 0)))
    clipped: tuple[bool, ...] = ()
    local_norm: float | None = None
    products: Mapping[str, Floats] = field(default_factory=dict)
    product_steps: tuple[int, ...] = ()
    prints: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    taken: Taken | None = None
    by_step: Mapping[str, tuple[tuple[int, ...], Records]] = field(default_factory=dict)
    without_loss: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Row:
    """What was measured in one window of steps.

    Attributes:
        step: Last measured step of the window, from 1.
        first_step: First measured step.
        measured: Number of measured steps.
        time: Seconds since the epoch.
        tables: By kind: "weights", "gradients" as the optimizer got them, "local_gradients" before
            the reduction over ranks, "activations", "inputs", "updates", "exp_avg", "exp_avg_sq",
            "square_gradient_ratio", "momentum_cosine" (a number per measured step).
        gradient_norm: Global gradient norm of each measured step, float64 `[measured]`; empty
            without gradients. NaN or infinite when any gradient is. As the optimizer got them:
            after clipping.
        gradient_norm_before_clipping: The same before `torch.nn.utils.clip_grad_norm_`, also as
            Lightning, Accelerate and transformers call it; empty when nothing was clipped so.
        steps: The measured steps.
        missing: Why something is not there, by kind and name.
        alerts: Findings that are new in this row.
        ranks: Which ranks the row is of; None in a run of one process.
        shards: In a row of one rank among several, what it holds of each parameter.
        part: In a row of one rank among several, what the row of all of them needs besides.
        loss: Loss of each measured step as `Monitor.step(loss=...)` got it, NaN where it got none;
            empty when it never did. In a row of several ranks the mean over those that gave any
            in it, NaN where that of one is.
        learning_rates: Learning rates of the optimizer's groups in the last measured step, by the
            number of the group; of several optimizers by both numbers, such as "1.0". In a row of
            several ranks those that most of them have, `RankInfo.learning_rates` the others.
        calls: Recorded calls per measured step of each watched module, 0 for one that was not
            called: the load of the experts of a mixture. In a row of several ranks the mean over
            those that watch it.
        smooth: Watched modules that are GELU, SiLU or a relative, see `near_zero_shares`.
    """

    step: int
    first_step: int
    measured: int
    time: float
    tables: Mapping[str, Table]
    gradient_norm: Floats = field(default_factory=lambda: np.empty(0))
    steps: tuple[int, ...] = ()
    missing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    alerts: tuple[Finding, ...] = ()
    gradient_norm_before_clipping: Floats = field(default_factory=lambda: np.empty(0))
    ranks: RankInfo | None = None
    shards: Mapping[str, Shard] = field(default_factory=dict)
    part: Part | None = None
    loss: Floats = field(default_factory=lambda: np.empty(0))
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    calls: Mapping[str, float] = field(default_factory=dict)
    smooth: tuple[str, ...] = ()

    def near_zero_shares(self) -> dict[str, float]:
        """Return the share of outputs near zero of GELU, SiLU and relatives, `Table.near_zero`."""
        table = self.tables.get("activations")
        if table is None or table.places is None:
            return {}
        shares = {name: table.near_zero(name) for name in self.smooth if name in table.index}
        return {name: share for name, share in shares.items() if math.isfinite(share)}

    def momentum_cosines(self) -> dict[str, float]:
        """Return the cosine of momentum and gradient by name, its mean over the measured steps."""
        table = self.tables.get("momentum_cosine")
        if table is None:
            return {}
        return dict(zip(table.names, table.average["mean"].tolist(), strict=True))

    def update_ratios(self) -> dict[str, float]:
        """Return rms of the update / rms of the weights by name, without weights that are 0."""
        updates, weights = self.tables.get("updates"), self.tables.get("weights")
        if updates is None or weights is None:
            return {}
        size, change = weights.column("rms"), updates.column("rms")
        ratios = {}
        for name, i in updates.index.items():
            j = weights.index.get(name)
            if j is not None and size[j] > 0:
                ratios[name] = float(change[i] / size[j])
        return ratios

    def scalars(self) -> dict[str, float]:
        """Return the few numbers of a row that are not about one tensor."""
        found = {"step": float(self.step), "measured": float(self.measured)}
        if self.gradient_norm.size:
            norms = self.gradient_norm
            found["gradient_norm"] = float(norms.mean())
            found["gradient_norm_max"] = float(norms.max())
        if self.gradient_norm_before_clipping.size:
            before = self.gradient_norm_before_clipping
            found["gradient_norm_before_clipping"] = float(before.mean())
            found["clip_share"] = float((self.gradient_norm < _CLIPPED * before).mean())
        if np.isfinite(self.loss).any():
            found["loss"] = float(self.loss[np.isfinite(self.loss)].mean())
        for i, (name, rate) in enumerate(self.learning_rates.items()):
            found[f"learning_rate_{name}" if i else "learning_rate"] = rate
        found["alerts"] = float(len(self.alerts))
        found["missing"] = float(sum(map(len, self.missing.values())))
        ratios = [r for r in self.update_ratios().values() if math.isfinite(r) and r > 0]
        if ratios:
            found["update_ratio_median"] = float(np.median(ratios))
        cosines = [c for c in self.momentum_cosines().values() if math.isfinite(c)]
        if cosines:
            found["momentum_cosine_median"] = float(np.median(cosines))
        return found
