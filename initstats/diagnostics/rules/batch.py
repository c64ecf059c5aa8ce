"""Rules on a batch whose examples or targets do not differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.text import number

_TARGET_FIX = "shuffle the data; check how labels are read, and that none are lost on the way"


@dataclass(frozen=True)
class ConstantBatch(AuditRule):
    """Examples that are all the same, or ids that are all one.

    Of several tables of vectors the largest is judged: ids of token types and of languages may be
    all one.

    Attributes:
        fewest: Number of ids, and of rows of the table, below which one id may be all there is.
    """

    fewest: int = 8

    id: ClassVar[str] = "constant-batch"
    source: ClassVar[str] = "Karpathy 2019, A recipe for training neural networks: look at the data"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Judge the ids of the largest table, and the batch as a whole."""
        fix = "look at the batch: check the tokenizer, the collate function and the indexing"
        tables = evidence.tables
        place = max(tables, key=lambda name: tables[name].rows, default=None)
        if place is not None:
            table = tables[place]
            many = min(table.rows, table.count) >= self.fewest
            if many and table.first == table.last:
                yield self.finding(
                    "error" if evidence.batch.alike else "warning",
                    place,
                    float(table.first),
                    0.0,
                    cause=f"all {table.count} ids that {place} looks up are {table.first}",
                    fix=fix,
                )
                return
        if evidence.batch.alike:
            count = evidence.batch.examples
            yield self.finding(
                "warning",
                "batch",
                float(count),
                1.0,
                cause=f"the inputs of all {count} examples are equal: nothing tells them apart",
                fix=fix,
            )


@dataclass(frozen=True)
class ConstantTargets(AuditRule):
    """Targets that are all the same: a constant output is right.

    Only where one loss function runs: of the two losses of a discriminator each has one target.
    Where none of torch runs, the targets of the batch are judged.

    Attributes:
        fewest: Number of targets below which all may be equal by chance.
    """

    fewest: int = 8

    id: ClassVar[str] = "constant-targets"
    source: ClassVar[str] = "Karpathy 2019, A recipe for training neural networks: look at the data"

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Look at the targets of the loss."""
        calls = [call for call in evidence.loss_inputs if call.targets]
        if not calls:
            yield from self._by_hand(evidence)
        if len(calls) != 1 or calls[0].targets < self.fewest or not calls[0].alike:
            return
        (call,) = calls
        what = "equal" if math.isnan(call.value) else number(call.value)
        yield self.finding(
            "warning",
            "loss",
            call.value,
            0.0,
            cause=f"all {call.targets} targets of {call.name} are {what}: a constant answers "
            "all of them",
            fix=_TARGET_FIX,
        )

    def _by_hand(self, evidence: Evidence) -> Iterator[Finding]:
        """Look at the targets that a loss function of the project gets."""
        batch = evidence.batch
        if batch.targets >= self.fewest and batch.target is not None:
            yield self.finding(
                "warning",
                "loss",
                batch.target,
                0.0,
                cause=f"all {batch.targets} targets of the batch are {number(batch.target)}: a "
                "constant answers all of them",
                fix=_TARGET_FIX,
            )
