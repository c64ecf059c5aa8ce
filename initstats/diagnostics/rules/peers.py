"""Rule on the size of a weight relative to its peers."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence, ParameterReport
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.text import number

_FEWEST_PEERS = 3
_FEWEST_VALUES = 16  # whose std says something: GPT-OSS has one sink for each head
_FEWEST_WEIGHTS = 3  # of a model, to know its usual size
# Weights whose size follows other laws than weights between layers.
_APART = frozenset(
    {"embedding", "position", "token", "norm", "adapter", "head", "gate", "router"}
    | {"attention input"}  # T5's queries have std (width * head_width)^-0.5
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
        recurrent: Gain of a recurrent matrix that makes the state explode (orthogonal: 1).
        vectors: Std of embeddings and positions that drowns all else (torch: 1).
    """

    apart: float = 2.0
    far: float = 4.0
    severe: float = 5.0
    largest: float = 5.0
    recurrent: float = 2.0
    vectors: float = 3.0

    id: ClassVar[str] = "weight-peers"
    source: ClassVar[str] = "SageMaker PoorWeightInitialization: variance ratio over layers > 10"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Compare every weight with its peers."""
        groups: dict[tuple[object, ...], list[ParameterReport]] = defaultdict(list)
        for p in evidence.parameters.values():
            if p.weight.count >= _FEWEST_VALUES and p.role not in {"norm", "adapter"}:
                alike = _without_numbers(p.name), p.role, len(p.shape)
                groups[alike].append(p)
        factors: dict[str, tuple[float, float]] = {}
        for peers in groups.values():
            # The size of a bias may follow the width of its layer.
            if not peers[0].is_bias or len({p.shape for p in peers}) == 1:
                factors.update(self._against_peers(peers))
        alone = set()
        for p in evidence.parameters.values():
            size, limit = self._absolute(p)
            if p.name not in factors and p.is_matrix and limit < size < math.inf:
                factors[p.name] = size / limit * self.apart, limit
                alone.add(p.name)
        for name, found in self._among_all(evidence, groups).items():
            factors.setdefault(name, found)
        if not factors:
            return
        where = max(factors, key=lambda name: _apart(factors[name][0]))
        factor, usual = factors[where]
        p = evidence.parameters[where]
        what = "gain std * sqrt(fan_in)" if p.fan_in else "std"
        own = p.gain if p.fan_in else p.weight.std
        other = "no initialiser gives more than" if where in alone else "the same weight elsewhere"
        if where in alone:
            own, _ = self._absolute(p)
            what = "gain std * sqrt(min(fan_in, fan_out))" if p.fan_in else "std"
        yield self.finding(
            "error" if _apart(factor) > self.severe else "warning",
            where,
            own,
            usual,
            cause=f"{where} has {what} {number(own)}, {other} {number(usual)}",
            fix="initialise it like the others",
            also=tuple(name for name in factors if name != where),
        )

    def _among_all(
        self, evidence: Evidence, groups: Mapping[tuple[object, ...], list[ParameterReport]]
    ) -> dict[str, tuple[float, float]]:
        """Return the factor and the usual size for weights without peers, against all weights.

        The last weight is a head, zeros are a choice, and the rest is never worse than a warning.
        """
        matrices = [x.matrix for x in evidence.layers.values() if x.matrix is not None]
        last = matrices[-1].name if matrices else ""
        usual = {
            p.name: p
            for p in evidence.parameters.values()
            if p.is_matrix and p.fan_in and p.role not in _APART and math.isfinite(p.weight.std)
        }
        if len(usual) < _FEWEST_WEIGHTS:
            return {}
        std = median(p.weight.std for p in usual.values())
        gain = median(p.gain for p in usual.values())
        back = median(_gain_back(p) for p in usual.values())
        factors = {}
        for peers in groups.values():
            for p in peers if len(peers) < _FEWEST_PEERS else ():
                ratios = (
                    _ratio(p.weight.std, std),
                    _ratio(p.gain, gain),
                    _ratio(_gain_back(p), back),
                )
                large = min(ratios) > self.far
                small = 0 < max(ratios) < 1 / self.far
                if p.name in usual and p.name != last and (large or small):
                    factors[p.name] = (self.severe if large else 1 / self.severe), gain
        return factors if len(factors) <= len(usual) // 4 else {}

    def _absolute(self, p: ParameterReport) -> tuple[float, float]:
        """Return the size of a weight that has no peers, and the largest that is known."""
        if p.role in {"embedding", "position", "token"}:
            return p.weight.std, self.vectors
        gain = p.weight.std * math.sqrt(min(p.fan_in, p.fan_out))
        recurs = p.role == "recurrent" and "_hh" in p.name
        return gain, self.recurrent if recurs else self.largest

    def _against_peers(self, peers: list[ParameterReport]) -> dict[str, tuple[float, float]]:
        """Return the factor and the usual size for the weights that stand apart.

        One std for all layers, one gain, and one gain of the way back are all usual (the last in
        EfficientNets, whose widths change by factors): a weight stands apart when it does in each.
        """
        if not all(math.isfinite(p.weight.std) for p in peers):
            return {}
        if len(peers) < _FEWEST_PEERS:
            return self._larger_of_two(peers)
        by_std = self._apart_in(peers, [p.weight.std for p in peers])
        if not peers[0].fan_in:
            return by_std
        by_gain = self._apart_in(peers, [p.gain for p in peers])
        back = self._apart_in(peers, [_gain_back(p) for p in peers])
        return {name: by_gain[name] for name in by_gain if name in by_std and name in back}

    def _larger_of_two(self, peers: list[ParameterReport]) -> dict[str, tuple[float, float]]:
        """Return the larger of two weights of one shape when they are far apart."""
        small, large = min(peers, key=_std), max(peers, key=_std)
        alike = small.shape == large.shape and small.block is not None and small is not large
        if not alike or small.weight.std == 0:
            return {}
        ratio = large.weight.std / small.weight.std
        usual = small.gain if small.fan_in else small.weight.std
        return {large.name: (ratio, usual)} if ratio > self.far else {}

    def _apart_in(
        self, peers: list[ParameterReport], sizes: list[float]
    ) -> dict[str, tuple[float, float]]:
        """Return the factor and the usual size for the weights whose sizes stand apart."""
        found: dict[str, tuple[float, float]] = {}
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


def _without_numbers(name: str) -> str:
    """Replace the numbers of blocks and stages, but not those that tell layers of a block apart.

    conv1 and conv2 of a SENet have other groups, and so other gains.
    """
    path, dot, own = name.rpartition(".")
    outside, inner_dot, layer = path.rpartition(".")
    if layer.isdigit():
        layer = "*"
    return re.sub(r"\d+", "*", outside) + inner_dot + layer + dot + own


def _std(parameter: ParameterReport) -> float:
    """Return the std of a weight."""
    return parameter.weight.std


def _gain_back(parameter: ParameterReport) -> float:
    """Return std * sqrt(fan_out): the factor on the rms of a gradient."""
    return parameter.weight.std * math.sqrt(parameter.fan_out)


def _ratio(size: float, other: float) -> float:
    """Return size / other, with 0 / 0 = 1."""
    if size == other:
        return 1.0
    return size / other if other > 0 else math.inf


def _apart(ratio: float) -> float:
    """Return a ratio or its inverse, >= 1."""
    return math.inf if ratio <= 0 else max(ratio, 1 / ratio)
