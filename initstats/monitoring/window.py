"""Windows: records on their device between two rows, one launch per kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from initstats import _ops
from initstats.monitoring.row import Taken
from initstats.monitoring.transfers import Transfers
from initstats.statistics.record_array import Groups

Layout = tuple[str, ...]
Factor = float | Tensor
# Kind of the gradients of one rank before clipping, which rows show as a norm alone.
BEFORE_CLIPPING = "gradients before clipping"
# Kinds of the sums that make the cosine of momentum and gradient of shards, one number per tensor.
PRODUCTS = ("momentum times gradient", "squares of momentum", "squares of gradients")
# Kind of the loss of one rank, which rows show as a mean.
LOSS = "loss"
# Kinds that rows do not show.
HIDDEN = (BEFORE_CLIPPING, *PRODUCTS, LOSS)
# Measurements of one layout that stay on a device before they are moved: 128 bytes per tensor each.
_PAGE = 8


@dataclass(eq=False)
class Segment:
    """Measurements of the same tensors within one window.

    Attributes:
        layout: Names of the tensors, one per row; a name that was called twice comes twice.
        steps: Step of each measurement; a step with several calls comes several times.
        moments: float64, one `[n, 8]` per measurement, or `[k, n, 8]` once moved.
        counts: int64, likewise.
        places: Sum of the histograms, int64 `[n, 512 << scale]`, or `[0, 0]` without.
        factors: What the values of each measurement are to be multiplied by.
    """

    layout: Layout
    steps: list[int] = field(default_factory=list)
    moments: list[Tensor] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    places: Tensor | None = None
    factors: list[Factor] = field(default_factory=list)
    on_device: int = 0

    def add(self, step: int, rows: tuple[Tensor, Tensor, Tensor], factor: Factor) -> None:
        """Add one measurement, without a sync."""
        moments, counts, places = rows
        self.steps.append(step)
        self.factors.append(factor)
        self.moments.append(moments)
        self.counts.append(counts)
        self.places = places if self.places is None else self.places.add_(places)
        self.on_device += 1

    def move(self, transfers: Transfers) -> None:
        """Start copying what is on a device to pinned memory."""
        for rows in (self.moments, self.counts):
            if self.on_device and rows[-1].is_cuda:
                rows[-self.on_device :] = [transfers.copy(torch.stack(rows[-self.on_device :]))]
        self.on_device = 0


@dataclass(eq=False)
class Window:
    """Everything measured since the last row. Its records merge over ranks: `across_ranks`.

    Attributes:
        segments: By kind and layout.
        expected: Names that a kind should show, by kind.
        reasons: Why a name of a kind is not there, by kind and name.
        first_step: First measured step, 0 before there is one.
        last_step: Last measured step.
        wall_time: Seconds since the epoch when the window was closed.
        clipped: Norms before clipping: step, norm, factor, and the parameters that they are of.
        losses: Loss by measured step, as it was given.
        rates: Learning rates of the groups of the optimizers in the last measured step, by name.
        transfers: Copies from devices to the host.
        fingerprints: Kinds of which to take fingerprints, which tell replicas of ranks apart.
        smooth: Watched modules that are GELU, SiLU or a relative.
        earlier: What the window held on the host when its monitor was saved, by kind.
        taken: Steps of the optimizer up to the last measured step.
        behind: Calls of `Monitor.step` that were left out before some of it was measured, and that
            the number of the step has caught up with since: it holds other steps than it says.
    """

    histograms: bool
    scale: int = 0
    segments: dict[tuple[str, Layout], Segment] = field(default_factory=dict)
    expected: dict[str, Layout] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    first_step: int = 0
    last_step: int = 0
    wall_time: float = 0.0
    clipped: list[tuple[int, Tensor, Factor, set[str]]] = field(default_factory=list)
    losses: dict[int, Factor] = field(default_factory=dict)
    rates: dict[str, Factor] = field(default_factory=dict)
    transfers: Transfers = field(default_factory=Transfers)
    fingerprints: frozenset[str] = frozenset()
    smooth: Layout = ()
    earlier: list[tuple[str, Segment]] = field(default_factory=list)
    taken: Taken | None = None
    behind: int = 0

    def parts(self) -> Iterator[tuple[str, Segment]]:
        """Yield kind and segment of everything that was measured."""
        yield from self.earlier
        for (kind, _), segment in self.segments.items():
            yield kind, segment

    def measure(
        self,
        kind: str,
        layout: Layout,
        tensors: Sequence[Tensor],
        step: int,
        factor: Factor = 1.0,
        minus: Sequence[Tensor] = (),
        copies: Sequence[Tensor] = (),
    ) -> None:
        """Take the records of many tensors: one launch per device, no sync.

        Args:
            kind: Such as "weights".
            layout: Names of the tensors.
            tensors: Dense tensors, as many as there are names.
            step: Step of training.
            factor: What their values are to be multiplied by.
            minus: What is to be subtracted from each, element by element; empty for nothing.
            copies: Where each is to be copied in the same pass, on one device; empty for nowhere.
        """
        devices = {tensor.device for tensor in tensors}
        if len(devices) > 1:
            for device in devices:
                mine = [i for i, tensor in enumerate(tensors) if tensor.device == device]
                names = tuple(layout[i] for i in mine)
                other = [minus[i] for i in mine] if minus else []
                self.measure(kind, names, [tensors[i] for i in mine], step, factor, other)
            return
        if tensors:
            histograms = self.histograms and kind not in HIDDEN
            groups = Groups.HISTOGRAM if histograms else Groups.MOMENTS
            if kind in self.fingerprints:
                groups |= Groups.FINGERPRINT
            if copies:
                rows = _ops.copy_stats_(tensors, copies, groups, self.scale)
            else:
                rows = _ops.stats(tensors, groups, self.scale, minus=minus)
            self.add(kind, layout, step, rows, factor)

    def measure_square_ratios(
        self,
        kind: str,
        layout: Layout,
        tensors: Sequence[Tensor],
        over: Sequence[Tensor],
        factors: Sequence[float],
        step: int,
        over_kind: str = "",
    ) -> None:
        """Take the records of `tensors**2 / over * factors`, which are never stored.

        Args:
            kind: Such as "square_gradient_ratio".
            layout: Names of the tensors.
            tensors: Dense tensors, as many as there are names.
            over: What the square of each is divided by, of the same shapes, dtypes and devices.
            factors: A number for each.
            step: Step of training.
            over_kind: The kind of records of `over`, to be taken in the same pass; "" for none.
        """
        groups = Groups.HISTOGRAM if self.histograms else Groups.MOMENTS
        for device in {tensor.device for tensor in tensors}:
            mine = [i for i, tensor in enumerate(tensors) if tensor.device == device]
            rows = _ops.square_ratio_stats(
                [tensors[i] for i in mine],
                [over[i] for i in mine],
                [factors[i] for i in mine],
                groups,
                self.scale,
                with_over=bool(over_kind),
            )
            names = layout if len(mine) == len(layout) else tuple(layout[i] for i in mine)
            if over_kind:
                n = len(mine)
                moments, counts, places = rows
                self.add(over_kind, names, step, (moments[n:], counts[n:], places[n:]))
                rows = moments[:n], counts[:n], places[:n]
            self.add(kind, names, step, rows)

    def add(
        self,
        kind: str,
        layout: Layout,
        step: int,
        rows: tuple[Tensor, Tensor, Tensor],
        factor: Factor = 1.0,
    ) -> None:
        """Add records that are taken already."""
        key = (kind, layout)
        segment = self.segments.get(key)
        if segment is None:
            segment = self.segments[key] = Segment(layout)
        self.transfers.follow(rows[0].device)
        segment.add(step, rows, factor)
        if segment.on_device == _PAGE and rows[0].is_cuda:
            segment.move(self.transfers)

    def take_over(self, other: Window) -> None:
        """Add the records of another window of one measurement, which is not used any more."""
        self.transfers.follow_all(other.transfers)
        for (kind, layout), one in other.segments.items():
            assert one.places is not None
            rows = (one.moments[0], one.counts[0], one.places)
            self.add(kind, layout, one.steps[0], rows, one.factors[0])

    def close(self) -> None:
        """Note the time, and start the copies to the host: the one place where a window ends."""
        self.wall_time = time.time()
        for segment in self.segments.values():
            segment.move(self.transfers)
        self._replace(self.transfers.copy)
        self.transfers.finish()

    def wait(self, pause: Callable[[float], None] = time.sleep) -> None:
        """Wait until the copies have arrived. Not for the training thread."""
        self.transfers.wait(pause)
        self._replace(self.transfers.own)
        self.transfers.release()

    def _replace(self, by: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor that is measured or was given by a copy of it."""

        def number(factor: Factor) -> Factor:
            return by(factor) if isinstance(factor, Tensor) else factor

        for segment in self.segments.values():
            segment.moments = [by(rows) for rows in segment.moments]
            segment.counts = [by(rows) for rows in segment.counts]
            segment.places = None if segment.places is None else by(segment.places)
            segment.factors = [number(factor) for factor in segment.factors]
        self.clipped = [
            (step, by(norm), number(factor), names) for step, norm, factor, names in self.clipped
        ]
        self.losses = {step: number(loss) for step, loss in self.losses.items()}
        self.rates = {name: number(rate) for name, rate in self.rates.items()}
