"""What each of four ranks checks of faults: tests/monitoring/test_monitoring_rank_faults.py."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import SequenceParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

from initstats.monitoring import Monitor
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines, read_rows
from monitored import Kept
from monitoring_ranks import batch, model, plain_loop, rank, rows_of, shared_folder, world


def stop_for(seconds: float) -> None:
    """Stop this process by SIGSTOP; another one continues it."""
    command = f"sleep {seconds}; kill -CONT {os.getpid()}"
    with subprocess.Popen(["/bin/sh", "-c", command]):
        os.kill(os.getpid(), signal.SIGSTOP)


# A minute, by hand: INITSTATS_STOPPED_SECONDS=60.
STOPPED = float(os.environ.get("INITSTATS_STOPPED_SECONDS", "2"))


def check_a_rank_that_is_stopped_and_continued_is_in_every_row() -> None:
    took: list[float] = []

    def stop(step: int, _net: nn.Module, _monitor: Monitor) -> None:
        if step == 2 and rank() == 1:
            stop_for(STOPPED)
        elif step >= 2 and rank() != 1:  # until it goes on, and a while after
            time.sleep(STOPPED / 6)
        took.append(time.monotonic())

    kept = Kept()
    plain_loop(8, kept, stop, rank_timeout=30.0 + STOPPED)
    went_on = [took[1]]  # of the clock of the machine, which all processes read
    dist.broadcast_object_list(went_on, 1)
    assert took[2] < went_on[0] or rank() == 1  # nobody waits while it is stopped
    if rank() == 0:
        assert [row.step for row in kept.rows] == list(range(1, 9))
        for row in kept.rows:
            assert not row.missing
            assert not [a for a in row.alerts if a.rule.startswith("rank-")]
        assert kept.rows[1].ranks is not None
        assert kept.rows[1].ranks.slowest is not None
        assert kept.rows[1].ranks.slowest[0] == 1


def check_a_rank_that_is_stopped_for_too_long_is_named_and_goes_on_alone() -> None:
    path = shared_folder()

    def stop(step: int, _net: nn.Module, _monitor: Monitor) -> None:
        time.sleep(0.2)
        if step == 2 and rank() == 1:
            stop_for(12.0)

    plain_loop(8, JsonLines(path / "run.jsonl"), stop, rank_timeout=2.0)
    name = "run.jsonl" if rank() == 0 else f"run.rank{rank():05d}.jsonl"
    rows = list(read_rows(path / name))
    alone = [row.step for row in rows if row.ranks is not None and row.ranks.scope == "rank"]
    assert alone[-6:] == [3, 4, 5, 6, 7, 8], alone
    silent = [a.where for row in rows for a in row.alerts if a.rule == "rank-silent"]
    assert len(silent) == 1
    if rank() != 1:
        assert silent == ["rank 1"]
    dist.barrier()


def check_the_run_and_its_restarts_are_in_the_rows() -> None:
    os.environ.update(TORCHELASTIC_RUN_ID="job 7", TORCHELASTIC_RESTART_COUNT="2")
    kept = Kept()
    plain_loop(2, kept)
    del os.environ["TORCHELASTIC_RUN_ID"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    for row in kept.rows:
        assert row.ranks is not None
        assert (row.ranks.run, row.ranks.restarts) == ("job 7", 2)


def check_dtensor_activations_are_recorded_and_raise_nothing() -> None:
    mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("tp",))
    for local in (False, True):
        net = nn.Sequential(nn.LayerNorm(6), nn.Identity())
        parallelize_module(net, mesh, {"0": SequenceParallel(use_local_output=local)})
        kept = Kept()
        with Monitor(
            net, every=1, watch=("activations", "inputs"), sinks=[kept], group=world()
        ) as monitor:
            x = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))
            out = net(x.chunk(4, 1)[rank()])
            assert isinstance(out, DTensor) != local
            monitor.step()
        if rank() == 0:
            (row,) = kept.rows
            assert row.tables["activations"]["0"].count == 2 * 8 * 6
            assert row.tables["activations"]["1"].count == 2 * 8 * 6
            expected = float(nn.functional.layer_norm(x, (6,)).norm())
            assert row.tables["activations"]["0"].l2 == pytest.approx(expected, rel=1e-5)


def check_hsdp_replicas_that_differ_in_one_bit_are_named() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
    net = model()
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    kept = Kept()
    with Monitor(net, optimizer=optimizer, every=1, sinks=[kept], group=world()) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            net(rows_of(batch(step))).square().mean().backward()
            optimizer.step()
            if step == 0 and rank() == 3:
                weight = net[2].weight
                assert isinstance(weight, DTensor)
                local = weight.to_local().detach()
                local[0, 1] = torch.nextafter(local[0, 1], torch.tensor(9.0))
            monitor.step()
    if rank() == 0:
        assert kept.rows[0].tables["weights"]["0.weight"].count == 60
        found = [[a.where for a in r.alerts if a.rule == "replicas-differ"] for r in kept.rows]
        assert found[0] == []
        assert "2.weight" in found[1]  # at the next row
        (alert,) = [a for a in kept.rows[1].alerts if a.where == "2.weight"]
        assert "rank 3 differs" in alert.cause


def check_groups_of_some_ranks_write_rows_of_their_own() -> None:
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    kept = Kept()
    plain_loop(2, kept, group=groups[rank() // 2])
    if rank() % 2 == 0:
        for row in kept.rows:
            assert row.ranks is not None
            assert (row.ranks.rank, row.ranks.world) == (rank(), 2)
            assert row.tables["gradients"]["0.weight"].count == 60
    assert len(kept.rows) == 2 * (rank() % 2 == 0)


def check_ranks_that_have_made_other_groups_before_write_rows_together() -> None:
    for ranks in ([0, 1], [1, 2, 3], [0, 1]):  # one, three, one and one more than at the beginning
        dist.new_group(ranks)
    DeviceMesh("cpu", [0, 2, 3])  # as that of a pipeline stage
    mesh = init_device_mesh("cpu", (2, 2))
    for group, ranks_per_node in ((world(), None), (world(), 2), (mesh, None)):
        kept = Kept()
        plain_loop(2, kept, group=group, rank_timeout=8.0, ranks_per_node=ranks_per_node)
        if rank() == 0:
            assert [row.step for row in kept.rows] == [1, 2]
            assert not any(row.missing or row.alerts for row in kept.rows)


def check_a_tied_weight_that_stages_cut_otherwise_is_no_alert() -> None:
    mesh = DeviceMesh("cpu", [0, 1, 2])
    path = shared_folder()
    for reduce in ("merge", "none"):
        torch.manual_seed(0)
        stage = nn.Sequential(nn.Linear(6, 4))  # on ranks 0 to 2 and, whole, on rank 3
        if rank() < 3:
            fully_shard(stage, mesh=mesh)
        sink = JsonLines(path / f"{reduce}.jsonl")
        with Monitor(
            stage,
            every=1,
            watch=("weights",),
            sinks=[sink],
            group=world(),
            reduce=reduce,  # type: ignore[arg-type]
        ) as monitor:
            monitor.step()
        dist.barrier()
    if rank() == 0:
        merged = list(read_rows(path / "merge.jsonl"))
        for row in (*merged, *join_rows(sorted(path.glob("none.rank*.jsonl")))):
            assert row.tables["weights"]["0.weight"].count == 24
            assert not row.alerts


def check_a_rank_that_does_not_attach_is_named() -> None:
    if rank() != 3:
        with pytest.raises(RuntimeError, match=r"4 ranks .* within 2 s, .*; rank 3 did not$"):
            Monitor(model(), every=1, group=world(), rank_timeout=2.0).attach()
    dist.barrier()


def check_modules_that_some_ranks_lack_are_joined() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4))
    if rank() == 2:
        net.append(nn.Linear(4, 3))
    kept = Kept()
    with Monitor(
        net, every=1, watch=("weights", "gradients", "activations"), sinks=[kept], group=world()
    ) as monitor:
        for step in range(2):
            net(batch(step)).sum().backward()
            monitor.step()
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2]
        for row in kept.rows:
            assert row.tables["activations"]["0"].count == 4 * 8 * 4
            assert row.tables["activations"]["1"].count == 8 * 3
            assert row.tables["gradients"]["1.weight"].count == 12


def check_workers_of_a_data_loader_that_fork_change_nothing() -> None:
    # The process of this rank is a daemon, which may not have children.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    net, kept = model(), Kept()
    data = TensorDataset(torch.randn(32, 6))
    loader = DataLoader(data, batch_size=8, num_workers=2, multiprocessing_context="fork")
    with Monitor(net, every=1, sinks=[kept], group=world()) as monitor:
        for (x,) in loader:
            net.zero_grad()
            net(x).square().mean().backward()
            monitor.step()
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2, 3, 4]
        assert not any(row.missing for row in kept.rows)


CHECKS = (
    check_a_rank_that_is_stopped_and_continued_is_in_every_row,
    check_the_run_and_its_restarts_are_in_the_rows,
    check_dtensor_activations_are_recorded_and_raise_nothing,
    check_hsdp_replicas_that_differ_in_one_bit_are_named,
    check_groups_of_some_ranks_write_rows_of_their_own,
    check_ranks_that_have_made_other_groups_before_write_rows_together,
    check_a_tied_weight_that_stages_cut_otherwise_is_no_alert,
    check_modules_that_some_ranks_lack_are_joined,
    check_workers_of_a_data_loader_that_fork_change_nothing,
    check_a_rank_that_is_stopped_for_too_long_is_named_and_goes_on_alone,
    check_a_rank_that_does_not_attach_is_named,  # last: rank 3 has attached less often than others
)


def check_a_group_that_is_destroyed_before_the_monitor_closes_hangs_nobody() -> None:
    path = shared_folder()
    net = model()
    monitor = Monitor(net, every=1, sinks=[JsonLines(path / "run.jsonl")], group=world()).attach()
    for step in range(2):
        net(batch(step)).sum().backward()
        monitor.step()
        time.sleep(0.5)
    me = rank()
    dist.destroy_process_group()
    net(batch(2)).sum().backward()
    monitor.step()
    begun = time.monotonic()
    monitor.close()
    assert time.monotonic() - begun < 11.0
    if me == 0:
        steps = [row.step for row in read_rows(path / "run.jsonl")]
        assert steps[:2] == [1, 2]
