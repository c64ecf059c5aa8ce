"""Rules on units: dead ones, saturated ones, and biases that drown the signal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from initstats.diagnostics.evidence import Evidence, LayerReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.diagnostics.unit_records import UnitRecords
from initstats.statistics.record import Stats
from initstats.text import number

_RECTIFIERS = ("relu", "relu6")
# A smooth rectifier passes nothing on where its input is far below 0 and its output this small. At
# 0 it passes half of a change on, however small its output is.
_SMOOTH = ("gelu", "silu", "swish", "newgelu", "mish")
_NOTHING = 1e-3
_FAR_BELOW = -2.0


@dataclass(frozen=True)
class DeadUnits(AuditRule):
    """Units behind a rectifier that are 0 on the whole batch, so that nothing trains them.

    Deep plain ReLU networks map all inputs to one direction, and then up to half of the units are 0
    for every example without being dead for good; hence the high thresholds. Units whose layer gets
    zeros only wait for a branch that starts at 0, such as the squeeze and excitation of a block
    whose last norm does; if they wait in vain, zero-gradient tells.

    Attributes:
        share: Share of dead units in a layer that is a finding.
        severe: Share that is an error.
        fewest: Number of values per unit below which nothing is judged.
    """

    share: float = 0.6
    severe: float = 0.8
    fewest: int = 8

    id: ClassVar[str] = "dead-units"
    source: ClassVar[str] = "SageMaker DeadRelu and TheDeepChecker: more than half of a layer"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Count the dead units of every rectifier."""
        shares = {}
        for layer in evidence.layers.values():
            judged = [units for units in layer.units if units.count >= self.fewest]
            if (_is(layer, _RECTIFIERS) or _is(layer, _SMOOTH)) and not _waits(evidence, layer):
                dead = [float(_dead(layer, units).float().mean()) for units in judged]
                if dead and max(dead) > self.share and _can_be_dead(layer, max(dead)):
                    shares[layer.name] = max(dead)
        if not shares:
            return
        where = next(iter(shares))  # what comes after it is often dead because of it
        layer = evidence.layers[where]
        maker = next((name for name in layer.producers if name in evidence.layers), "")
        before = evidence.layers.get(maker)
        mean = (
            ""
            if before is None
            else (
                f"; {maker} hands it values of mean {number(before.activation.mean)} and std "
                f"{number(before.activation.std)}"
            )
        )
        others = tuple(name for name in (where, *shares) if name != (maker or where))
        yield self.finding(
            "error" if shares[where] > self.severe else "warning",
            maker or where,
            shares[where],
            self.share,
            cause=f"{shares[where]:.0%} of the units of {where} are 0 on the whole batch{mean}",
            fix="start the bias before it at 0 and its weights with gain sqrt(2), and normalise "
            "the input",
            also=tuple(dict.fromkeys(others)),
        )


@dataclass(frozen=True)
class SaturatedUnits(AuditRule):
    """Tanh, sigmoid and softmax in their flat range, where gradients vanish.

    A tanh is flat above |x| = 2 (0.964), a sigmoid above 4 (0.982); a softmax when each row looks
    at a single place.

    Attributes:
        share: Share of saturated values that is a finding.
        severe: Share that is an error.
        logits: Std of attention logits that is a finding.
        severe_logits: Std of attention logits that is an error.
        peak: Mean over rows of the sum of squared attention weights that is a finding.
    """

    share: float = 0.4
    severe: float = 0.75
    logits: float = 8.0
    severe_logits: float = 20.0
    peak: float = 0.8

    id: ClassVar[str] = "saturated-units"
    source: ClassVar[str] = (
        "share of tanh above 0.97 (Karpathy, makemore 3); attention logits: arXiv 2309.14322"
    )

    _FLAT: ClassVar[dict[str, float]] = {"tanh": 2.0, "sigmoid": 4.0}

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge every layer, and report the worst of each kind."""
        found: list[tuple[float, float, LayerReport, str]] = []
        for layer in evidence.layers.values():
            edge = self._FLAT.get(layer.kind.lower())
            if edge is not None and layer.input is not None and layer.input.count:
                share = 1.0 - layer.input.fraction_below(edge)
                what = f"{share:.0%} of its inputs are above {edge:g} in size"
                found.append((share / self.share, share, layer, what))
        yield from self._worst(found, self.share, self.severe, _FLAT_FIX)
        logits = [
            (layer.logits.std / self.logits, layer.logits.std, layer)
            for layer in evidence.layers.values()
            if layer.logits is not None and layer.logits.std is not None
        ]
        # The norms of queries and keys have a say in training, and products of normalised vectors
        # end at their width: Gemma 4 starts with logits of std sqrt(512), and trains.
        normalised = all(
            c.logits is not None and c.logits.normalised for a, _, c in logits if a > 1
        )
        yield from self._worst(
            [(a, b, c, f"the logits have std {number(b)}") for a, b, c in logits],
            self.logits,
            math.inf if normalised else self.severe_logits,
            _LOGITS_FIX,
        )
        peaks = [
            (layer.logits.peak / self.peak, layer.logits.peak, layer)
            for layer in evidence.layers.values()
            if layer.logits is not None and layer.logits.peak is not None
        ]
        yield from self._worst(
            [(a, b, c, f"each row puts {b:.0%} of its weight on one place") for a, b, c in peaks],
            self.peak,
            math.inf,
            _LOGITS_FIX,
        )

    def _worst(
        self,
        found: list[tuple[float, float, LayerReport, str]],
        limit: float,
        severe: float,
        fix: str,
    ) -> Iterator[Finding]:
        """Report the layers above a limit as one finding, at the one that is most above."""
        bad = [entry for entry in found if entry[0] > 1 and math.isfinite(entry[1])]
        if not bad:
            return
        _, value, layer, what = max(bad, key=lambda entry: entry[0])
        makers = [name for name in layer.producers if name]
        names = (*makers, *(entry[2].name for entry in bad))
        yield self.finding(
            "error" if value > severe else "warning",
            layer.name,
            value,
            limit,
            cause=f"{layer.name}: {what}, where it is flat and passes hardly a gradient on",
            fix=fix,
            also=tuple(dict.fromkeys(name for name in names if name != layer.name)),
        )


@dataclass(frozen=True)
class BiasScale(AuditRule):
    """Biases larger than the contribution of the weights: all inputs look alike behind them.

    The last layer is left out (its bias may hold the frequencies of the classes); in recurrent
    layers, and in those whose output multiplies others, only what shuts a gate is a finding (a
    forget bias of 1 is usual, and so is the bias of 1 that opens the spatial gate of a gMLP).

    Attributes:
        ratio: Rms of a bias / rms over units of the std over examples that is a finding.
        least: Rms of a bias below which nothing is found.
        severe: Ratio, or multiple of `gate`, that is an error.
        gate: Size of a bias of such a layer that shuts or opens a gate for good (chrono
            initialisation reaches ln(3000) for sequences of 3000).
    """

    gate: float = 8.0
    ratio: float = 1.5
    least: float = 0.5
    severe: float = 10.0

    id: ClassVar[str] = "bias-scale"
    source: ClassVar[str] = (
        "biases of 0 in Glorot 2010 and He 2015; torch.nn.Linear: 1/sqrt(fan_in)"
    )

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare every bias with the spread over examples of its summand."""
        layers = [layer for layer in evidence.layers.values() if layer.matrix is not None]
        gates = {
            p.name: p.weight.abs_max
            for p in evidence.parameters.values()
            if p.is_bias and self.gate < p.weight.abs_max < math.inf
            if p.role == "recurrent" or _is_gate(evidence, p.layer)
        }
        ratios = {name: size / self.gate for name, size in gates.items()}
        for layer in layers[:-1]:
            bias = next((p for p in layer.parameters if p.is_bias), None)
            if bias is None or not layer.units or bias.role in {"recurrent", "gate"}:
                continue
            if layer.is_gate or (layer.matrix is not None and layer.matrix.weight.abs_max == 0):
                continue  # of weights that start at 0 the bias is the output that was chosen
            spread = float(layer.units[0].std.double().square().mean().sqrt())
            if bias.weight.rms > self.least and bias.weight.rms > self.ratio * spread:
                ratios[bias.name] = bias.weight.rms / spread if spread > 0 else math.inf
        if not ratios:
            return
        where = max(ratios, key=lambda name: ratios[name])
        rms = evidence.parameters[where].weight.rms
        yield self.finding(
            "error" if ratios[where] > self.severe else "warning",
            where,
            gates.get(where, ratios[where]),
            self.gate if where in gates else self.ratio,
            cause=f"{where} has rms {number(rms)} and values up to "
            f"{number(evidence.parameters[where].weight.abs_max)}: it drowns what the weights make "
            "of the examples",
            fix="fill biases with 0",
            also=tuple(name for name in ratios if name != where),
        )


_FLAT_FIX = "lower the gain of the weights before it (5/3 for tanh, 1 for sigmoid), or normalise"
_LOGITS_FIX = "lower the std of the query and key weights, or normalise queries and keys"


def _is(layer: LayerReport, kinds: tuple[str, ...]) -> bool:
    """Tell whether a layer is a non-linearity of one of these kinds."""
    kind = layer.kind.lower().removesuffix("activation")
    return kind in kinds


def _is_gate(evidence: Evidence, name: str) -> bool:
    """Tell whether the output of a layer multiplies other activations."""
    layer = evidence.layers.get(name)
    return layer is not None and layer.is_gate


def _waits(evidence: Evidence, layer: LayerReport) -> bool:
    """Tell whether nothing but zeros enters a non-linearity, or the layers that make its input."""
    makers = [evidence.layers[name] for name in layer.producers if name in evidence.layers]
    inputs = [maker.input for maker in makers if maker.input is not None]
    behind = bool(inputs) and len(inputs) == len(layer.producers)
    return _is_zero(layer.input) or (behind and all(_is_zero(record) for record in inputs))


def _is_zero(record: Stats | None) -> bool:
    """Tell whether all values of a record are 0."""
    return record is not None and record.count > 0 and record.zero == record.count


def _can_be_dead(layer: LayerReport, share: float) -> bool:
    """Tell whether enough inputs are where a rectifier is flat for a share of its units."""
    if _is(layer, _RECTIFIERS) or layer.input is None:
        return True
    makers = max(1, len(layer.units))  # the units of one of them may be dead
    return layer.input.quantile(share / makers) <= _FAR_BELOW


def _dead(layer: LayerReport, units: UnitRecords) -> Tensor:
    """Tell which units are dead, [units]."""
    if _is(layer, _RECTIFIERS):
        return units.zero == 1
    return (units.min > -_NOTHING) & (units.max <= 0)
