"""What each of four ranks checks of what a row lacks: tests/monitoring/test_monitoring_missing.py.

Every check trains as in `joining_ranks`: with rows that are merged, and with files that are joined.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from initstats.monitoring import Monitor
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines
from joining_ranks import assert_joined
from monitored import Kept
from monitoring_ranks import messages, plain_loop, rank, shared_folder, world

WATCH = ("weights", "gradients", "updates")


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))


def filled(net: nn.Module, without: int | None) -> None:
    """Give every parameter a gradient of ones, on one rank without the first."""
    for name, parameter in net.named_parameters():
        parameter.grad = torch.ones_like(parameter)
        if rank() == without and name == "0.weight":
            parameter.grad = None


def check_a_replica_stands_in_for_one_without_a_gradient() -> None:
    def step(net: nn.Module, number: int) -> None:
        filled(net, {2: 0, 3: 2}.get(number))

    for row in assert_joined(plain, step, WATCH):
        who = {2: 0, 3: 2}.get(row.step)
        told = {"0.weight": f"no gradient on rank {who}"}
        assert row.missing == ({} if who is None else {"gradients": told}), row.missing
        assert row.tables["gradients"]["0.weight"].count == 24
        assert row.gradient_norm == pytest.approx([(24 + 4 + 12 + 3) ** 0.5])


def check_a_rank_without_any_gradient_is_named() -> None:
    kept = Kept()
    net = nn.Linear(5, 4)
    with Monitor(net, every=1, watch=("gradients",), sinks=[kept], group=world()) as monitor:
        for number in range(1, 5):
            net.zero_grad()
            if number == 2 or number - 3 != rank():  # in step 2 all have it, later one has not
                net(torch.ones(1, 5)).sum().backward()
            monitor.step()
    if rank() == 0:
        for row in kept.rows:
            lacks = row.step - 3
            why = f"no gradient on rank {lacks}"
            expected = {"gradients": {"weight": why, "bias": why}} if lacks >= 0 else {}
            assert row.missing == expected, row.missing
            assert row.tables["gradients"]["weight"].count == 20
            assert row.gradient_norm == pytest.approx([24**0.5])


def check_a_shard_without_a_gradient_is_named() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def build() -> nn.Module:
        net = plain()
        linear = net.get_submodule("0")
        where = (Replicate(), Shard(0))
        weight = distribute_tensor(linear.get_parameter("weight"), mesh, where)
        linear.register_parameter("weight", nn.Parameter(weight))
        return net

    def step(net: nn.Module, number: int) -> None:
        filled(net, None)
        weight = net.get_parameter("0.weight")
        assert isinstance(weight, DTensor)
        if (number, rank()) in ((2, 1), (3, 1), (3, 3)):
            weight.grad = None

    for row in assert_joined(build, step, ("weights", "gradients")):
        record = row.tables["gradients"]["0.weight"]
        expected = {
            2: "no gradient on rank 1",
            3: "12 of 24 elements: no gradient on ranks 1, 3",
        }.get(row.step)
        assert row.missing == ({"gradients": {"0.weight": expected}} if expected else {})
        assert record.count == (12 if row.step == 3 else 24)
        assert row.gradient_norm == pytest.approx([(record.count + 4 + 12 + 3) ** 0.5])


def check_a_rank_that_has_closed_takes_no_replica_with_it() -> None:
    kept = Kept()
    plain_loop(2 if rank() == 1 else 4, kept)
    if rank() == 0:
        for row in kept.rows:
            for kind in ("weights", "gradients"):
                table = row.tables[kind]
                counts = {name: table[name].count for name in table}
                assert counts == {"0.weight": 60, "0.bias": 10, "2.weight": 40, "2.bias": 4}
            assert set(row.missing) == ({"ranks"} if row.step > 2 else set())


def check_a_window_takes_the_replica_with_the_most_steps() -> None:
    kept = Kept()
    net = plain()
    with Monitor(net, every=1, window=2, watch=WATCH, sinks=[kept], group=world()) as monitor:
        for number in range(1, 6):
            filled(net, 0 if number in (2, 5) else None)
            monitor.step()
    if rank() == 0:
        why = {"gradients": {"0.weight": "no gradient on rank 0"}}
        assert [row.missing for row in kept.rows] == [why, {}, why]
        counts = [row.tables["gradients"]["0.weight"].count for row in kept.rows]
        assert counts == [48, 48, 24]
        assert [len(row.gradient_norm) for row in kept.rows] == [2, 2, 1]


def check_messages_where_ranks_lack_gradients() -> None:
    for without, count in ((rank(), 3), (1, 8)):  # every rank the same, and one of them alone
        net = plain()
        with messages() as sent, Monitor(net, every=1, watch=WATCH, group=world()) as monitor:
            for _ in range(3):
                filled(net, without)
                monitor.step()
        assert len(sent) == 3 * count + 1, sent  # and one when all have closed


def check_the_loss_is_the_mean_of_the_ranks_that_gave_one() -> None:
    path = shared_folder()
    kept = Kept()
    sinks: dict[str, Kept | JsonLines] = {"merge": kept, "none": JsonLines(path / "run.jsonl")}
    for reduce, sink in sinks.items():
        for window in (1, 2) if reduce == "merge" else (1,):
            with (
                messages() as sent,
                Monitor(
                    plain(),
                    every=1,
                    window=window,
                    watch=("weights",),
                    sinks=[sink],
                    group=world(),
                    reduce=reduce,  # type: ignore[arg-type]
                ) as monitor,
            ):
                for number in range(1, 5):
                    monitor.step(loss=loss_of(number))
            assert len(sent) == (3 * 4 // window + 1 if reduce == "merge" else 0)
        dist.barrier()
    if rank() == 0:
        expected = [2.5, math.nan, math.inf, math.nan]  # of ranks 2 and 3 alone
        joined = list(join_rows(sorted(path.glob("run.rank*.jsonl"))))
        for rows in (kept.rows[:4], joined):
            assert [row.step for row in rows] == [1, 2, 3, 4]
            np.testing.assert_allclose(np.concatenate([r.loss for r in rows[:3]]), expected[:3])
            assert not rows[3].loss.size  # none gave one
            assert not any(alert.rule.startswith("first") for row in rows for alert in row.alerts)
        np.testing.assert_allclose(np.concatenate([r.loss for r in kept.rows[4:]]), expected)


def loss_of(number: int) -> Tensor | float | None:
    """Return what the last two of four ranks give: one NaN in step 2, infinity in 3, then none."""
    if rank() < 2 or number == 4:
        return None
    odd = {2: math.nan, 3: math.inf}.get(number)
    return torch.tensor(float(rank())) if rank() == 2 or odd is None else odd


CHECKS = (
    check_the_loss_is_the_mean_of_the_ranks_that_gave_one,
    check_a_replica_stands_in_for_one_without_a_gradient,
    check_a_rank_without_any_gradient_is_named,
    check_a_shard_without_a_gradient_is_named,
    check_a_rank_that_has_closed_takes_no_replica_with_it,
    check_a_window_takes_the_replica_with_the_most_steps,
    check_messages_where_ranks_lack_gradients,
)
