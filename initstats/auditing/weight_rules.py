"""Rules on the weights themselves."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from initstats.auditing.evidence import Evidence, ParameterReport
from initstats.auditing.findings import AuditRule, Finding
from initstats.tables import number
from initstats.verifying import VerifyEntry


@dataclass(frozen=True)
class WeightsAgainstRecipe(AuditRule):
    """Weights that are not what the recipe promises, beyond what sampling explains.

    Attributes:
        factor: Factor between measured and promised std above which this is an error.
    """

    factor: float = 1.5

    id: ClassVar[str] = "weights-against-recipe"
    source: ClassVar[str] = "initstats.verify: sampling band, Bonferroni over the model"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Report all parameters outside their band as one finding."""
        report = evidence.verification
        if report is None or report.ok:
            return
        # A stated NaN is the business of not-finite; here it only sorts first.
        failures = sorted(report.failures, key=_distance, reverse=True)
        worst = failures[0]
        random = worst.expected_std > 0
        yield self.finding(
            "error" if _distance(worst) > math.log(self.factor) else "warning",
            worst.name,
            worst.std if random else worst.mean,
            worst.expected_std if random else worst.expected_mean,
            cause=f"{len(failures)} of {len(report.entries)} parameters are not as recipe "
            f"{report.recipe} promises; {worst.name}: {worst.problem}",
            fix="call initstats.init_ with this recipe last, after building the model, or audit "
            "with the recipe that was meant",
            also=tuple(entry.name for entry in failures[1:]),
        )


def _distance(entry: VerifyEntry) -> float:
    """Return how far a parameter is from its promise, as |ln(std / promised std)|."""
    if entry.expected_std == 0:
        # A constant that varies: its size against 1, the scale of biases and gains.
        off = max(abs(entry.mean - entry.expected_mean), entry.std)
        return math.log1p(off) if math.isfinite(off) else math.inf
    if not (entry.std > 0 and math.isfinite(entry.std)):
        return math.inf
    return abs(math.log(entry.std / entry.expected_std))


@dataclass(frozen=True)
class Symmetry(AuditRule):
    """Weights whose rows are equal: their units compute the same and learn the same for ever.

    A weight that is 0 everywhere is left to zero-gradient: heads, gates and adapters start so.

    Attributes:
        share: Share of rows with an equal row that is a finding.
        severe: Share that is an error.
    """

    share: float = 0.1
    severe: float = 0.5

    id: ClassVar[str] = "symmetry"
    source: ClassVar[str] = "Goodfellow et al. 2016, Deep Learning, section 8.4: break symmetry"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find constant weights, equal rows, and equal matrices."""
        bad: dict[str, float] = {}
        for p in evidence.parameters.values():
            if p.rows is None or not p.trained or not p.is_matrix or p.weight.abs_max == 0:
                continue
            share = 1 - (p.rows.distinct - 1) / (p.rows.rows - 1)
            if share > self.share:
                bad[p.name] = share
        if bad:
            where = max(bad, key=lambda name: bad[name])
            p = evidence.parameters[where]
            assert p.rows is not None
            what = (
                f"every value of {where} is {number(p.weight.mean)}"
                if p.weight.std == 0
                else f"{where} has {p.rows.distinct} different rows of {p.rows.rows}"
            )
            yield self.finding(
                "error" if bad[where] > self.severe else "warning",
                where,
                bad[where],
                self.share,
                cause=f"{what}: units with equal weights get equal gradients",
                fix="fill it with random values",
                also=tuple(name for name in bad if name != where),
            )
        copies = [p for p in evidence.parameters.values() if p.copy_of and p.trained]
        if copies:
            first = copies[0]
            yield self.finding(
                "warning",
                first.name,
                float(len(copies)),
                0.0,
                cause=f"{first.name} holds the values of {first.copy_of}, and {len(copies) - 1} "
                "more weights those of another (copy.deepcopy of a layer copies its weights)",
                fix="initialise each of them on its own",
                also=(*(p.name for p in copies[1:]), first.copy_of),
            )


@dataclass(frozen=True)
class WeightPeers(AuditRule):
    """A weight whose size stands apart from the same weight in the neighbouring blocks.

    Weights are the same when their names are, up to numbers. Sizes are gains, std * sqrt(fan_in),
    and stds where there is no fan_in. A scale that changes smoothly with depth is no finding; the
    last of a sequence may be small (heads start so).

    Attributes:
        apart: Factor from both neighbours that is a finding.
        far: Factor from the median that is one, too.
        severe: Factor that is an error.
        largest: Gain that no published initialiser gives.
    """

    apart: float = 2.0
    far: float = 4.0
    severe: float = 5.0
    largest: float = 5.0

    id: ClassVar[str] = "weight-peers"
    source: ClassVar[str] = "SageMaker PoorWeightInitialization: variance ratio over layers > 10"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare every weight with its peers."""
        groups: dict[str, list[ParameterReport]] = defaultdict(list)
        for p in evidence.parameters.values():
            if p.weight.count > 1 and p.role not in {"norm", "adapter"}:
                groups[re.sub(r"\d+", "*", p.name)].append(p)
        factors: dict[str, tuple[float, float]] = {}
        for peers in groups.values():
            factors.update(self._against_peers(peers))
        for p in evidence.parameters.values():
            if p.name not in factors and p.is_matrix and p.fan_in > 1 and p.gain > self.largest:
                factors[p.name] = p.gain / self.largest * self.apart, 1.0
        if not factors:
            return
        where = max(factors, key=lambda name: _apart(factors[name][0]))
        factor, usual = factors[where]
        p = evidence.parameters[where]
        size = "gain std * sqrt(fan_in)" if p.fan_in else "std"
        own = p.gain if p.fan_in else p.weight.std
        yield self.finding(
            "error" if _apart(factor) > self.severe else "warning",
            where,
            own,
            usual,
            cause=f"{where} has {size} {number(own)}, the same weight elsewhere {number(usual)}",
            fix="initialise it like the others",
            also=tuple(name for name in factors if name != where),
        )

    def _against_peers(self, peers: list[ParameterReport]) -> dict[str, tuple[float, float]]:
        """Return the factor and the usual size for the weights that stand apart."""
        sizes = [p.gain if p.fan_in else p.weight.std for p in peers]
        found: dict[str, tuple[float, float]] = {}
        if len(peers) < 3 or not all(math.isfinite(size) for size in sizes):  # noqa: PLR2004
            return found
        usual = median(sizes)
        for i, (p, size) in enumerate(zip(peers, sizes, strict=True)):
            near = [sizes[k] for k in (i - 1, i + 1) if 0 <= k < len(sizes)]
            if len(near) == 1:  # an end: the next two
                near.append(sizes[2 if i == 0 else -3])
            noise = 1 + 4 / math.sqrt(2 * p.weight.count)
            ratios = [_ratio(size, other) for other in near]
            alike = all(r > self.apart * noise for r in ratios) or all(
                r < 1 / (self.apart * noise) for r in ratios
            )
            ratio = _ratio(size, usual)
            steep = max(map(_apart, ratios)) > self.apart * noise and _apart(ratio) > self.far
            small_end = i == len(peers) - 1 and ratio < 1 and not p.block
            if (alike or steep) and not small_end:
                found[p.name] = ratio if not math.isnan(ratio) else math.inf, usual
        # Not when they are many: then the median is no norm.
        return found if len(found) <= max(1, len(peers) // 3) else {}


@dataclass(frozen=True)
class NormIdentity(AuditRule):
    """Normalisation layers that do not start as the identity.

    Gains of 1 everywhere, or 0 everywhere (the last norm of a residual branch; norms that multiply
    by 1 + gain), and biases of 0 are usual. Trained norms vary around a gain well above 0.

    Attributes:
        low: Mean gain below which a gain that varies is an error.
        high: Mean gain above which it is one.
        bias: Size of a bias that is an error.
    """

    low: float = 0.2
    high: float = 5.0
    bias: float = 1.0

    id: ClassVar[str] = "norm-identity"
    source: ClassVar[str] = "Ioffe and Szegedy 2015, section 3: gain 1 and bias 0 at the start"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Look at the gain and the bias of every norm."""
        bad: dict[str, tuple[bool, str]] = {}
        norms = [p for p in evidence.parameters.values() if p.role == "norm" and p.trained]
        for p in norms:
            mean, spread = p.weight.mean, p.weight.std if p.weight.count > 1 else 0.0
            if p.is_bias and p.weight.abs_max > 0:
                severe = p.weight.abs_max > self.bias
                bad[p.name] = severe, f"a bias of rms {number(p.weight.rms)}"
            elif not p.is_bias and (spread > 0 or not _usual_gain(mean)):
                severe = not self.low < abs(mean) < self.high
                bad[p.name] = severe, f"gains of mean {number(mean)} and std {number(spread)}"
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


def _usual_gain(value: float) -> bool:
    """Tell a constant gain that is usual."""
    return value == 0 or 0.5 <= value <= 2  # noqa: PLR2004  # 1, and 1/sqrt(depth) of few layers


def _ratio(size: float, other: float) -> float:
    """Return size / other, with 0 / 0 = 1."""
    if size == other:
        return 1.0
    return size / other if other > 0 else math.inf


def _apart(ratio: float) -> float:
    """Return a ratio or its inverse, >= 1."""
    return math.inf if ratio <= 0 else max(ratio, 1 / ratio)
