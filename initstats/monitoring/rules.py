"""Rules on rows: not finite, spikes, dead layers, vanishing gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from initstats.diagnostics.findings import Finding
from initstats.diagnostics.rules.signal import NotFinite
from initstats.diagnostics.rules.training import UpdateRatio
from initstats.monitoring.alerts import FromAudit, MonitorRule, Subject
from initstats.monitoring.reader import Measured
from initstats.monitoring.row import Row
from initstats.statistics.record_array import NAN, NEG_INF, POS_INF
from initstats.text import number


class FirstNotFinite(MonitorRule):
    """NaN or infinity; names the first step and, in it, the first place.

    The order is that of a step: weights, inputs and activations as they were called, gradients from
    the last parameter to the first, updates.
    """

    id: ClassVar[str] = NotFinite.id
    source: ClassVar[str] = NotFinite.source

    _fixes: ClassVar[dict[str, str]] = {
        "weights": "the step before wrote it: look at its gradients and its learning rate",
        "inputs": "look at the data",
        "activations": "look at the operation of this layer and at the scale of its input",
        "gradients": "look at the operation after this layer: division, sqrt or log at 0; with AMP"
        " an overflow that the scaler skips is normal",
        "updates": "look at the state of the optimizer: an epsilon that is 0 in this dtype",
    }

    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Find the earliest step, and the first place in it."""
        del row, subject
        first: tuple[int, str, list[str], int] | None = None
        for kind in self._fixes:
            found = measured.get(kind)
            if found is None:
                continue
            counts = found.by_step.counts[..., [NAN, POS_INF, NEG_INF]].sum(axis=2)
            if not counts.any():
                continue
            k = int(np.flatnonzero(counts.any(axis=1))[0])
            if first is not None and first[0] <= found.steps[k]:
                continue
            places = np.flatnonzero(counts[k])
            order = places[::-1] if kind == "gradients" else places
            names = [found.table.names[i] for i in order]
            first = (found.steps[k], kind, names, int(counts[k, order[0]]))
        if first is not None:
            step, kind, names, count = first
            yield self.finding(
                "error",
                names[0],
                float(count),
                0.0,
                cause=f"{kind}: {count} values are NaN or infinite in step {step}, and so are some"
                f" of {len(names) - 1} more {kind}",
                fix=self._fixes[kind],
                also=tuple(names[1:]),
            )


class GradientSpike(MonitorRule):
    """A gradient norm far above the median of the measurements before it.

    Args:
        factor: Multiple of the median that is a spike.
        history: Measurements that the median is taken of.
        least: Measurements before the rule says anything.
    """

    id: ClassVar[str] = "gradient-spike"
    source: ClassVar[str] = "gradient norms spike before the loss does: OLMo 2, arXiv 2501.00656"

    def __init__(self, factor: float = 10.0, history: int = 64, least: int = 16) -> None:
        self.factor = factor
        self.history = history
        self.least = least
        self._names: tuple[str, ...] = ()
        self._past = np.empty((0, 0))

    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Compare the norm of every parameter's gradient with its own past."""
        del subject
        gradients = measured.get("gradients")
        if gradients is None:
            return
        names = ("all parameters", *gradients.table.names)
        if names != self._names:
            self._names, self._past = names, np.empty((0, len(names)))
        norms = np.column_stack((row.gradient_norm, gradients.by_step.column("l2")))
        if len(self._past) >= self.least:
            usual = np.median(self._past, axis=0)
            with np.errstate(all="ignore"):
                ratio = np.where(usual > 0, norms.max(axis=0) / usual, 0.0)
            bad = np.flatnonzero(np.isfinite(ratio) & (ratio > self.factor))
            if bad.size:
                worst = int(bad[0] if bad[0] == 0 else bad[np.argmax(ratio[bad])])
                yield self.finding(
                    "warning",
                    names[worst],
                    float(norms[:, worst].max()),
                    float(self.factor * usual[worst]),
                    cause=f"gradient norm {number(float(norms[:, worst].max()))}, median of the"
                    f" last {len(self._past)} measurements {number(float(usual[worst]))}",
                    fix="clip the gradient norm, lower the learning rate, or look at this batch",
                    also=tuple(names[i] for i in bad if i != worst),
                )
        finite = norms[np.isfinite(norms).all(axis=1)]
        self._past = np.concatenate((self._past, finite))[-self.history :]


class DeadLayer(MonitorRule):
    """A layer whose outputs are nearly all exactly 0.

    Args:
        share: Share of zeros from which a layer is dead.
    """

    id: ClassVar[str] = "dead-layer"
    source: ClassVar[str] = "SageMaker DeadRelu: active below 1 %"

    def __init__(self, share: float = 0.99) -> None:
        self.share = share

    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Look at the share of zeros over the window."""
        del measured, subject
        table = row.tables.get("activations")
        if table is None:
            return
        with np.errstate(all="ignore"):
            shares = table.column("zero") / table.column("count")
        for i in np.flatnonzero(shares >= self.share):
            yield self.finding(
                "warning",
                table.names[i],
                float(shares[i]),
                self.share,
                cause=f"{shares[i]:.1%} of its outputs are 0",
                fix="lower the learning rate, or use a non-linearity that passes negative values",
            )


class VanishingGradient(MonitorRule):
    """Matrices whose gradient is nearly 0, absolutely and next to the other matrices.

    Args:
        low: Mean absolute gradient below which it has vanished.
        relative: Share of the median matrix below which it must lie as well.
    """

    id: ClassVar[str] = "vanishing-gradient"
    source: ClassVar[str] = "SageMaker VanishingGradient: mean of |g| below 1e-7; AutoTrainer: 1e-3"

    def __init__(self, low: float = 1e-7, relative: float = 1e-3) -> None:
        self.low = low
        self.relative = relative

    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Compare the mean absolute gradients of matrices."""
        del measured
        table = row.tables.get("gradients")
        if table is None:
            return
        matrices = np.array([i for i, name in enumerate(table.names) if subject.is_matrix(name)])
        if not matrices.size:
            return
        with np.errstate(all="ignore"):
            size = (table.column("l1") / table.column("finite"))[matrices]
        if np.isnan(size).all():
            return
        limit = min(self.low, self.relative * float(np.nanmedian(size)))
        bad = np.flatnonzero(size < limit)
        if bad.size:
            names = [table.names[matrices[i]] for i in bad]
            yield self.finding(
                "warning",
                names[0],
                float(size[bad[0]]),
                limit,
                cause=f"mean |g| {number(float(size[bad[0]]))} in {len(bad)} of {len(matrices)}"
                " matrices",
                fix="raise the gain of the weights, or add residual paths or normalisation",
                also=tuple(names[1:]),
            )


def default_rules() -> tuple[MonitorRule, ...]:
    """Return fresh rules: those of this file, and the audit's on the size of updates."""
    return (
        FirstNotFinite(),
        GradientSpike(),
        DeadLayer(),
        VanishingGradient(),
        FromAudit(UpdateRatio()),
    )
