"""Rules on low precision: updates and gradients that round to zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.statistics.record import Stats

_LOW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
# The smallest normal number of each type: below it digits are lost, and soon everything.
_SMALLEST_NORMAL = {
    "float16": 2.0**-14,
    "bfloat16": 2.0**-126,
    "float8_e4m3fn": 2.0**-6,
    "float8_e5m2": 2.0**-14,
}
# Half of the smallest number of float16: smaller values round to 0.
_FLOAT16_ZERO = 2.0**-25


@dataclass(frozen=True)
class LostUpdate(AuditRule):
    """Weights in low precision that the first update does not change, because it rounds away.

    Attributes:
        share: Share of the values of a matrix that stay the same although gradients arrive.
        severe: Share that is an error.
    """

    share: float = 0.5
    severe: float = 0.9

    id: ClassVar[str] = "lost-update"
    source: ClassVar[str] = "bfloat16 has 8 significant bits: w + d = w for d < 2^-9 w"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Count what stays the same in matrices that have a gradient."""
        lost = {}
        for p in evidence.parameters.values():
            if p.dtype not in _LOW or p.update is None or p.gradient is None or not p.is_matrix:
                continue
            reached = p.gradient.count - p.gradient.zero
            changed = p.update.count - p.update.zero
            if reached > 0 and 1 - changed / reached > self.share:
                lost[p.name] = 1 - changed / reached
        if not lost:
            return
        where = max(lost, key=lambda name: lost[name])
        dtype = evidence.parameters[where].dtype
        yield self.finding(
            "error" if lost[where] > self.severe else "warning",
            where,
            lost[where],
            self.share,
            cause=f"the first update leaves {lost[where]:.0%} of {where} as it was: it is smaller "
            f"than the spacing of {dtype}",
            fix="keep the weights in float32 (autocast casts them), use stochastic rounding, or "
            "raise the learning rate",
            also=tuple(name for name in lost if name != where),
        )


@dataclass(frozen=True)
class Underflow(AuditRule):
    """Gradients or activations too small for their type, or for float16 if it were used.

    Attributes:
        share: Share of a tensor below the smallest normal number of its own type.
        severe: Share that is an error.
        would: Share of a gradient that would round to 0 in float16, and share of layers where it
            is so, for a hint.
    """

    share: float = 0.3
    severe: float = 0.6
    would: float = 0.5

    id: ClassVar[str] = "underflow"
    source: ClassVar[str] = "Micikevicius et al. 2018, Mixed precision training, section 3.2"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge tensors in low precision; of float32 only say what float16 would lose."""
        small: dict[str, float] = {}
        for name, dtype, record in self._records(evidence):
            if dtype in _LOW:
                share = _below(record, _SMALLEST_NORMAL[dtype])
                if share > self.share:
                    small[name] = max(share, small.get(name, 0.0))
        if small:
            where = max(small, key=lambda name: small[name])
            yield self.finding(
                "error" if small[where] > self.severe else "warning",
                where,
                small[where],
                self.share,
                cause=f"{small[where]:.0%} of the values other than 0 are below the smallest "
                "normal number of their type",
                fix="scale the loss (torch.amp.GradScaler), use bfloat16, or raise the std of "
                "the weights",
                also=tuple(name for name in small if name != where),
            )
            return
        shares = {
            layer.name: layer.output_gradient.fraction_below(_FLOAT16_ZERO)
            - layer.output_gradient.zero / layer.output_gradient.count
            for layer in evidence.layers.values()
            if layer.dtype == "float32" and layer.output_gradient is not None
            if layer.output_gradient.count > layer.output_gradient.nan
        }
        lost = {name: share for name, share in shares.items() if share > self.would}
        if len(lost) > self.would * len(shares):
            where = max(lost, key=lambda name: lost[name])
            yield self.finding(
                "info",
                where,
                lost[where],
                self.would,
                cause=f"{lost[where]:.0%} of its gradient would round to 0 in float16",
                fix="with float16 scale the loss (torch.amp.GradScaler); bfloat16 needs nothing",
                also=tuple(name for name in lost if name != where),
            )

    @staticmethod
    def _records(evidence: Evidence) -> Iterator[tuple[str, str, Stats]]:
        """List the gradients with the places and types they belong to."""
        for layer in evidence.layers.values():
            if layer.output_gradient is not None and layer.output_gradient.count:
                yield layer.name, layer.dtype, layer.output_gradient
        for p in evidence.parameters.values():
            if p.gradient is not None and p.gradient.count:
                yield p.name, p.dtype, p.gradient


def _below(record: Stats, edge: float) -> float:
    """Return the share of values below an edge among those that are not 0."""
    rest = record.count - record.nan - record.zero
    return (
        (record.fraction_below(edge) * (record.count - record.nan) - record.zero) / rest
        if rest
        else 0.0
    )
