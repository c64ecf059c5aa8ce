"""Alerts that only several ranks together tell, each when it begins or what it tells changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from initstats.diagnostics.findings import Finding
from initstats.monitoring.rank_norms import RankNorms

RANKS_DIFFER = "ranks whose keys differ hang a reduction: Lightning-AI/pytorch-lightning#19106"
_DESYNC = "replicas that drift apart: allenai/OLMo-core#319"
_LOOK = "look at the data and the memory of that rank"
# Findings of what has changed since the row before: each is new, also in the row after another.
_OF_ONE_ROW = ("rank-steps",)
_FIRST = "the first rank with NaN: NVIDIA/Megatron-LM#7076"


@dataclass(frozen=True, eq=False)
class Together:
    """What the ranks together tell of one row.

    Attributes:
        differing: By tensor, ranks with equal bits together, the most first.
        first_not_finite: Kind, name and rank of the first value that is not finite, or None.
        local_norms: Norm of the gradients before the reduction, the largest of the window; by rank,
            of those that measured it, and of ranks that share a batch by the first of them.
        alike: Ranks that hold the same parameters together, of those that share a batch the first.
        peers: Ranks that share a batch, by the first of them.
        missing: Why a rank is not in the row, by "rank 3".
        updates: By rank how many more steps its optimizer has taken than that of the others since
            the last row, negative for fewer.
        learning_rates: Those that most ranks have.
        other_rates: Those of ranks that have others, by rank, as "rank 3", and name.
    """

    differing: Mapping[str, tuple[tuple[int, ...], ...]]
    first_not_finite: tuple[str, str, int] | None
    local_norms: Mapping[int, float]
    alike: Sequence[Sequence[int]]
    peers: Mapping[int, Sequence[int]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    updates: Mapping[int, int] = field(default_factory=dict)
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    other_rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class RankAlerts:
    """Judges row by row what the ranks together tell, and tells of each finding when it begins."""

    def __init__(self) -> None:
        self._norms = RankNorms()
        self._open: set[tuple[str, str]] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return the past norms, and which findings are open."""
        return {
            "norms": self._norms.state_dict(),
            "open": sorted([rule, where] for rule, where in self._open),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._norms.load_state_dict(state["norms"])
        self._open = {(rule, where) for rule, where in state["open"]}

    def judge(self, together: Together) -> tuple[Finding, ...]:
        """Return the findings that are new in a row."""
        found: dict[tuple[str, str], Finding] = {}
        for finding in self._check(together):
            found.setdefault((finding.rule, finding.where), finding)
        new = tuple(finding for key, finding in found.items() if key not in self._open)
        self._open = {(rule, where) for rule, where in found if rule not in _OF_ONE_ROW}
        return new

    def _check(self, together: Together) -> Iterator[Finding]:
        for name, classes in together.differing.items():
            yield _replicas_differ(name, classes)
        if together.first_not_finite is not None:
            yield _first_not_finite(*together.first_not_finite)
        yield from self._norms.check(together.local_norms, together.alike, together.peers)
        for who, why in together.missing.items():
            yield _missing(who, why)
        for rank, more in together.updates.items():
            yield _other_steps(rank, more)
        for who, rates in together.other_rates.items():
            yield _other_rates(who, rates, together.learning_rates)


def _replicas_differ(name: str, classes: tuple[tuple[int, ...], ...]) -> Finding:
    odd = ", ".join(str(rank) for each in classes[1:] for rank in each)
    return Finding(
        rule="replicas-differ",
        severity="error",
        where=name,
        value=float(len(classes)),
        threshold=1.0,
        cause=f"the replica of rank {odd} differs from that of ranks"
        f" {', '.join(map(str, classes[0]))}",
        fix="load the same weights on all ranks; look for random draws, skipped reductions and"
        " faulty memory on that rank",
        source=_DESYNC,
    )


def _first_not_finite(kind: str, name: str, rank: int) -> Finding:
    """Return the finding of the first NaN; a rank is to blame only where it has data of its own."""
    cause, fix = f"rank {rank} is the first with NaN or infinity here", _LOOK
    if kind == "gradients":
        cause = f"reduced over ranks, with NaN or infinity that rank {rank} holds"
        fix = 'watch "activations" or "local_gradients" to see of which rank they are'
    return Finding(
        rule="first-rank-not-finite",
        severity="error",
        where=name,
        value=float(rank),
        threshold=0.0,
        cause=f"{kind}: {cause}",
        fix=fix,
        source=_FIRST,
    )


def _missing(who: str, why: str) -> Finding:
    return Finding(
        rule="rank-missing",
        severity="warning",
        where=who,
        value=1.0,
        threshold=0.0,
        cause=f"{who} adds nothing to this row, or to a part of it: it {why}",
        fix="call step() once per training step on every rank, and close the monitors together",
        source=RANKS_DIFFER,
    )


def _other_steps(rank: int, more: int) -> Finding:
    return Finding(
        rule="rank-steps",
        severity="warning",
        where=f"rank {rank}",
        value=float(more),
        threshold=0.0,
        cause=f"its optimizer has taken {abs(more)} step{'s' * (abs(more) > 1)}"
        f" {'more' if more > 0 else 'fewer'} than that of the other ranks since the last row",
        fix="call optimizer.step() as often on every rank, and step() of the monitor once after it;"
        " one call too many, and its rows are a step ahead of the others",
        source=RANKS_DIFFER,
    )


def _other_rates(who: str, rates: Mapping[str, float], common: Mapping[str, float]) -> Finding:
    name, rate = next(iter(rates.items()))
    more = f", and {len(rates) - 1} more differ" if len(rates) > 1 else ""
    return Finding(
        rule="rank-learning-rate",
        severity="warning",
        where=who,
        value=rate,
        threshold=common[name],
        cause=f"its learning rate of group {name} is {rate:.6g}, that of most other ranks"
        f" {common[name]:.6g}{more}",
        fix="step the scheduler of every rank alike; groups that differ on purpose, such as those"
        " of pipeline stages, are told once",
        source=_DESYNC,
    )
