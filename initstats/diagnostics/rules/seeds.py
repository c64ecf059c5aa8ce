"""Rule on the spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from initstats.diagnostics.evidence import Evidence
from initstats.diagnostics.findings import AuditRule, Finding
from initstats.diagnostics.seed_spread import FIRST_LOSS, LAST_LOSS, LISTED_SEEDS, Lottery
from initstats.text import number


@dataclass(frozen=True)
class SeedSpread(AuditRule):
    """A start that the seed decides: scales, gradients or losses that differ widely over seeds.

    In a ReLU net of depth L and width n at its critical gain, ln of an output's rms is about normal
    over seeds with a variance of 5 L / (4 n): it is the width that makes seeds agree. The limit
    of 0.5 is reached at L / n = 0.2. The limit on the loss is no subtle one: language models of
    other seeds train alike (PolyPythias), the demo GPT measures 0.008 there, and a classifier of 16
    units with dropout 0.11.

    Attributes:
        scale: Largest std of ln(rms) over seeds, of any block's output or gradient.
        loss: Largest std of the last loss over seeds, as a share of the median first loss.
    """

    scale: float = 0.5
    loss: float = 0.25

    id: ClassVar[str] = "seed-spread"
    source: ClassVar[str] = (
        "Hanin & Rolnick 2018 (How to start training), Hanin & Nica 2018 (products of random "
        "matrices); Lu et al. 2019 (Dying ReLU) for nets that are born dead; van der Wal et al. "
        "2025 (PolyPythias) for losses"
    )

    def check(self, evidence: Evidence) -> Iterator[Finding]:
        """Find nothing: one seed has no spread."""
        del evidence
        yield from ()

    def judge(self, lottery: Lottery) -> Iterator[Finding]:
        """Compare the seeds: some are dead, scales differ, or losses differ.

        Args:
            lottery: The results of the seeds.

        Yields:
            One finding at most: what kills a seed also spreads its scales and losses.
        """
        n = len(lottery.seeds)
        both = [("output", lottery.activations), ("gradient", lottery.gradients)]
        everything = [(what, name, s) for what, found in both for name, s in found.items()]
        # Zero with every seed is a choice (a head that starts at 0) or the business of other rules.
        dead = [(what, name, s) for what, name, s in everything if 0 < s.lost < n]
        fix = "widen the narrow layers, use fewer of them, or add residual paths or normalisation"
        if dead:
            what, name, spread = max(dead, key=lambda found: found[2].lost)
            pairs = zip(lottery.seeds, spread.values, strict=True)
            numbers = [str(r.seed) for r, v in pairs if v == 0 or not math.isfinite(v)]
            yield self.finding(
                "warning",
                name,
                spread.lost / n,
                0.0,
                cause=f"{spread.lost} of {n} seeds ({', '.join(numbers[:LISTED_SEEDS])}) start "
                f"with {what}s of {name} that are all 0 or not finite, the others do not",
                fix=fix,
                also=tuple(dict.fromkeys(other for _, other, _ in dead if other != name)),
            )
            return
        known = [(s.log_std or 0.0, what, name, s) for what, name, s in everything]
        wide = [found for found in known if found[0] > self.scale]
        if wide:
            deviation, what, name, spread = max(wide, key=lambda found: found[0])
            low, _, high, _ = spread.summary()
            yield self.finding(
                "warning",
                name,
                deviation,
                self.scale,
                cause=f"over {n} seeds the {what}s of {name} have an rms from {number(low)} to "
                f"{number(high)}: std of ln {number(deviation)}",
                fix=fix,
                also=tuple(dict.fromkeys(other for *_, other, _ in wide if other != name)),
            )
            return
        yield from self._judge_loss(lottery)

    def _judge_loss(self, lottery: Lottery) -> Iterator[Finding]:
        """Compare the losses after the steps."""
        first, last = lottery.spreads[FIRST_LOSS], lottery.spreads[LAST_LOSS]
        middle = first.summary()[1]
        if last.std is None or not (math.isfinite(middle) and middle > 0):
            return
        share = last.std / middle
        if share > self.loss:
            low, _, high, _ = last.summary()
            yield self.finding(
                "warning",
                LAST_LOSS,
                share,
                self.loss,
                cause=f"over {len(lottery.seeds)} seeds the last loss lies between {number(low)} "
                f"and {number(high)}; std {number(last.std)}, median first loss {number(middle)}",
                fix="compare architectures over several seeds only; lower the std of the head, or "
                "warm the learning rate up",
            )
