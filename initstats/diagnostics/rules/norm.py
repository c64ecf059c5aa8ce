"""Rules on normalisation layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence, LayerReport
from initstats.diagnostics.findings import AuditRule, Finding, Severity
from initstats.text import number

# Without parameters these normalise; classes of other names may scale vectors to length 1.
_TORCH_NORMS = frozenset(
    {f"{kind}Norm{n}d" for kind in ("Batch", "Instance") for n in (1, 2, 3)}
    | {"LayerNorm", "GroupNorm", "RMSNorm"}
)
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


@dataclass(frozen=True)
class NormEpsilon(AuditRule):
    """A norm that returns much less than its gain, because epsilon drowns the variance.

    With an epsilon of a usual size it is the input that is small, which is only noted: the norms
    behind the branches of OLMo 2 start so, and the embedding of RWKV does.

    Attributes:
        output: Rms of the output / gain below which the input is not normalised.
        severe: The same for an error.
        usual: Largest epsilon of published models (batch norms of TensorFlow).
        around: Distance of the gains from 1 within which a norm is judged.
        drowned: The same for a norm with an epsilon above `usual`, before gains.
        zeros: Share of zeros in the output above which it is not: padding and masked places.
    """

    output: float = 0.5
    severe: float = 0.2
    usual: float = 1e-3
    around: float = 0.1
    zeros: float = 0.3
    drowned: float = 0.9

    id: ClassVar[str] = "norm-epsilon"
    source: ClassVar[str] = (
        "Ba et al. 2016, eq. 4; epsilon of 1e-5 in torch, 1e-12 to 1e-3 elsewhere"
    )

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare the output of every norm with its gain."""
        bad = {
            layer.name: layer.activation.rms
            for layer in evidence.layers.values()
            if self._is_judged(evidence, layer) and layer.activation.rms < self.output
        }
        drowned = {
            name: call.output
            for name, call in evidence.norm_calls.items()
            if name not in bad and call.epsilon > self.usual and call.output < self.drowned
        }
        yield from self._drowned(evidence, drowned)
        if not bad:
            return
        large = {name: rms for name, rms in bad.items() if self._is_large(evidence.layers[name])}
        where = min(large or bad, key=lambda name: bad[name])
        layer = evidence.layers[where]
        assert layer.input is not None
        assert layer.epsilon is not None
        severity: Severity = "error" if bad[where] < self.severe else "warning"
        yield self.finding(
            severity if large else "info",
            where,
            bad[where],
            self.output,
            cause=f"{where} returns an rms of {number(bad[where])} with gains of 1: its input has "
            f"std {number(layer.input.std)}, and epsilon is {number(layer.epsilon)}",
            fix="give it an epsilon far below the variance of its input, as 1e-5"
            if large
            else "raise the std of what comes before it, if this is not meant",
            also=tuple(name for name in bad if name != where),
        )

    def _drowned(self, evidence: Evidence, found: dict[str, float]) -> Iterator[Finding]:
        """Report norms with a large epsilon, by what enters them."""
        if not found:
            return
        where = min(found, key=lambda name: found[name])
        call = evidence.norm_calls[where]
        yield self.finding(
            "error" if found[where] < self.severe else "warning",
            where,
            found[where],
            self.drowned,
            cause=f"{where} divides by the root of a variance of {number(call.variance)} plus an "
            f"epsilon of {number(call.epsilon)}: it returns an rms of {number(found[where])} "
            "instead of 1",
            fix="give it an epsilon far below the variance of its input, as 1e-5",
            also=tuple(name for name in found if name != where),
        )

    def _is_large(self, layer: LayerReport) -> bool:
        """Tell whether a norm has an epsilon that no published model has."""
        return layer.epsilon is not None and layer.epsilon > self.usual

    def _is_judged(self, evidence: Evidence, layer: LayerReport) -> bool:
        """Tell whether a layer should return an rms of 1, of an input that is not constant."""
        if "Norm" not in layer.kind or layer.name in evidence.norm_modes or layer.is_block:
            return False
        record, x = layer.activation, layer.input
        if layer.epsilon is None:
            return False  # a norm in name only, such as the NoNorm of MobileBERT
        if x is None or not 0 < x.std < math.inf or record.zero > self.zeros * record.count:
            return False
        gains = [p.weight for p in layer.parameters if not p.is_bias]
        biases = [p.weight for p in layer.parameters if p.is_bias]
        if not gains:
            return layer.kind in _TORCH_NORMS
        usual = all(
            g.abs_max <= 1 + self.around and g.min >= 1 - self.around and g.count > 1 for g in gains
        )
        return usual and len(gains) == 1 and all(b.abs_max == 0 for b in biases)


@dataclass(frozen=True)
class NormInEval(AuditRule):
    """A batch norm that trains with running statistics that nothing has filled, or keeps none.

    The model is in train mode, and the norm is not: it subtracts a mean of 0 and divides by a
    variance of 1. Statistics that were loaded are no finding: fine-tuning freezes them.
    """

    id: ClassVar[str] = "norm-mode"
    source: ClassVar[str] = "Ioffe and Szegedy 2015, algorithm 1: statistics of the mini-batch"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """List the norms of each kind."""
        modes = evidence.norm_modes
        stuck = [name for name, mode in modes.items() if mode == "eval"]
        if stuck:
            yield self.finding(
                "warning",
                stuck[0],
                float(len(stuck)),
                0.0,
                cause=f"{stuck[0]} is in eval mode while the model trains, with a running mean of "
                "0 and a running variance of 1: it normalises nothing",
                fix="look for eval() and an own train() in the code of the model; freeze a norm "
                "only after loading its statistics",
                also=tuple(stuck[1:]),
            )
        forgetful = [name for name, mode in modes.items() if mode == "forgets"]
        if forgetful:
            yield self.finding(
                "warning",
                forgetful[0],
                float(len(forgetful)),
                0.0,
                cause=f"{forgetful[0]} has a momentum of 0: its running statistics never change, "
                "and eval mode uses them",
                fix="give it the default momentum of 0.1",
                also=tuple(forgetful[1:]),
            )


def _varies_after(evidence: Evidence, place: str) -> bool:
    """Tell whether outputs behind a layer depend on the examples: another path is around it."""
    names = list(evidence.layers)
    later = names[names.index(place) + 1 :] if place in evidence.layers else []
    units = [units for name in later for units in evidence.layers[name].units]
    return any(bool((u.std > _ROUNDING * u.max.abs()).any()) for u in units)
