"""Rules on the inputs of a model and the output of its first layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence, LayerReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.statistics.record import Stats
from initstats.text import number


@dataclass(frozen=True)
class InputScale(AuditRule):
    """Inputs that are not normalised, constant, or not finite.

    Attributes:
        largest: Rms above which inputs are not normalised.
        smallest: Rms below which they are not.
        offset: |mean| / std above which they are not centred.
        severe: Rms that is an error when no norm follows the first layer.
    """

    largest: float = 10.0
    smallest: float = 0.01
    offset: float = 10.0
    severe: float = 30.0

    id: ClassVar[str] = "input-scale"
    source: ClassVar[str] = "LeCun et al. 1998, Efficient BackProp, section 4.3: mean 0, std 1"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge the input of the first layer with a weight matrix, unless a module made it.

        So is every tensor of the batch that enters such a layer as it is.
        """
        for layer in outside_layers(evidence):
            if layer.input is not None:
                yield from self._judged(evidence, layer, layer.input)

    def _judged(self, evidence: Evidence, first: LayerReport, record: Stats) -> Iterator[Finding]:
        """Judge the input of one layer."""
        fix = "subtract the mean and divide by the std of the training data"
        if record.nan + record.pos_inf + record.neg_inf:
            return  # the business of not-finite, which sees the first layer too
        if record.count > 1 and record.std == 0:
            cause = f"every value that enters {first.name} is {number(record.mean)}"
            yield self.finding(
                "error", first.name, record.mean, 0.0, cause=cause, fix="check the batch"
            )
            return
        size = record.rms
        off = abs(record.mean) / record.std if record.std > 0 else 0.0
        mean, std = number(record.mean), number(record.std)
        cause = f"the input of {first.name} has mean {mean}, std {std}"
        if not self.smallest <= size <= self.largest:
            severe = size > self.severe and not evidence.normalised
            limit = self.largest if size > self.largest else self.smallest
            yield self.finding(
                "error" if severe else "warning", first.name, size, limit, cause=cause, fix=fix
            )
        elif off > self.offset:
            yield self.finding("warning", first.name, off, self.offset, cause=cause, fix=fix)


@dataclass(frozen=True)
class FirstLayer(AuditRule):
    """A first layer whose output is far from N(0, 1), from an input that is not.

    A model of one layer may start at 0, as heads do.

    Attributes:
        low: Smallest useful ratio, rms of the output / rms of the input.
        high: Largest useful ratio.
    """

    low: float = 0.05
    high: float = 8.0

    id: ClassVar[str] = "first-layer"
    source: ClassVar[str] = "He et al. 2015, section 2.2: a layer keeps the variance of its input"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the output of the first layer with its input."""
        first = first_layer(evidence)
        if first is None or first.input is None or not 0 < first.input.rms < math.inf:
            return
        if first.matrix is not None and first.matrix.role == "recurrent":
            return  # its output went through gates
        ratio = first.activation.rms / first.input.rms
        if self.low <= ratio <= self.high or not math.isfinite(ratio):
            return
        matrix = first.matrix
        assert matrix is not None
        if ratio < self.low and sum(1 for x in evidence.layers.values() if x.matrix) == 1:
            return
        yield self.finding(
            "warning",
            first.name,
            ratio,
            self.high if ratio > self.high else self.low,
            cause=f"{first.name} turns an input of rms {number(first.input.rms)} into "
            f"{number(first.activation.rms)}; its weight has std {number(matrix.weight.std)}, and "
            f"1/sqrt(fan_in) is {number(matrix.fan_in**-0.5 if matrix.fan_in else math.nan)}",
            fix="fill its weight with std 1/sqrt(fan_in) or sqrt(2/fan_in)",
        )


def outside_layers(evidence: Evidence) -> list[LayerReport]:
    """Return the layers with a weight matrix into which a part of the batch goes as it is.

    The first layer is one of them also when its input was computed from the batch, unless a module
    did so.
    """
    first = first_layer(evidence)
    layers = [first] if first is not None else []
    for layer in evidence.layers.values():
        table = layer.matrix is None or layer.matrix.role in {"embedding", "position", "token"}
        if layer.from_batch and not table and not layer.is_block and layer is not first:
            layers.append(layer)
    return layers


def first_layer(evidence: Evidence) -> LayerReport | None:
    """Return the first layer with a weight matrix if its input comes from outside."""
    for layer in evidence.layers.values():
        if layer.matrix is None or layer.is_block:
            continue
        if layer.matrix.role in {"embedding", "position", "token"}:
            return None
        return layer if "" in layer.producers else None
    return None


@dataclass(frozen=True)
class DropoutShare(AuditRule):
    """Dropout that leaves too little.

    Attributes:
        share: Share of dropped values that is a finding.
        severe: Share that is an error.
    """

    share: float = 0.7
    severe: float = 0.9

    id: ClassVar[str] = "dropout"
    source: ClassVar[str] = "UMLAUT: dropout > 0.5; Srivastava et al. 2014: 0.5 in hidden layers"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the zeros behind every dropout with those before it."""
        shares = {
            layer.name: 1 - (1 - layer.zero_share) / (1 - layer.input.zero / layer.input.count)
            for layer in evidence.layers.values()
            if "Dropout" in layer.kind
            if layer.input is not None and layer.input.zero < layer.input.count
        }
        bad = {name: share for name, share in shares.items() if share > self.share}
        if bad:
            where = max(bad, key=lambda name: bad[name])
            yield self.finding(
                "error" if bad[where] > self.severe else "warning",
                where,
                bad[where],
                self.share,
                cause=f"{where} drops {bad[where]:.0%} of its input",
                fix="check whether p is meant to be the share that is kept",
                also=tuple(name for name in bad if name != where),
            )
