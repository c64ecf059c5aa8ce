"""Rules on rows: not finite, spikes, dead layers, vanishing gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from initstats.diagnostics.findings import Finding
from initstats.diagnostics.rules.signal import OVERFLOWN, NotFinite
from initstats.diagnostics.rules.training import UpdateRatio
from initstats.monitoring.alerts import FromAudit, MonitorRule, Subject, evidence_of
from initstats.monitoring.reader import Measured
from initstats.monitoring.row import Row
from initstats.statistics.record_array import COUNT, NAN, NEG_INF, POS_INF, Floats, Records
from initstats.text import number

_BACKWARD = (
    "look at the operation after this layer: division, sqrt or log at 0; with AMP an overflow that"
    " the scaler skips is normal"
)


class FirstNotFinite(MonitorRule):
    """NaN or infinity; names the first step and, in it, the first place.

    The order is that of a step: weights, inputs and activations as they were called, gradients from
    the last parameter to the first, updates. A step in which nothing but masks wrote -inf has none.
    """

    id: ClassVar[str] = NotFinite.id
    source: ClassVar[str] = NotFinite.source

    _fixes: ClassVar[dict[str, str]] = {
        "weights": "the step before wrote it: look at its gradients and its learning rate",
        "inputs": "look at the data",
        "activations": "look at the operation of this layer and at the scale of its input",
        "local_gradients": _BACKWARD,
        "gradients": _BACKWARD,
        "updates": "look at the state of the optimizer: an epsilon that is 0 in this dtype",
    }

    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Find the earliest step, and the first place in it."""
        del row, subject
        first: tuple[int, str, list[str], int] | None = None
        bad_steps = {step for kind in self._fixes for step in _not_finite_steps(kind, measured)}
        for kind in self._fixes:
            found = measured.get(kind)
            if found is None or not bad_steps.intersection(found.steps):
                continue
            counts = found.by_step.counts[..., [NAN, POS_INF, NEG_INF]].sum(axis=2)
            counts[[step not in bad_steps for step in found.steps]] = 0
            if not counts.any():
                continue
            k = int(np.flatnonzero(counts.any(axis=1))[0])
            if first is not None and first[0] <= found.steps[k]:
                continue
            places = np.flatnonzero(counts[k])
            order = places[::-1] if kind in BACKWARD else places
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


def holds_not_finite(kind: str, records: Records) -> npt.NDArray[np.bool_]:
    """Tell which records hold NaN or infinity for another reason than a mask of -inf.

    Args:
        kind: The kind that they are of.
        records: Records of any shape.
    """
    counts = records.counts
    bad: npt.NDArray[np.bool_] = counts[..., NAN] + counts[..., POS_INF] > 0
    infinite = counts[..., NEG_INF] > 0
    if infinite.any():
        is_mask = kind in _MASKED and records.column("abs_max") < OVERFLOWN
        bad |= infinite & ~np.broadcast_to(is_mask, infinite.shape)
    return bad


def _not_finite_steps(kind: str, measured: Mapping[str, Measured]) -> list[int]:
    """Return the steps in which a kind is not finite for another reason than a mask."""
    found = measured.get(kind)
    if found is None:
        return []
    bad: Any = holds_not_finite(kind, found.by_step)
    return [step for step, is_bad in zip(found.steps, bad.any(axis=1), strict=True) if is_bad]


# The order of a step: of the last of these from the last parameter to the first.
IN_A_STEP = ("weights", "inputs", "activations", "local_gradients", "gradients", "updates")
BACKWARD = ("local_gradients", "gradients")
# Kinds that a mask of -inf may be in.
_MASKED = ("inputs", "activations")


class GradientSpike(MonitorRule):
    """A gradient norm far above the median of the measurements before it.

    Each parameter has a past of its own: which of them have gradients may change from step to step,
    as in a mixture of experts.

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
        self._columns: dict[str, int] = {}
        self._past = np.empty((0, 0))

    def check(
        self, row: Row, measured: Mapping[str, Measured], subject: Subject
    ) -> Iterator[Finding]:
        """Compare the norm of every parameter's gradient with its own past."""
        del subject
        gradients = measured.get("gradients")
        if gradients is None:
            return
        for name in ("all parameters", *gradients.table.names):
            self._columns.setdefault(name, len(self._columns))
        names = tuple(self._columns)
        here = [self._columns[name] for name in gradients.table.names]
        norms = np.full((len(gradients.steps), len(names)), np.nan)
        before = row.gradient_norm_before_clipping
        norms[:, 0] = before if before.size else row.gradient_norm
        is_there = gradients.by_step.counts[..., COUNT] > 0
        norms[:, here] = np.where(is_there, gradients.by_step.column("l2"), np.nan)
        new = np.full((len(self._past), len(names) - self._past.shape[1]), np.nan)
        self._past = np.column_stack((self._past, new))
        known = np.isfinite(self._past).sum(axis=0)
        if (known >= self.least).any():
            usual = _median(self._past)
            with np.errstate(all="ignore"):
                largest = np.fmax.reduce(norms, axis=0)
                ratio = np.where((usual > 0) & (known >= self.least), largest / usual, 0.0)
            bad = np.flatnonzero(np.isfinite(ratio) & (ratio > self.factor))
            if bad.size:
                worst = int(bad[0] if bad[0] == 0 else bad[np.argmax(ratio[bad])])
                yield self.finding(
                    "warning",
                    names[worst],
                    float(largest[worst]),
                    float(self.factor * usual[worst]),
                    cause=f"gradient norm {number(float(largest[worst]))}, median of the"
                    f" last {known[worst]} measurements {number(float(usual[worst]))}",
                    fix="clip the gradient norm, lower the learning rate, or look at this batch",
                    also=tuple(names[i] for i in bad if i != worst),
                )
        finite = norms[~(np.isinf(norms).any(axis=1) | np.isnan(norms[:, 0]))]
        self._past = np.concatenate((self._past, finite))[-self.history :]

    def state_dict(self) -> dict[str, Any]:
        """Return the norms that the medians are taken of, and whose they are."""
        return {"names": list(self._columns), "past": torch.from_numpy(self._past.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these norms."""
        self._columns = {name: i for i, name in enumerate(state["names"])}
        self._past = state["past"].cpu().numpy().copy()


def _median(past: Floats) -> Floats:
    """Return the median of each column without NaN; NaN where there is nothing else."""
    ordered = np.sort(past, axis=0)  # NaN last
    known = np.isfinite(ordered).sum(axis=0)
    columns = np.arange(past.shape[1])
    low, high = np.maximum(known - 1, 0) // 2, np.minimum(known // 2, len(past) - 1)
    median: Floats = (ordered[low, columns] + ordered[high, columns]) / 2
    return median


class DeadLayer(MonitorRule):
    """A layer whose outputs are nearly all exactly 0.

    A layer whose weights are still at 0 by design (the second matrix of a LoRA adapter, a zero
    convolution) is none, nor is what only passes its output on.

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
        del measured
        table = row.tables.get("activations")
        if table is None:
            return
        with np.errstate(all="ignore"):
            shares = table.column("zero") / table.column("count")
        at_zero = {name.rpartition(".")[0] for name in _zero_by_design(row)}
        owners = {name.rpartition(".")[0] for name in subject.shapes}
        passed_on = False
        for i in range(len(table)):
            name, is_dead = table.names[i], shares[i] >= self.share
            passed_on = is_dead and (name in at_zero or (passed_on and name not in owners))
            if passed_on or not is_dead:
                continue
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

    A gradient of exactly 0 is none while a weight that starts at 0 by design holds it back.

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
        is_held = _zero_by_design(row, trained=True)
        bad = np.flatnonzero((size < limit) & (size > 0 if is_held else True))
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


class UpdateSize(FromAudit):
    """The audit's rule on the size of updates, which leaves a warm-up of the learning rate alone.

    Small updates are a finding when they have not grown since the row that was judged before, large
    ones of weights that began at 0 when they have not shrunk: Adam makes them 1 / step at first.

    Args:
        growth: Factor by which the median ratio must grow from one judged row to the next.
    """

    id: ClassVar[str] = UpdateRatio.id
    source: ClassVar[str] = UpdateRatio.source

    def __init__(self, growth: float = 1.02) -> None:
        rule = UpdateRatio()
        super().__init__(rule)
        self._high = rule.high
        self._growth = growth
        self._before = -math.inf
        self._from_zero: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the median ratio of the row that was judged last, and those of young weights."""
        return {"before": self._before, "from_zero": dict(self._from_zero)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with this ratio."""
        self._before = state["before"]
        self._from_zero = dict(state.get("from_zero", {}))  # not in those of the first versions

    def judge(self, row: Row, subject: Subject) -> Iterator[Finding]:
        """Ask the rule, and drop what it says of small updates that still grow."""
        evidence = evidence_of(row, subject)
        young = self._young(row)
        old = {name: p for name, p in evidence.parameters.items() if name not in young}
        evidence = replace(evidence, parameters=old)
        ratios = [r for r in row.update_ratios().values() if math.isfinite(r)]
        typical = float(np.median(ratios)) if ratios else 0.0
        grows = typical > self._growth * self._before  # the first is above nothing
        self._before = typical
        for finding in self.rule.check(evidence):
            if not (grows and finding.value < finding.threshold):
                yield finding

    def _young(self, row: Row) -> set[str]:
        """Return weights that began at 0 and whose large update ratio still shrinks."""
        for name in _zero_by_design(row):
            self._from_zero.setdefault(name, math.inf)
        ratios, young = row.update_ratios(), set()
        for name, before in list(self._from_zero.items()):
            now = ratios.get(name, math.inf)
            if now == math.inf or self._high < now < before:
                young.add(name)
                self._from_zero[name] = now
            else:
                del self._from_zero[name]
        return young


def _zero_by_design(row: Row, *, trained: bool = False) -> set[str]:
    """Return the weights that were all 0 in some step and are not stuck there.

    Args:
        row: The row.
        trained: Without those that have no gradient, such as frozen ones.
    """
    weights, gradients = row.tables.get("weights"), row.tables.get("gradients")
    if weights is None or gradients is None:
        return set()
    found = set()
    for i in np.flatnonzero(weights.low["abs_max"] == 0):
        name = weights.names[i]
        j = gradients.index.get(name)
        moves = not trained if j is None else gradients.high["abs_max"][j] > 0
        if moves and not name.endswith("bias"):
            found.add(name)
    return found


def default_rules() -> tuple[MonitorRule, ...]:
    """Return fresh rules: those of this file, and the audit's on the size of updates."""
    return (
        FirstNotFinite(),
        GradientSpike(),
        DeadLayer(),
        VanishingGradient(),
        UpdateSize(),
    )
