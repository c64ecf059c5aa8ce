"""Rules on what enters the loss: shapes that broadcast, and activations on scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.dataflow import LossInputReport
from initstats.diagnostics.evidence import Evidence, LayerReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.statistics.record import Stats
from initstats.text import number


@dataclass(frozen=True)
class BroadcastLoss(AuditRule):
    """Predictions and targets of different shapes, which a loss broadcasts against each other.

    An error where every prediction is compared with the targets of other examples, as [n, 1]
    against [n]; else a warning.
    """

    id: ClassVar[str] = "loss-broadcast"
    source: ClassVar[str] = "torch.nn.functional.mse_loss warns: different target and input size"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the shapes."""
        for call in evidence.loss_inputs:
            if call.name in _OWN_SHAPES or call.shape == call.target_shape:
                continue
            pairs = math.prod(call.joint_shape)
            yield self.finding(
                "error" if call.is_outer else "warning",
                "loss",
                float(pairs),
                float(math.prod(call.shape)),
                cause=f"{call.name} gets predictions of shape {list(call.shape)} and targets of "
                f"shape {list(call.target_shape)}: they broadcast to {pairs} pairs",
                fix="give both one shape, with squeeze(-1) or unsqueeze(-1)",
            )
            return


@dataclass(frozen=True)
class ScoreActivation(AuditRule):
    """An activation at the end of a model, between the scores and their loss.

    Scores of a cross-entropy may take any value. Predictions of a regression are judged where the
    activation cannot return the targets.

    Attributes:
        zeros: Share of scores that are exactly 0 while none is negative.
        outside: Share of the range of the targets that the activation cannot return.
    """

    zeros: float = 0.1
    outside: float = 0.1

    id: ClassVar[str] = "score-activation"
    source: ClassVar[str] = "torch.nn.functional.cross_entropy takes unnormalised scores"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare what enters the loss with the outputs of activations."""
        calls = evidence.loss_inputs
        if any(call.name in _TAKE_SCORES for call in calls):
            calls = tuple(call for call in calls if call.name != "log_softmax")
        for call in calls:
            if call.scores is None or not call.scores.count or call.scores.min == call.scores.max:
                continue  # a head that starts at 0
            layer = _activation_of(evidence, call.scores)
            if call.name in {*_TAKE_SCORES, "log_softmax"}:
                yield from self._judge_scores(call, call.scores, layer)
            elif call.name in _COMPARE and layer is not None and call.target is not None:
                yield from self._judge_range(call, layer, call.target)

    def _judge_scores(
        self, call: LossInputReport, scores: Stats, layer: LayerReport | None
    ) -> Iterator[Finding]:
        """Judge scores; softmax and sigmoid are the business of double-softmax."""
        kind = "" if layer is None else layer.kind.lower()
        classes = call.shape[min(1, len(call.shape) - 1)]
        # Along another axis they do not add up to 1.
        again = (kind == "softmax" and abs(scores.mean * classes - 1) < _ADDS_UP) or (
            kind == "sigmoid" and call.name.startswith("binary")
        )
        rectified = scores.min == 0 and scores.zero > self.zeros * scores.count
        bent = layer is None and call.made_by in _BENT and scores.min >= 0
        if again or (layer is None and not rectified and not bent):
            return
        made = call.made_by.lower() if bent and call.made_by else "a rectifier"
        what = made if layer is None else f"{layer.name} ({layer.kind})"
        share = scores.zero / scores.count
        yield self.finding(
            "warning",
            "loss" if layer is None else layer.name,
            scores.min,
            -math.inf,
            cause=f"the scores that enter {call.name} come from {what}: they lie in "
            f"[{number(scores.min)}, {number(scores.max)}], and {share:.0%} are exactly 0",
            fix="remove the activation at the end of the model",
        )

    def _judge_range(
        self, call: LossInputReport, layer: LayerReport, target: Stats
    ) -> Iterator[Finding]:
        """Judge predictions."""
        low, high = _RANGES.get(layer.kind.lower(), (-math.inf, math.inf))
        width = target.max - target.min
        beyond = max(low - target.min, target.max - high, 0.0)
        if not width > 0 or beyond <= self.outside * width:
            return
        yield self.finding(
            "warning",
            layer.name,
            beyond,
            self.outside * width,
            cause=f"{layer.name} ({layer.kind}) returns values in [{number(low)}, {number(high)}], "
            f"and the targets of {call.name} lie in [{number(target.min)}, {number(target.max)}]",
            fix="remove the activation at the end of the model, or scale the targets",
        )


# Targets of these have one dimension less, or are checked by torch.
_OWN_SHAPES = frozenset(
    {
        "cross_entropy",
        "nll_loss",
        "log_softmax",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
    }
)
_BENT = frozenset({"Abs", "Exp", "Pow", "Sqrt", "Clamp", "ClampMin"})  # as autograd calls them
_ADDS_UP = 1e-4  # as in double-softmax
_TAKE_SCORES = frozenset({"cross_entropy", "binary_cross_entropy_with_logits"})
_COMPARE = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_RANGES = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, math.inf),
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
}
_ACTIVATIONS = frozenset(
    {*_RANGES, "leaky_relu", "leakyrelu", "elu", "selu", "gelu", "silu", "mish", "hardtanh"}
    | {"hardsigmoid", "hardswish", "celu", "prelu", "softsign", "logsigmoid", "threshold"}
)


def _activation_of(evidence: Evidence, scores: Stats) -> LayerReport | None:
    """Return the activation whose output scores are, None when they are of something else."""
    for layer in reversed(list(evidence.layers.values())):
        x = layer.activation
        same = (x.count, x.mean, x.min, x.max) == (
            scores.count,
            scores.mean,
            scores.min,
            scores.max,
        )
        if same and layer.kind.lower().removesuffix("activation") in _ACTIVATIONS:
            return layer
    return None
