"""Rules on the first steps of training: parameter gradients, losses and updates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, median
from typing import ClassVar

from initstats.auditing.evidence import Evidence
from initstats.auditing.findings import AuditRule, Finding, Severity
from initstats.tables import number


@dataclass(frozen=True)
class MissingGradient(AuditRule):
    """Parameters that should be trained and that no gradient reaches."""

    id: ClassVar[str] = "missing-gradient"
    source: ClassVar[str] = "untrained weight of TheDeepChecker"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find trained parameters without a gradient."""
        lost = [p.name for p in evidence.parameters.values() if p.trained and p.gradient is None]
        if lost:
            yield self.finding(
                "warning",
                lost[0],
                float(len(lost)),
                0.0,
                cause=f"no loss depends on {len(lost)} of {len(evidence.parameters)} parameters",
                fix="use them, freeze them with requires_grad_(False), or remove them",
                also=tuple(lost[1:]),
            )


@dataclass(frozen=True)
class GradientRatio(AuditRule):
    """Weight gradients of the first block against those of the last.

    Weight gradients may be small by design (a branch scaled by 1e-6 as in ConvNeXt), so they only
    count as vanished when the gradient of the block's output has vanished too.

    Attributes:
        low: Ratio below which gradients vanish.
        tiny: Rms below which the first block's gradient must also lie to be called vanished.
        signal: Ratio below which the norm of the output's gradient must also lie.
        high: Ratio above which gradients explode.
        severe: Ratio above which this is an error.
    """

    low: float = 1e-3
    tiny: float = 1e-4
    signal: float = 1e-2
    high: float = 70.0
    severe: float = 1000.0

    id: ClassVar[str] = "gradient-ratio"
    source: ClassVar[str] = "AutoTrainer monitor.py: first / last < 1e-3 or > 70"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the ends of every series."""
        for series in evidence.series:
            ends = (evidence.layers[series.layers[0]], evidence.layers[series.layers[-1]])
            first, last = (layer.weight_gradient for layer in ends)
            signal = [x.output_gradient.l2 for x in ends if x.output_gradient is not None]
            faded = len(signal) == len(ends) and signal[0] < self.signal * signal[1]
            if first is None or last is None or not 0 < last.rms < math.inf:
                continue
            ratio = first.rms / last.rms
            cause = (
                f"weight gradients have rms {number(first.rms)} in {series.layers[0]} and "
                f"{number(last.rms)} in {series.layers[-1]}"
            )
            if ratio < self.low and first.rms < self.tiny and faded:
                fix = "raise the gain of the weights, or add residual paths or normalisation"
                yield self.finding("error", series.layers[0], ratio, self.low, cause=cause, fix=fix)
            elif ratio > self.high:
                severity: Severity = "error" if ratio > self.severe else "warning"
                fix = "lower the gain of the weights, or add normalisation"
                yield self.finding(
                    severity, series.layers[0], ratio, self.high, cause=cause, fix=fix
                )


@dataclass(frozen=True)
class InitialLoss(AuditRule):
    """First cross-entropy against that of a uniform guess, ln C.

    Attributes:
        excess: Nats above ln C that are normal; scores of std s cost about s^2 / 2.
        severe: Multiple of ln C above which this is an error.
        leak: Multiple of ln C below which the model knows the answer already.
    """

    excess: float = 1.0
    severe: float = 2.0
    leak: float = 0.5

    id: ClassVar[str] = "initial-loss"
    source: ClassVar[str] = "initial loss of TheDeepChecker: ln C, off by 100 %"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge every cross-entropy of the first forward pass."""
        for call in evidence.loss.cross_entropies:
            if call.uniform == 0 or not math.isfinite(call.value):
                continue
            limit = call.uniform + self.excess
            measured = (
                f"cross-entropy {number(call.value)} before training, uniform guess "
                f"ln({call.classes}) = {number(call.uniform)}"
            )
            if call.value > limit:
                severity: Severity = (
                    "error" if call.value > self.severe * call.uniform else "warning"
                )
                fix = "lower the std of the head (and of an embedding tied to it)"
                yield self.finding(severity, "step 1", call.value, limit, cause=measured, fix=fix)
            elif call.value < self.leak * call.uniform:
                cause = (
                    f"{measured}: the weights are trained already, or the input shows the target"
                )
                fix = "check that targets are shifted and that no future token is visible"
                yield self.finding(
                    "info", "step 1", call.value, self.leak * call.uniform, cause=cause, fix=fix
                )


@dataclass(frozen=True)
class LossTrajectory(AuditRule):
    """Losses of the first steps on one batch: not finite, rising, or flat.

    Attributes:
        flat: Share of the first loss by which it must fall at least.
        rising: Share of the first loss by which the last three may lie above it.
        severe: Multiple of the first loss above which a rise is an error.
        shortest: Number of losses below which the trend is not judged.
    """

    flat: float = 1e-3
    rising: float = 0.02
    severe: float = 2.0
    shortest: int = 5

    id: ClassVar[str] = "loss-trajectory"
    source: ClassVar[str] = "loss checks of TheDeepChecker and SageMaker LossNotDecreasing"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge the losses in the order of the steps."""
        losses = evidence.loss.values
        for step, loss in enumerate(losses, 1):
            if not math.isfinite(loss):
                yield self.finding(
                    "error",
                    f"step {step}",
                    loss,
                    math.inf,
                    cause=f"the loss is {loss} at step {step}",
                    fix="see not-finite; after the first step also lower the learning rate",
                )
                return
        if len(losses) < self.shortest:
            return
        first, last = losses[0], fmean(losses[-3:])
        size = abs(first)
        measured = f"loss {number(first)} at step 1, {number(last)} over the last three steps"
        where = f"step {len(losses)}"
        if last > first + self.rising * size:
            yield self.finding(
                "error" if last > first + (self.severe - 1) * size else "warning",
                where,
                last,
                first + self.rising * size,
                cause=f"{measured}: it rises on one and the same batch",
                fix="lower the learning rate, or warm it up",
            )
        elif first - min(losses) < self.flat * size:
            yield self.finding(
                "warning",
                where,
                first - min(losses),
                self.flat * size,
                cause=f"{measured}: it stands still on one and the same batch",
                fix="raise the learning rate; check that gradients reach the parameters",
            )


@dataclass(frozen=True)
class UpdateRatio(AuditRule):
    """Size of the first update relative to the weights, for matrices.

    Matrices with a gradient of 0 are not judged: behind a head or a gate that starts at 0 by design
    the first update is weight decay alone. A single matrix is a finding only when it also stands
    apart from the median matrix: small weights next to large ones are normal (std
    0.02 / sqrt(2 * 96) in the residual projections of GPT-3 against 0.02 elsewhere is a factor of
    14).

    Attributes:
        low: Smallest useful ratio.
        high: Largest useful ratio.
        relative: Factor from the median that a single matrix must have as well.
    """

    low: float = 1e-4
    high: float = 0.1
    relative: float = 20.0

    id: ClassVar[str] = "update-ratio"
    source: ClassVar[str] = "about 1e-3 (Karpathy, makemore 3); band 1e-4..1e-1 of TheDeepChecker"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge all matrices together, or those that stand apart."""
        matrices = [p for p in evidence.parameters.values() if p.is_matrix]
        reached = [p for p in matrices if p.gradient is not None and p.gradient.rms > 0]
        ratios = {p.name: p.update_ratio for p in reached}
        known = {name: r for name, r in ratios.items() if r is not None and math.isfinite(r)}
        if not known:
            return
        typical = median(known.values())
        whole_model = not self.low <= typical <= self.high
        bad = {
            name: ratio
            for name, ratio in known.items()
            if not self.low <= ratio <= self.high
            and (whole_model or self._apart(ratio, typical) > self.relative)
        }
        if not bad:
            return
        where = max(bad, key=lambda name: self._apart(bad[name], 1e-3))
        ratio = bad[where]
        yield self.finding(
            "warning",
            where,
            ratio,
            self.high if ratio > self.high else self.low,
            cause=f"the first step changes {len(bad)} of {len(known)} matrices by a share outside "
            f"{self.low:g}..{self.high:g}; median {number(typical)}",
            fix="lower the learning rate or warm it up"
            if ratio > self.high
            else "raise the learning rate, or lower the std of these weights",
            also=tuple(name for name in bad if name != where),
        )

    @staticmethod
    def _apart(ratio: float, typical: float) -> float:
        """Return the factor between two ratios, >= 1."""
        return max(ratio / typical, typical / ratio) if ratio > 0 and typical > 0 else math.inf
