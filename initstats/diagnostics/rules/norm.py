"""Rules on normalisation layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.text import number

_ROUNDING = 1e-5  # std / size of a unit that is constant up to rounding


@dataclass(frozen=True)
class NormIdentity(AuditRule):
    """Normalisation layers that do not start as the identity.

    Gains of 1 everywhere, or 0 everywhere (the last norm of a residual branch; norms that multiply
    by 1 + gain), and biases of 0 are usual. Trained norms vary around a gain well above 0.

    Attributes:
        low: Mean gain below which a gain that varies is an error.
        high: Mean gain above which it is one.
        bias: Size of a bias that is an error.
        output: Rms of the output of a norm with equal gains that is a finding.
        around: Distance from 1 within which gains may vary (DCGAN draws them from N(1, 0.02^2)).
    """

    low: float = 0.2
    high: float = 5.0
    bias: float = 1.0
    output: float = 1.5
    around: float = 0.1

    id: ClassVar[str] = "norm-identity"
    source: ClassVar[str] = "Ioffe and Szegedy 2015, section 3: gain 1 and bias 0 at the start"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Look at the gain and the bias of every norm."""
        bad: dict[str, tuple[bool, str]] = {}
        norms = [p for p in evidence.parameters.values() if p.role == "norm" and p.trained]
        biased = {p.layer: p.weight.abs_max > 0 for p in norms if p.is_bias}
        zeros = sum(1 for p in norms if not p.is_bias and p.weight.abs_max == 0)
        gains = sum(1 for p in norms if not p.is_bias)
        for p in norms:
            mean, spread = p.weight.mean, p.weight.std if p.weight.count > 1 else 0.0
            layer = evidence.layers.get(p.layer)
            output = 1.0 if layer is None else layer.activation.rms
            if p.is_bias:
                if p.weight.abs_max > 0:
                    severe = p.weight.abs_max > self.bias
                    bad[p.name] = severe, f"a bias of rms {number(p.weight.rms)}"
            elif spread > 0:
                if abs(mean - 1) > self.around or spread > self.around:
                    severe = not self.low < abs(mean) < self.high
                    bad[p.name] = severe, f"gains of mean {number(mean)} and std {number(spread)}"
            elif output > self.output and not biased.get(p.layer):
                # Whether it multiplies by the gain or by 1 + gain, a norm returns an rms of 1.
                severe = output > self.high
                bad[p.name] = (
                    severe,
                    f"gains of {number(mean)}: it returns an rms of {number(output)}",
                )
            elif (
                (mean == 0 and p.block is None and output == 0 and zeros <= gains / 2)
                # Of a stage with one block no stack tells that there is a residual path.
                and not _varies_after(evidence, p.layer)
            ):
                bad[p.name] = True, "gains of 0 outside a residual branch: nothing passes"
        if not bad:
            return
        worst = [name for name, (is_severe, _) in bad.items() if is_severe]
        where = worst[0] if worst else next(iter(bad))
        trained = len(bad) > len(norms) / 2 and not worst
        yield self.finding(
            "error" if worst else "info" if trained else "warning",
            where,
            evidence.parameters[where].weight.mean,
            0.0 if evidence.parameters[where].is_bias else 1.0,
            cause=f"{where} has {bad[where][1]}; {len(bad)} of {len(norms)} parameters of norms "
            "are not at the identity" + (": the model seems to be trained" if trained else ""),
            fix="fill gains of norms with 1 and their biases with 0; leave them out of a loop "
            "that fills every parameter",
            also=tuple(name for name in bad if name != where),
        )


def _varies_after(evidence: Evidence, place: str) -> bool:
    """Tell whether outputs behind a layer depend on the examples: another path is around it."""
    names = list(evidence.layers)
    later = names[names.index(place) + 1 :] if place in evidence.layers else []
    units = [units for name in later for units in evidence.layers[name].units]
    return any(bool((u.std > _ROUNDING * u.max.abs()).any()) for u in units)
