"""Rules on the signal that flows through a model: activations, and gradients on the way back."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from initstats.diagnostics.batch_norms import growth_by_batch_norms
from initstats.diagnostics.depth import Series
from initstats.diagnostics.evidence import Evidence, LayerReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.diagnostics.heads import head, head_drawn_by_fan_out
from initstats.statistics.record import Stats
from initstats.text import number


@dataclass(frozen=True)
class NotFinite(AuditRule):
    """NaN or infinity in weights, activations or gradients; names where it begins.

    A mask writes -inf, which the softmax after it turns into 0. So activations of -inf are none
    while they are all that is not finite, and values beside them are too small for an overflow.
    """

    id: ClassVar[str] = "not-finite"
    source: ClassVar[str] = "transformers DebugUnderflowOverflow: name the first layer"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find the first place, in the order weights, activations, gradients."""
        weights = [(p.name, p.weight) for p in evidence.parameters.values()]
        activations = [(layer.name, layer.activation) for layer in evidence.layers.values()]
        # Backward runs from the last layer to the first.
        gradients = [
            (layer.name, layer.output_gradient)
            for layer in reversed(list(evidence.layers.values()))
            if layer.output_gradient is not None
        ]
        elsewhere = any(_not_finite(record) for _, record in (*weights, *gradients))
        losses = evidence.loss.values[:1]  # of the same forward pass
        if not elsewhere and all(map(math.isfinite, losses)) and _only_masks(activations):
            return
        weight_fix = "initialise this parameter; after to_empty its memory is arbitrary"
        activation_fix = "look at the operation of this layer and at the scale of its input"
        gradient_fix = "look at the operation after this layer: division, sqrt or log at 0"
        for what, records, fix in (
            ("weights", weights, weight_fix),
            ("activations", activations, activation_fix),
            ("gradients", gradients, gradient_fix),
        ):
            bad = [(name, record) for name, record in records if _not_finite(record)]
            if bad:
                name, record = bad[0]
                cause = (
                    f"{what}: {record.nan} NaN and {record.pos_inf + record.neg_inf} infinite of "
                    f"{record.count} values, and {len(bad) - 1} more places after it"
                )
                also = tuple(other for other, _ in bad[1:])
                value = float(_not_finite(record))
                yield self.finding("error", name, value, 0.0, cause=cause, fix=fix, also=also)
                return


@dataclass(frozen=True)
class ActivationScale(AuditRule):
    """Huge activations in the first half of the layers.

    Attributes:
        limit: Largest absolute value that is normal.
        relative: How far it must be above the median layer to be an error.
    """

    limit: float = 1000.0
    relative: float = 100.0

    id: ClassVar[str] = "activation-scale"
    source: ClassVar[str] = "float16 ends at 65504: 1000 in early layers leaves no room for growth"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the largest values of early layers with the limit and the median layer."""
        layers = list(evidence.layers.values())
        early = layers[: math.ceil(len(layers) / 2)]
        bad = [layer for layer in early if self.limit < layer.activation.abs_max < math.inf]
        if not bad:
            return
        typical = median(layer.activation.abs_max for layer in layers)
        worst = max(bad, key=lambda layer: layer.activation.abs_max)
        value = worst.activation.abs_max
        severe = value > self.relative * typical
        yield self.finding(
            "error" if severe else "warning",
            worst.name,
            value,
            self.limit,
            cause=f"largest activation {number(value)}, median over layers {number(typical)}",
            fix="scale the input, or lower the std of the weights up to this layer",
            also=tuple(layer.name for layer in bad if layer is not worst),
        )


@dataclass(frozen=True)
class ActivationStd(AuditRule):
    """Activations whose spread is out of the useful range.

    A model with normalisation layers is free in the scale of its residual stream, so there only
    the scores that enter the cross-entropy are judged, and only for being too large. Without
    normalisation every hidden layer is judged, relative to the first one.

    Attributes:
        low: Smallest useful standard deviation.
        high: Largest useful standard deviation.
        relative: Factor between a hidden layer and the first one that makes it a finding; times
            sqrt(L / relative) in more than `relative` layers (see DepthGrowth).
    """

    low: float = 0.1
    high: float = 5.0
    relative: float = 10.0

    id: ClassVar[str] = "activation-std"
    source: ClassVar[str] = "bands of TheDeepChecker and of the mean-field literature"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge the scores, and the hidden layers of a model without normalisation."""
        yield from self._scores(evidence)
        if not evidence.normalised:
            yield from self._hidden(evidence)

    def _scores(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge the last layer with a weight matrix when a cross-entropy follows it."""
        last = head(evidence)
        if last is None or not evidence.loss.cross_entropies:
            return
        std = last.activation.std
        if std > self.high:
            # A wrong guess with scores of std s costs about s^2 / 2 more than a uniform guess.
            costly = any(call.value > 2 * call.uniform for call in evidence.loss.cross_entropies)
            # As for initial-loss: MnasNet of torchvision with ten classes has scores of std 7.6.
            severe = costly and head_drawn_by_fan_out(evidence) is None
            matrix = last.matrix.name if last.matrix is not None else last.name
            weight_std = last.matrix.weight.std if last.matrix is not None else math.nan
            yield self.finding(
                "error" if severe else "warning",
                last.name,
                std,
                self.high,
                cause=f"scores have std {number(std)}: {matrix} has std {number(weight_std)}, so "
                "the untrained model is confident and wrong",
                fix="fill the head (and an embedding tied to it) with std 0.02 or 1/sqrt(width)",
            )

    def _hidden(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge every layer of every series against the first."""
        for series in evidence.series:
            layers = [evidence.layers[name] for name in series.layers]
            first = layers[0].activation.std
            limit = self.relative * max(1.0, math.sqrt(len(layers) / self.relative))
            apart = [self._factor(layer, first) > limit for layer in layers]
            # What later layers have not is on no path that all pass: a branch that starts small.
            lasting = len(apart) - apart[::-1].index(False) if False in apart else 0
            bad = layers[lasting:]
            if bad:
                worst = max(bad, key=lambda layer: self._factor(layer, first))
                std = worst.activation.std
                severe = self._factor(worst, first) > self.relative**2
                verb = "shrinks" if std < first else "grows"
                yield self.finding(
                    "error" if severe else "warning",
                    worst.name,
                    std,
                    self.low if std < first else self.high,
                    cause=f"the signal {verb} from std {number(first)} at {layers[0].name} to "
                    f"{number(std)}, and nothing normalises it",
                    fix="choose the gain for the non-linearity (sqrt(2) for ReLU, 5/3 for tanh), "
                    "or add normalisation",
                    also=tuple(layer.name for layer in bad if layer is not worst),
                )

    def _factor(self, layer: LayerReport, first: float) -> float:
        """Return the factor between a layer and the first; 1 inside the useful range."""
        std = layer.activation.std
        if self.low <= std <= self.high or not (first > 0 and math.isfinite(std)):
            return 1.0
        if _starts_at_zero(layer):
            return 1.0
        return math.inf if std == 0 else max(std / first, first / std)


@dataclass(frozen=True)
class DepthGrowth(AuditRule):
    """Base of the rules on a signal that grows or shrinks exponentially with depth.

    The growth exponent of a series of L layers is lambda = ln(size_last / size_first) / L. A sum
    of L independent residual branches may grow by sqrt(L) on top of `factor`, and a critical tanh
    network shrinks by about as much, so the limit is (ln factor + ln(L) / 2) / L. It is scale free;
    only the total change decides.

    Attributes:
        factor: Total change that is normal.
        severe: Total change that makes it an error.
    """

    factor: float = 10.0
    severe: float = 1000.0

    source: ClassVar[str] = "growth exponent of OLMo 2, arXiv 2501.00656"
    what: ClassVar[str]
    size: ClassVar[str]

    @abstractmethod
    def ends(
        self, evidence: Evidence, series: Series
    ) -> tuple[LayerReport, Stats | None, Stats | None]:
        """Return the last layer that the signal passes, and the records it starts and ends with."""

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge every series."""
        for series in evidence.series:
            layer, first, last = self.ends(evidence, series)
            if first is not None and last is not None:
                sizes = getattr(first, self.size), getattr(last, self.size)
                yield from self._judge(evidence, series, layer.name, *sizes)

    def is_path(self, _evidence: Evidence, _series: Series) -> bool:
        """Tell whether the signal is known to pass all layers of a series."""
        return True

    def own_growth(self, _evidence: Evidence, _series: Series) -> float:
        """Return the growth, in nats, that the layers of a series have by themselves."""
        return 0.0

    def _judge(
        self, evidence: Evidence, series: Series, where: str, first: float, last: float
    ) -> Iterator[Finding]:
        """Judge one series by the sizes at its two ends."""
        if not (0 < first < math.inf and 0 < last < math.inf):
            return
        length = len(series.layers)
        total = math.log(last / first)
        allowed = math.log(self.factor) + math.log(length) / 2
        if abs(total) <= allowed:
            return
        severe = max(math.log(self.severe), self.own_growth(evidence, series) if total > 0 else 0.0)
        verb, gain = ("grow", "lower") if total > 0 else ("shrink", "raise")
        stack = "" if series.name == "layers" else f" of {series.name}"
        yield self.finding(
            "error" if abs(total) > severe and self.is_path(evidence, series) else "warning",
            where,
            total / length,
            math.copysign(allowed / length, total),
            cause=f"{self.what} {verb} from {self.size} {number(first)} to {number(last)} over "
            f"{length} layers{stack}, by a factor of {math.exp(total / length):.3g} per layer",
            fix=f"{gain} the gain of the weights until a layer keeps the rms of its input; add "
            "normalisation, or residual paths with outputs scaled by 1/sqrt(2 L)",
        )


@dataclass(frozen=True)
class ActivationGrowth(DepthGrowth):
    """Activations that grow or shrink exponentially with depth."""

    id: ClassVar[str] = "activation-growth"
    what: ClassVar[str] = "activations"
    size: ClassVar[str] = "rms"

    def ends(
        self, evidence: Evidence, series: Series
    ) -> tuple[LayerReport, Stats | None, Stats | None]:
        """Return the last layer, and the first and the last output."""
        first, last = (evidence.layers[series.layers[i]] for i in (0, -1))
        return last, first.activation, last.activation


@dataclass(frozen=True)
class GradientGrowth(DepthGrowth):
    """Gradients of activations that grow or shrink exponentially on the way back.

    Compared by norm: where layers differ in size (the stages of a convolutional network), a layer
    that passes the gradient on keeps its norm, not its rms.
    """

    id: ClassVar[str] = "gradient-growth"
    what: ClassVar[str] = "gradients"
    size: ClassVar[str] = "l2"

    def ends(
        self, evidence: Evidence, series: Series
    ) -> tuple[LayerReport, Stats | None, Stats | None]:
        """Return the first layer, and the gradients of the last and of the first output."""
        first, last = (evidence.layers[series.layers[i]] for i in (0, -1))
        return first, last.output_gradient, first.output_gradient

    def own_growth(self, evidence: Evidence, series: Series) -> float:
        """Return what the batch norms of a series explain."""
        return growth_by_batch_norms(evidence, series)

    def is_path(self, evidence: Evidence, series: Series) -> bool:
        """Tell whether layers are blocks, or the layers of a model without norms.

        Others may stand in branches, as the gates of the linear attention of OLMo Hybrid.
        """
        return series.name != "layers" or not evidence.normalised


def _starts_at_zero(layer: LayerReport) -> bool:
    """Tell a layer whose weights are 0, as ControlNet's convolutions, or that gets only zeros."""
    weight = None if layer.matrix is None else layer.matrix.weight
    waits = layer.input is not None and 0 < layer.input.count == layer.input.zero
    return waits or (weight is not None and weight.abs_max == 0)


def _not_finite(record: Stats) -> int:
    """Return how many values of a record are NaN or infinite."""
    return int(record.nan + record.pos_inf + record.neg_inf)


def _only_masks(records: Iterable[tuple[str, Stats]]) -> bool:
    """Tell whether all that is not finite is what masks wrote."""
    return all(
        record.nan + record.pos_inf == 0 and record.abs_max < OVERFLOWN
        for _, record in records
        if _not_finite(record)
    )


# Beside an infinity that was computed there are values near the end of the dtype, 65504 in float16;
# beside one that was written there are scores: 4096 is 2^-4 of that end.
OVERFLOWN = 4096.0
