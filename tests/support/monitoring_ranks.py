"""What each of four ranks checks of the monitor: tests/monitoring/test_monitoring_ranks.py."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from gloo_ranks import LIVING
from initstats.monitoring import Monitor, Row
from initstats.monitoring.team import Team
from initstats.monitoring.team_delivery import TeamDelivery
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines, read_rows
from initstats.statistics.reduction import Array, Message
from monitored import Kept, assert_alike

RANKS, STEPS = 4, 3


def world() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def rank() -> int:
    return dist.get_rank()


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))


def batch(step: int) -> Tensor:
    """The whole batch; each rank takes its rows."""
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))


def rows_of(x: Tensor, ranks: int = RANKS, which: int | None = None) -> Tensor:
    return x.chunk(ranks)[rank() if which is None else which]


def shared_folder() -> Path:
    """Return a folder that all ranks share."""
    name = [tempfile.mkdtemp() if rank() == 0 else ""]
    dist.broadcast_object_list(name, 0)
    return Path(name[0])


def train(net: nn.Module, monitor: Monitor, optimizer: torch.optim.Optimizer, ranks: int) -> None:
    """Train for some steps; the ranks together see what a single process sees."""
    for step in range(STEPS):
        optimizer.zero_grad()
        which = rank() * ranks // RANKS
        net(rows_of(batch(step), ranks, which)).square().mean().backward()
        optimizer.step()
        monitor.step()


def reference() -> list[Row]:
    """The rows of one process without distribution."""
    net, kept = model(), Kept()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    watch = ("weights", "gradients", "updates", "moments", "activations")
    with Monitor(net, optimizer=optimizer, every=1, watch=watch, sinks=[kept]) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            net(batch(step)).square().mean().backward()
            optimizer.step()
            monitor.step()
            while monitor._delivery is not None and len(kept.rows) <= step:
                time.sleep(1e-3)
    return kept.rows


def assert_rows(rows: list[Row], prefix: str = "", kinds: tuple[str, ...] = ()) -> None:
    expected = reference()
    assert [row.step for row in rows] == [row.step for row in expected]
    for row, one in zip(rows, expected, strict=True):
        assert row.ranks is not None
        assert (row.ranks.rank, row.ranks.scope, row.ranks.world) == (0, "merged", RANKS)
        for kind in kinds or tuple(one.tables):
            assert_alike(row.tables[kind], one.tables[kind], prefix, kind)
        np.testing.assert_allclose(row.gradient_norm, one.gradient_norm, rtol=1e-4)
        assert not row.missing, row.missing


def monitored(net: nn.Module, optimizer: torch.optim.Optimizer, ranks: int = RANKS) -> list[Row]:
    """Train under a monitor of all ranks, and return the rows on the first."""
    kept = Kept()
    with Monitor(
        net,
        optimizer=optimizer,
        every=1,
        watch=("weights", "gradients", "updates", "moments", "activations"),
        sinks=[kept],
        group=world(),
        rank_timeout=30.0,
    ) as monitor:
        train(net, monitor, optimizer, ranks)
    assert bool(kept.rows) == (rank() == 0)
    return kept.rows


def check_ddp_rows_are_those_of_one_process() -> None:
    net = nn.parallel.DistributedDataParallel(model())
    rows = monitored(net, torch.optim.AdamW(net.parameters(), 1e-2))
    if rank() == 0:
        assert_rows(rows, "module.")
        ranks = rows[-1].ranks
        assert ranks is not None
        assert ranks.run
        assert ranks.slowest is not None
        assert ranks.fastest is not None
        assert ranks.slowest[1] >= ranks.fastest[1] > 0
        first = rows[0].ranks  # nothing tells how long its step took
        assert first is not None
        assert (first.slowest, first.fastest) == (None, None)
        assert [len(row.alerts) for row in rows] == [0, 0, 0], rows[0].alerts


def check_fsdp2_rows_are_those_of_one_process() -> None:
    for reshard in (True, False):
        net = model()
        for layer in (net[0], net[2], net):
            fully_shard(layer, reshard_after_forward=reshard)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
        with torch.no_grad():
            net(batch(0)[:2])  # leaves whole parameters in their place: freed, or soon stale
        rows = monitored(net, optimizer)
        if rank() == 0:
            assert_rows(rows)


def check_fsdp2_mixed_precision_and_accumulation() -> None:
    net = model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for layer in (net[0], net[2], net):
        fully_shard(layer, mp_policy=policy)
    kept, optimizer = Kept(), torch.optim.SGD(net.parameters(), 1e-2)
    with Monitor(
        net, optimizer=optimizer, every=1, sinks=[kept], group=world(), rank_timeout=30.0
    ) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            for last in (False, True):
                net.set_requires_gradient_sync(last)
                net(rows_of(batch(step))).float().square().mean().backward()
            optimizer.step()
            monitor.step()
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2, 3]
        for row in kept.rows:
            assert row.tables["weights"]["0.weight"].count == 60
            assert row.tables["gradients"]["0.weight"].count == 60
            assert row.gradient_norm.size == 1
            assert not row.missing


def check_tensor_parallel_rows_are_those_of_one_process() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    net = model()
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(net, mesh["tp"], plan)
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh["dp"])
    assert isinstance(net[0].weight, DTensor)
    rows = monitored(net, torch.optim.AdamW(net.parameters(), 1e-2), 2)
    if rank() == 0:
        assert_rows(rows)  # outputs too: cut ones are whole, those that both ranks have count once
        assert rows[0].tables["activations"]["0"].count == 8 * 10
        assert rows[0].tables["activations"]["2"].count == 8 * 4


def check_outputs_that_peers_have_alike_count_once_and_others_whole() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    net = model()
    net.append(nn.LayerNorm(4))  # a plain module: every rank has its whole output
    net.append(Noisy())  # whose output is another on every rank
    parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    kept = Kept()
    with Monitor(
        net,
        every=1,
        window=2,
        watch=("activations", "inputs"),
        sinks=[kept],
        group=world(),
        rank_timeout=30.0,
    ) as monitor:
        with messages() as sent:
            for step in range(6):
                net(rows_of(batch(step), 2, rank() // 2))
                monitor.step()
            monitor.state_dict()  # waits for the rows
        assert len(sent) in (9, 10), sent  # 3 per row, and one more to learn
    if rank() == 0:
        assert [row.step for row in kept.rows] == [2, 4, 6]
        for row in kept.rows:
            counts = {n: r.count // 2 for n, r in row.tables["activations"].items()}
            assert counts == {"0": 80, "1": 80, "2": 32, "3": 32, "4": 64}
            assert row.tables["activations"]["2"].histogram.total == 64
            counts = {n: r.count // 2 for n, r in row.tables["inputs"].items()}
            assert counts == {"0": 48, "1": 80, "2": 80, "3": 32, "4": 32}


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + rank()


@contextlib.contextmanager
def messages() -> Iterator[list[str]]:
    """Count the messages of the reader's thread."""
    sent: list[str] = []
    reduce = Team.reduce

    def spy(self: Team, message: Message) -> Array:
        sent.append(message.op)
        return reduce(self, message)

    Team.reduce = spy  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        Team.reduce = reduce  # type: ignore[method-assign]


def check_three_messages_per_row() -> None:
    kept = Kept()

    def wait(step: int, _net: nn.Module, monitor: Monitor) -> None:
        if step == 5:
            monitor.state_dict()

    with messages() as sent:
        plain_loop(5, kept, wait, watch=("weights", "gradients", "local_gradients", "activations"))
    assert sent[:12] == ["min", "sum", "sum"] * 4
    assert len(sent) == 3 * 5 + 1  # and one when all have closed


def check_stages_and_experts_have_names_of_their_own() -> None:
    torch.manual_seed(0)
    stage = rank() // 2  # two stages, two replicas of each
    shared = nn.Linear(3, 3)  # tied: on both stages
    net = nn.ModuleDict({"embed": shared, f"stage{stage}": nn.Linear(5, 2 + stage)})
    kept = Kept()
    with Monitor(
        net, every=1, watch=("weights",), sinks=[kept], group=world(), rank_timeout=30.0
    ) as monitor:
        monitor.step()
    if rank() == 0:
        table = kept.rows[0].tables["weights"]
        counts = {name: table[name].count for name in table}
        assert counts == {
            "embed.weight": 9,  # once
            "embed.bias": 3,
            "stage0.weight": 10,
            "stage0.bias": 2,
            "stage1.weight": 15,
            "stage1.bias": 3,
        }


def plain_loop(
    steps: int, kept: Kept | JsonLines, do: object = None, **settings: object
) -> nn.Module:
    """Train the same model on every rank without any communication but the monitor's."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    defaults = {"watch": ("weights", "gradients"), "rank_timeout": 30.0, "group": world()}
    settings = defaults | settings
    monitor = Monitor(
        net,
        optimizer=optimizer,
        every=1,
        sinks=[kept],
        **settings,  # type: ignore[arg-type]
    )
    with monitor:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            net(batch(step)).square().mean().backward()
            optimizer.step()
            if callable(do):
                do(step, net, monitor)
            monitor.step()
    return net


def check_one_changed_bit_in_one_replica_is_alerted() -> None:
    def change(step: int, net: nn.Module, _monitor: Monitor) -> None:
        weight = net.get_parameter("2.weight")
        if step == 1 and rank() == 2:
            with torch.no_grad():
                weight[1, 3] = torch.nextafter(weight[1, 3], torch.tensor(9.0))

    kept = Kept()
    plain_loop(3, kept, change)
    if rank() == 0:
        alerts = [[a for a in row.alerts if a.rule == "replicas-differ"] for row in kept.rows]
        assert not alerts[0]
        (alert,) = alerts[1]  # at the next row
        assert alert.where == "2.weight"
        assert "rank 2 differs" in alert.cause
        assert not [a for a in alerts[2] if a.where == "2.weight"]  # once


def check_the_first_rank_with_nan_is_named() -> None:
    def poison(step: int, net: nn.Module, _monitor: Monitor) -> None:
        if step == 2 and rank() == 3:
            with torch.no_grad():
                net.get_parameter("2.bias")[0] = float("nan")

    kept = Kept()
    plain_loop(3, kept, poison, watch=("weights", "gradients", "activations"))
    if rank() == 0:
        found = [a for row in kept.rows for a in row.alerts if a.rule == "first-rank-not-finite"]
        assert found
        assert "rank 3" in found[0].cause


def check_a_rank_that_skips_steps_stops_nobody() -> None:
    kept = Kept()
    plain_loop(3 if rank() == 1 else 5, kept)
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2, 3, 4, 5]
        assert "rank 1" in kept.rows[3].missing["ranks"]
        assert "ranks" not in kept.rows[2].missing
        assert [a.rule for a in kept.rows[3].alerts] == ["rank-missing"]
        assert kept.rows[4].tables["weights"]["0.weight"].count == 60


def check_a_rank_without_gradients_stops_nobody() -> None:
    def freeze(step: int, net: nn.Module, _monitor: Monitor) -> None:
        if step == 1 and rank() == 2:
            for parameter in net.parameters():
                parameter.requires_grad_(False)  # torch's own argument
            net.get_parameter("0.bias").requires_grad_()

    kept = Kept()
    plain_loop(4, kept, freeze)
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2, 3, 4]


def check_a_rank_that_raises_stops_nobody() -> None:
    def fail(step: int, _net: nn.Module, _monitor: Monitor) -> None:
        if step == 2 and rank() == 3:
            raise KeyError("of the loop")

    kept = Kept()
    with contextlib.suppress(KeyError):
        plain_loop(4, kept, fail)
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2, 3, 4]
        assert "closed" in kept.rows[-1].missing["ranks"]["rank 3"]


def check_a_stopped_rank_delays_rows_and_nothing_else() -> None:
    took = []

    def pause(step: int, _net: nn.Module, _monitor: Monitor) -> None:
        if step == 2 and rank() == 1:
            time.sleep(2.0)
        took.append(time.monotonic())

    kept = Kept()
    plain_loop(4, kept, pause)
    if rank() != 1:
        assert took[-1] - took[0] < 1.0  # nothing in the training thread waits
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2, 3, 4]
        assert kept.rows[1].ranks is not None
        assert kept.rows[1].ranks.slowest is not None
        assert kept.rows[1].ranks.slowest[0] == 1


def check_windows_of_several_steps() -> None:
    kept = Kept()
    plain_loop(5, kept, window=2, group=world)  # a function, as callbacks need it
    if rank() == 0:
        assert [row.steps for row in kept.rows] == [(1, 2), (3, 4), (5,)]
        table = kept.rows[0].tables["weights"]
        assert table["0.weight"].count == 120
        assert table.places is not None
        assert table["0.weight"].histogram.total == 120


def check_rows_of_each_rank_go_to_files_of_their_own() -> None:
    path = shared_folder()
    plain_loop(2, JsonLines(path / "run.jsonl"), reduce="none")
    rows = list(read_rows(path / f"run.rank{rank():05d}.jsonl"))
    assert [row.step for row in rows] == [1, 2]
    assert rows[0].ranks is not None
    assert (rows[0].ranks.rank, rows[0].ranks.scope) == (rank(), "rank")


def check_merged_rows_survive_the_file() -> None:
    path = shared_folder()
    plain_loop(2, JsonLines(path / "run.jsonl"))
    dist.barrier()
    rows = list(read_rows(path / "run.jsonl"))
    assert [row.step for row in rows] == [1, 2]
    assert rows[0].ranks is not None
    assert (rows[0].ranks.scope, rows[0].ranks.world) == ("merged", RANKS)
    assert rows[0].ranks.slowest is None
    assert rows[1].ranks is not None
    assert isinstance(rows[1].ranks.slowest, tuple)


def check_files_of_ranks_join_to_rows_of_the_model() -> None:
    path = shared_folder()
    net = model()
    for layer in (net[0], net[2], net):
        fully_shard(layer)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with Monitor(
        net,
        optimizer=optimizer,
        every=1,
        watch=("weights", "gradients", "updates", "moments", "activations"),
        sinks=[JsonLines(path / "run.jsonl")],
        group=world(),
        reduce="none",
    ) as monitor:
        train(net, monitor, optimizer, RANKS)
    dist.barrier()
    if rank() == 0:
        rows = list(join_rows(sorted(path.glob("run.rank*.jsonl"))))
        if [row.step for row in rows] == [1, 2, 3]:  # else a reader was behind
            assert_rows(rows)


def check_different_schedules_are_refused_on_all_ranks() -> None:
    net = model()
    with pytest.raises(ValueError, match="on rank 1"):
        Monitor(net, every=1 + (rank() == 1), group=world(), rank_timeout=30.0).attach()


def check_two_levels_give_the_bits_of_one() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("node", "local"))
    found = []
    for settings in ({"ranks_per_node": 1}, {"ranks_per_node": 2}, {"group": mesh}, {}):
        if not settings:  # as torchrun tells of two nodes
            os.environ.update(LOCAL_WORLD_SIZE="2", GROUP_WORLD_SIZE="2")
        kept, sizes = Kept(), []

        def note(_step: int, _net: nn.Module, monitor: Monitor, sizes: list[int] = sizes) -> None:
            delivery = monitor._delivery
            assert isinstance(delivery, TeamDelivery)
            sizes[:] = [group.size() for group in delivery._team._groups]

        plain_loop(3, kept, note, **settings)
        assert sizes == ([4] if settings.get("ranks_per_node") == 1 else [2, 2]), settings
        found.append(
            [
                (row.step, kind, table.names, table.records.moments.tobytes())
                for row in kept.rows
                for kind, table in row.tables.items()
            ]
        )
    for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"):
        del os.environ[name]
    assert found[0] == found[1] == found[2] == found[3]
    assert bool(found[0]) == (rank() == 0)
    with pytest.raises(ValueError, match="divide the 4 ranks"):
        Monitor(model(), group=world(), ranks_per_node=3).attach()


def check_a_killed_rank_stops_nobody() -> None:
    path = shared_folder()

    def kill(step: int, _net: nn.Module, _monitor: Monitor) -> None:
        time.sleep(0.05)
        if step == 3 and rank() == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    plain_loop(6, JsonLines(path / "run.jsonl"), kill)
    name = "run.jsonl" if rank() == 0 else f"run.rank{rank():05d}.jsonl"
    rows = list(read_rows(path / name))
    alone = [row for row in rows if row.ranks is not None and row.ranks.scope == "rank"]
    assert [row.step for row in alone][-3:] == [4, 5, 6], [row.step for row in rows]
    silent = [a for row in rows for a in row.alerts if a.rule == "rank-silent"]
    assert [alert.where for alert in silent] == ["rank 3"]


CHECKS = (
    check_ddp_rows_are_those_of_one_process,
    check_fsdp2_rows_are_those_of_one_process,
    check_fsdp2_mixed_precision_and_accumulation,
    check_tensor_parallel_rows_are_those_of_one_process,
    check_outputs_that_peers_have_alike_count_once_and_others_whole,
    check_three_messages_per_row,
    check_stages_and_experts_have_names_of_their_own,
    check_one_changed_bit_in_one_replica_is_alerted,
    check_the_first_rank_with_nan_is_named,
    check_a_rank_that_skips_steps_stops_nobody,
    check_a_rank_without_gradients_stops_nobody,
    check_a_rank_that_raises_stops_nobody,
    check_a_stopped_rank_delays_rows_and_nothing_else,
    check_windows_of_several_steps,
    check_rows_of_each_rank_go_to_files_of_their_own,
    check_merged_rows_survive_the_file,
    check_files_of_ranks_join_to_rows_of_the_model,
    check_different_schedules_are_refused_on_all_ranks,
    check_two_levels_give_the_bits_of_one,
    check_a_killed_rank_stops_nobody,
)
LIVING[check_a_killed_rank_stops_nobody] = (0, 1, 2)
