"""Rules on the loss: its first value, its first steps, and how it is reduced."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence, LayerReport
from initstats.diagnostics.findings import AuditRule, Finding, Severity
from initstats.diagnostics.heads import head_drawn_by_fan_out
from initstats.statistics.record import Stats
from initstats.text import number


@dataclass(frozen=True)
class InitialLoss(AuditRule):
    """First cross-entropy far from a uniform guess, ln C.

    Never an error where the head is drawn by its number of outputs: MnasNet of torchvision and DLA
    of timm start so with ten classes (13.2 and 7.9 instead of 2.3), and train.

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
        by_classes = head_drawn_by_fan_out(evidence)
        for call in evidence.loss.cross_entropies:
            if call.uniform == 0 or not math.isfinite(call.value):
                continue
            limit = call.uniform + self.excess
            measured = (
                f"cross-entropy {number(call.value)} before training, uniform guess "
                f"ln({call.classes}) = {number(call.uniform)}"
            )
            if call.value > limit:
                # In a batch of pairs every other pair is a class, and their temperature is high.
                severe = call.value > self.severe * call.uniform and not call.in_batch
                severity: Severity = "error" if severe and by_classes is None else "warning"
                fix = (
                    "lower the std of the head (and of an embedding tied to it)"
                    if by_classes is None
                    else f"draw {by_classes.name} by its number of inputs: by that of its outputs "
                    "it is the larger, the fewer classes there are"
                )
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
class LossReduction(AuditRule):
    """A loss that sums over examples, so that its gradient grows with the batch.

    Found where the loss comes from a function of torch with reduction="sum", or where the
    losses of the halves of the batch add up to the whole. Not where the examples of the
    batch are the classes: then its size changes the loss (twice ln 2 is ln 4).

    Attributes:
        tolerance: Relative difference up to which halves add up.
    """

    tolerance: float = 0.05

    id: ClassVar[str] = "loss-reduction"
    source: ClassVar[str] = "TheDeepChecker: the loss must not scale with the batch"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Look at the reduction of the loss functions, then at the halves."""
        loss = evidence.loss
        fix = "average over examples (reduction='mean'), or divide by the number of targets"
        for call in loss.calls:
            if call.reduction == "sum" and call.targets > 1 and _same(call.value, loss.values[0]):
                yield self.finding(
                    "error",
                    "loss",
                    loss.values[0],
                    call.value / call.targets,
                    cause=f"{call.name} adds up {call.targets} targets: {number(call.value)} is "
                    f"{number(call.value / call.targets)} per target",
                    fix=fix,
                )
                return
        contrastive = any(call.in_batch for call in loss.cross_entropies)
        if not contrastive and len(loss.halves) == 3 and math.isfinite(sum(loss.halves)):  # noqa: PLR2004
            whole, first, second = loss.halves
            size = abs(whole)
            if size > 0 and abs(first + second - whole) < self.tolerance * size:
                yield self.finding(
                    "error",
                    "loss",
                    whole,
                    (first + second) / 2,
                    cause=f"the halves of the batch have losses {number(first)} and "
                    f"{number(second)}, the whole has {number(whole)}: it is a sum",
                    fix=fix,
                )


@dataclass(frozen=True)
class LossSign(AuditRule):
    """A loss with the wrong sign, or an optimizer that climbs.

    Attributes:
        near: Relative distance from -ln C at which a loss of no function of torch is a
            log-likelihood.
    """

    near: float = 0.35

    id: ClassVar[str] = "loss-sign"
    source: ClassVar[str] = "a cross-entropy and a mean square are never negative"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the loss with the return values of torch's loss functions."""
        loss = evidence.loss
        fix = "minimise the loss itself: loss.backward() with maximize=False"
        negated = [c for c in loss.calls if c.value > 0 and _same(-c.value, loss.values[0])]
        if negated:
            cause = f"the loss is {number(loss.values[0])}, minus what {negated[0].name} returned"
            yield self.finding("error", "loss", loss.values[0], 0.0, cause=cause, fix=fix)
            return
        for classes in loss.log_softmaxes if not loss.calls else ():
            expected = math.log(max(classes, 2))
            if abs(loss.values[0] + expected) < self.near * expected:
                cause = (
                    f"the loss is {number(loss.values[0])}, minus the {number(expected)} nats of a "
                    f"uniform guess among {classes}: a log-likelihood is minimised"
                )
                yield self.finding("error", "loss", loss.values[0], 0.0, cause=cause, fix=fix)
                return
        if loss.maximised and all(value >= 0 for value in loss.values):
            cause = "the optimizer has maximize=True, so that every step raises the loss"
            yield self.finding("error", "loss", loss.values[-1], 0.0, cause=cause, fix=fix)


@dataclass(frozen=True)
class DoubleSoftmax(AuditRule):
    """Probabilities where a cross-entropy expects scores: its gradients are tiny.

    Attributes:
        tolerance: Relative difference of the mean from 1 / C up to which rows add up to 1.
    """

    tolerance: float = 1e-4

    id: ClassVar[str] = "double-softmax"
    source: ClassVar[str] = "UMLAUT: extra softmax; torch.nn.functional.cross_entropy takes logits"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Look at the range and the mean of the scores."""
        for call in evidence.loss.calls:
            scores = call.scores
            if scores is None or call.classes is None or not scores.count:
                continue
            if call.name.startswith("binary"):
                if any(_is_sigmoid_of(layer, scores) for layer in evidence.layers.values()):
                    yield self.finding(
                        "error",
                        "loss",
                        scores.max,
                        1.0,
                        cause=f"the input of {call.name} lies in [{number(scores.min)}, "
                        f"{number(scores.max)}]: it went through a sigmoid already",
                        fix="remove the sigmoid at the end of the model",
                    )
                continue
            sums = scores.mean * call.classes
            if scores.min >= 0 and scores.max <= 1 and abs(sums - 1) < self.tolerance:
                yield self.finding(
                    "error",
                    "loss",
                    scores.max,
                    1.0,
                    cause=f"the input of cross_entropy lies in [{number(scores.min)}, "
                    f"{number(scores.max)}] and adds up to 1: it went through a softmax already",
                    fix="remove the softmax at the end of the model",
                )


def _is_sigmoid_of(layer: LayerReport, scores: Stats) -> bool:
    """Tell whether scores are the output of a sigmoid."""
    record = layer.activation
    if "sigmoid" not in layer.kind.lower() or record.count != scores.count:
        return False
    return (record.mean, record.min, record.max) == (scores.mean, scores.min, scores.max)


def _same(first: float, second: float) -> bool:
    """Tell whether two losses are one number, up to the rounding of low precision."""
    return math.isfinite(first) and abs(first - second) <= 1e-2 * abs(second)
