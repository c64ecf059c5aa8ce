"""Choose what carries the windows of one rank to sinks: alone, or with the other ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import torch.distributed as dist
from torch import Tensor

from initstats.monitoring.alerts import Alerts
from initstats.monitoring.row import RankInfo
from initstats.monitoring.sink_worker import Sink
from initstats.monitoring.team import Schedule, Team, peers_in, shards_of
from initstats.monitoring.team_delivery import TeamDelivery, of_rank
from initstats.monitoring.window import Layout
from initstats.monitoring.worker import Delivery
from initstats.statistics.across_ranks import Ranks


class MonitoredRanks:
    """The ranks of one monitor.

    Args:
        group: A process group that this rank is in, a mesh, or None.
        reduce: "merge" or "none".
        timeout: Seconds to wait for another rank.
        ranks_per_node: Ranks that reduce before nodes do, None for what torchrun says.

    Attributes:
        given: The ranks of the group, None without.
        several: Whether a group was given, whose rows are merged now or afterwards.
        merge: Whether they are merged while training goes on.

    Raises:
        TypeError: If group is neither.
    """

    def __init__(
        self, group: object | None, reduce: str, timeout: float, ranks_per_node: int | None
    ) -> None:
        self._group, self._per_node = group, ranks_per_node
        self.given = None if group is None else Ranks("Monitor", group)
        self._timeout = timeout
        self.several = group is not None
        self.merge = self.several and reduce == "merge"

    def delivery(
        self,
        sinks: Iterable[Sink],
        alerts: Alerts,
        after: int | None,
        schedule: Schedule,
        names: Mapping[str, Layout],
        parameters: Mapping[str, Tensor],
        peers: Sequence[int] = (),
        rates: Sequence[str] = (),
        *,
        histograms: bool,
    ) -> Delivery:
        """Start the threads; with a group that merges, all its ranks must call this together."""
        if self.merge:
            team = Team(
                self._group,
                schedule,
                names,
                parameters,
                peers,
                rates,
                histograms=histograms,
                timeout=self._timeout,
                ranks_per_node=self._per_node,
            )
            return TeamDelivery(sinks, alerts, after, team)
        info = self._alone()
        if self.given is None:
            return Delivery(sinks, alerts, after, info)
        rank = self.given.rank
        mine = [of_rank(sink, rank) for sink in sinks]
        shards, shared = shards_of(parameters, rank), peers_in(self.given.ranks, peers, rank)
        return Delivery(mine, alerts, after, info, shards, shared)

    def _alone(self) -> RankInfo | None:
        """Return which rank this is, None in a run of one process."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        return RankInfo(
            dist.get_rank(),
            "rank",
            dist.get_world_size(),
            os.environ.get("TORCHELASTIC_RUN_ID", ""),
            int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )
