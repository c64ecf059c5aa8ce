"""Rules on the gradients of parameters and on the first update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from initstats.diagnostics.batch_norms import growth_by_batch_norms
from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.findings import AuditRule, Finding, Severity
from initstats.text import number


@dataclass(frozen=True)
class GradientRatio(AuditRule):
    """Ratio of the weight gradients of the first block to the last block.

    Weight gradients may be small by design (a branch scaled by 1e-6 as in ConvNeXt), so they only
    count as vanished when the gradient of the block's output has vanished too. Batch norms make
    gradients grow by themselves: what they explain is no error (ConvMixer: a ratio of 3200).

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
            # Zeros wait for something that starts at 0: zero-gradient judges them.
            if 0 < ratio < self.low and first.rms < self.tiny and faded:
                fix = "raise the gain of the weights, or add residual paths or normalisation"
                yield self.finding("error", series.layers[0], ratio, self.low, cause=cause, fix=fix)
            elif ratio > self.high:
                severe = max(self.severe, math.exp(growth_by_batch_norms(evidence, series)))
                severity: Severity = "error" if ratio > severe else "warning"
                fix = "lower the gain of the weights, or add normalisation"
                yield self.finding(
                    severity, series.layers[0], ratio, self.high, cause=cause, fix=fix
                )


@dataclass(frozen=True)
class UpdateRatio(AuditRule):
    """Size of the first update relative to the weights, for matrices.

    Matrices that the optimizer does not hold are the business of optimizer-parameters.
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
        matrices = [p for p in evidence.parameters.values() if p.is_matrix and p.held]
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


@dataclass(frozen=True)
class GradientSpread(AuditRule):
    """Weight gradients of very different size in the blocks of one stack.

    Without a stack layers are compared, some of which stand in branches that are small by design:
    FocalNet multiplies three of them, and SwiftFormer scales its branches by 1e-5. Then it is never
    worse than a warning in a model with norms.

    Attributes:
        factor: Largest useful ratio between two blocks.
        severe: Ratio that is an error.
        signal: Ratio of the gradients of the outputs that must be there as well: weight gradients
            alone may differ by design (a branch scaled by 1e-6 as in ConvNeXt).
    """

    factor: float = 300.0
    severe: float = 1e5
    signal: float = 10.0

    id: ClassVar[str] = "gradient-spread"
    source: ClassVar[str] = "Glorot and Bengio 2010, section 4.2: equal gradients across layers"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the blocks of every series with their median."""
        for series in evidence.series:
            sizes, signals = {}, []
            for name in series.layers:
                layer = evidence.layers[name]
                record, signal = layer.weight_gradient, layer.output_gradient
                if record is not None and 0 < record.rms < math.inf:
                    sizes[name] = record.rms
                    if signal is not None and signal.l2 > 0:
                        signals.append(signal.l2)
            if len(signals) < 3:  # noqa: PLR2004  # nothing to stand out from
                continue
            usual = median(sizes.values())
            factors = {name: max(size / usual, usual / size) for name, size in sizes.items()}
            spread = max(sizes.values()) / min(sizes.values())
            if spread > self.factor and max(signals) > self.signal * min(signals):
                where = max(factors, key=lambda name: factors[name])
                known = series.name != "layers" or not evidence.normalised
                yield self.finding(
                    "error" if spread > self.severe and known else "warning",
                    where,
                    spread,
                    self.factor,
                    cause=f"weight gradients have rms {number(min(sizes.values()))} to "
                    f"{number(max(sizes.values()))} over {len(sizes)} layers; {where} has "
                    f"{number(sizes[where])}, the median is {number(usual)}",
                    fix="give all blocks the same gain, and normalise or add residual paths",
                )
