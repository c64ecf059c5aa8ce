"""Thread that merges windows over ranks, and hands rows to alerts and sinks on one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from initstats.diagnostics.findings import Finding
from initstats.monitoring.alerts import LOG, Alerts
from initstats.monitoring.rank_alerts import RANKS_DIFFER, Together
from initstats.monitoring.reader import Measured, gradient_norms, read_window
from initstats.monitoring.row import Row
from initstats.monitoring.sink_worker import Feed, Sink
from initstats.monitoring.team import Team
from initstats.monitoring.team_loss import given_losses, mean_losses
from initstats.monitoring.team_row import Offer, Outcome, merge, norms_before_clipping, offer
from initstats.monitoring.window import BEFORE_CLIPPING, LOSS, Window
from initstats.monitoring.worker import Delivery


class TeamDelivery(Delivery):
    """Reads windows, merges each row over the ranks, and writes it on the first of them.

    A rank that has closed its monitor goes on to take part, with nothing to add, until all have.
    When a rank is gone, every other one writes rows of its own from then on.

    Args:
        sinks: The sinks; used on the rank that writes.
        alerts: Judges every row, on the rank that writes.
        after: Step after which a run goes on, None for one that begins.
        team: The ranks.
    """

    def __init__(
        self, sinks: Iterable[Sink], alerts: Alerts, after: int | None, team: Team
    ) -> None:
        self._team = team
        self._own_sinks = tuple(sinks)
        self._after = after
        sinks = self._own_sinks if team.writes else ()
        super().__init__(sinks, alerts, after, team.info, team.shards, team.peers)

    def _run(self) -> None:
        held: tuple[Row, dict[str, Measured], Offer] | None = None
        closing = False
        while True:
            if held is None and not closing:
                window = self._windows.get()
                if isinstance(window, threading.Event):
                    window.set()
                    continue
                closing = window is None
                held = None if window is None else self._read(window)
                if window is not None and held is None:
                    continue
            try:
                outcome = merge(self._team, None if held is None else held[2])
            except Exception as error:  # noqa: BLE001  # whatever it is, rows of this rank go on
                self._go_on_alone(held, closing, error)
                return
            if outcome is None:
                return
            local = held[0] if held is not None and outcome.took_own else None
            missed = outcome.parted.behind.get(self._team.rank, 0)
            if held is not None and missed:
                taken = held[2].taken
                assert taken is not None
                self.owed = max(self.owed, taken.caught_up + missed)
            if outcome.took_own or missed:
                held = None
            if self._team.writes:
                self._write(outcome, local)

    def _read(self, window: Window) -> tuple[Row, dict[str, Measured], Offer] | None:
        """Read a window; None, and a message in the log, where that fails."""
        try:
            row, measured = read_window(window)
            number = self._team.schedule.row_of(row.first_step)
            row = self._of_this_rank(row, measured, window)
            mine = offer(self._team, {**measured, **given_losses(row)}, number, row)
        except Exception:  # noqa: BLE001  # reading must never end training
            LOG.exception("a row could not be read")
            return None
        return row, measured, mine

    def _write(self, outcome: Outcome, local: Row | None) -> None:
        try:
            row = _merged_row(self._team, outcome, local)
            row = self.alerts.judge(row, outcome.measured)
            together = Together(
                outcome.differing,
                outcome.first_not_finite,
                outcome.local_norms,
                self._team.alike,
                self._team.peers_of,
                outcome.missing.get("ranks", {}),
                outcome.parted.updates,
                outcome.learning_rates,
                outcome.other_rates,
            )
            row = self.alerts.announce(self.alerts.across.judge(together), row)
        except Exception:  # noqa: BLE001  # reading must never end training
            LOG.exception("a row could not be read")
        else:
            for feed in self.feeds:
                feed.put(row)

    def _go_on_alone(
        self,
        held: tuple[Row, dict[str, Measured], Offer] | None,
        closing: bool,
        error: Exception,
    ) -> None:
        """Write rows of this rank alone, after a rank is gone or did not come."""
        silent = self._team.silent()
        who = f"rank {', '.join(map(str, silent))}" if silent else "a rank"
        step = held[0].first_step if held is not None else 0
        LOG.warning(
            "%s is silent since step %d: rows are of each rank alone (%s)", who, step, error
        )
        self._ranks = replace(self._team.info, scope="rank")
        if not self._team.writes and not closing:
            mine = [of_rank(sink, self._team.rank) for sink in self._own_sinks]
            pairs = zip(mine, self._own_sinks, strict=True)
            own = [sink for sink, given in pairs if sink is not given]
            self.feeds = tuple(Feed(sink, self._after) for sink in own)
        alert = Finding(
            rule="rank-silent",
            severity="error",
            where=who,
            value=float(step),
            threshold=0.0,
            cause=f"{who} did not answer for the row of step {step}; rows are of one rank each",
            fix="look at the log of that rank",
            source=RANKS_DIFFER,
        )
        if held is not None:
            row = self.alerts.judge(replace(held[0], ranks=self._ranks), held[1])
            row = self.alerts.announce((alert,), row)
            for feed in self.feeds:
                feed.put(row)
        if not closing:
            super()._run()


def of_rank(sink: Sink, rank: int) -> Sink:
    """Return the sink for one rank, the same one if it does not tell ranks apart."""
    for_rank = getattr(sink, "for_rank", None)
    found: Sink = sink if for_rank is None else for_rank(rank)
    return found


def _merged_row(team: Team, outcome: Outcome, local: Row | None) -> Row:
    """Return the row of all ranks; what only this rank knows is that of its own row."""
    measured = dict(outcome.measured)
    clipping, losses = measured.pop(BEFORE_CLIPPING, None), measured.pop(LOSS, None)
    steps = sorted({step for found in measured.values() for step in found.steps})
    steps = steps or team.schedule.steps_of(outcome.row)[:1]
    norms = gradient_norms(measured["gradients"].by_step) if "gradients" in measured else None
    missing = {kind: dict(names) for kind, names in outcome.missing.items()}
    for kind, names in (local.missing if local is not None else {}).items():
        there = measured[kind].table.index if kind in measured else {}
        named = missing.setdefault(kind, {})
        for name, why in names.items():
            if name not in there:
                named.setdefault(name, why)
    row = Row(
        step=steps[-1],
        first_step=steps[0],
        measured=len(steps),
        time=local.time if local is not None else time.time(),
        tables={kind: found.table for kind, found in measured.items()},
        steps=tuple(steps),
        missing={kind: names for kind, names in missing.items() if names},
        ranks=replace(outcome.ranks, learning_rates=outcome.other_rates),
        loss=mean_losses(losses, steps),
        learning_rates=outcome.learning_rates,
        calls=outcome.calls,
    )
    if local is not None:
        # Groups that came after the ranks had agreed are those of this rank.
        row = replace(row, learning_rates={**local.learning_rates, **outcome.learning_rates})
        row = replace(row, smooth=local.smooth)
    if norms is not None:
        row = replace(row, gradient_norm=norms)
        if clipping is not None:
            before = norms_before_clipping(clipping, measured["gradients"].steps, norms)
            row = replace(row, gradient_norm_before_clipping=before)
    return row
