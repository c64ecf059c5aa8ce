"""What each of four ranks checks of files that are joined: test_monitoring_joined.py.

Every check trains twice, once with rows that the ranks merge while they train, and once with a file
per rank, which are joined afterwards, and compares the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from initstats.monitoring import Monitor, Row
from initstats.monitoring.row import Table
from initstats.monitoring.rules import FirstNotFinite
from initstats.sinks.joining import join_rows
from initstats.sinks.jsonl import JsonLines, read_rows
from monitored import Kept, assert_alike, wait_for
from monitoring_ranks import Noisy, batch, messages, model, rank, rows_of, shared_folder, world

Step = Callable[[nn.Module, int], None]


def trained(
    build: Callable[[], nn.Module],
    step: Step,
    reduce: str,
    steps: int = 6,
    schedule: Callable[[Optimizer, int], None] = lambda _optimizer, _number: None,
    **settings: object,
) -> list[Row]:
    """Train under a monitor; return the rows on the first rank."""
    path = shared_folder()
    net = build()
    defaults = {"every": 1, "group": world(), "rank_timeout": 30.0}
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
    sink = JsonLines(path / "run.jsonl")
    with Monitor(
        net,
        optimizer=optimizer,
        sinks=[sink],
        reduce=reduce,  # type: ignore[arg-type]
        **(defaults | settings),  # type: ignore[arg-type]
    ) as monitor:
        for number in range(1, steps + 1):
            optimizer.zero_grad()
            step(net, number)
            schedule(optimizer, number)
            optimizer.step()
            monitor.step()
    dist.barrier()
    if rank() != 0:
        return []
    merged = reduce == "merge"
    files = sorted(path.glob("run.rank*.jsonl"))
    return list(read_rows(sink.path) if merged else join_rows(files))


def assert_joined(
    build: Callable[[], nn.Module], step: Step, watch: Sequence[str], **settings: Any
) -> list[Row]:
    """Train twice and compare the rows; return the joined ones."""
    merged, joined = (
        trained(build, step, how, watch=watch, **settings) for how in ("merge", "none")
    )
    assert [row.steps for row in joined] == [row.steps for row in merged]
    for row, one in zip(joined, merged, strict=True):
        assert set(row.tables) == set(one.tables)
        for kind, table in one.tables.items():
            assert_alike(row.tables[kind], table, "", kind)
            assert_extremes(row.tables[kind], table)
        assert (row.step, row.first_step) == (one.step, one.first_step)
        for field in ("gradient_norm", "gradient_norm_before_clipping"):
            np.testing.assert_allclose(getattr(row, field), getattr(one, field), rtol=1e-6)
        assert row.missing == one.missing
        assert ranks_of(row) == ranks_of(one)
        assert (row.learning_rates, row.calls) == (one.learning_rates, one.calls)
        told = [
            [(a.rule, a.where, a.cause) for a in each.alerts if is_told_alike(a.rule)]
            for each in (row, one)
        ]
        assert told[0] == told[1]
    return joined


def assert_extremes(joined: Table, merged: Table) -> None:
    """Check what is followed through the steps of a row."""
    for which in ("low", "high", "average"):
        for field, expected in getattr(merged, which).items():
            found = getattr(joined, which)[field]
            np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6, err_msg=which)


def ranks_of(row: Row) -> tuple[object, ...]:
    assert row.ranks is not None
    times = (row.ranks.slowest, row.ranks.fastest)
    # Nothing tells how long the steps of the first row took.
    assert [time is None for time in times] == [row.first_step == 1] * 2, (row.step, times)
    return row.ranks.rank, row.ranks.scope, row.ranks.world, row.ranks.learning_rates


def is_told_alike(rule: str) -> bool:
    """Tell whether a rule needs nothing but rows; others judge what each rank has."""
    across = ("replicas-differ", "first-rank-not-finite", FirstNotFinite.id)
    return rule.startswith("rank-") or rule in across


def check_tensor_parallel_outputs_count_once_and_norms_are_whole() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def build() -> nn.Module:
        net = model()
        net.append(nn.LayerNorm(4))
        net.append(Noisy())
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for layer in (net[0], net[2], net):
            fully_shard(layer, mesh=mesh["dp"])
        return net

    def step(net: nn.Module, number: int) -> None:
        assert isinstance(net, nn.Sequential)
        out = net(rows_of(batch(number), 2, rank() // 2))  # another on every rank
        (out * SLOPE).sum().backward()  # the same gradients
        if number != 2:
            for layer in (net[0], net[2], net[3]):  # torch takes no gradients of several meshes
                clip_grad_norm_(layer.parameters(), 0.01)

    watch = ("weights", "gradients", "activations", "inputs", "updates")
    for window in (1, 2):
        rows = assert_joined(build, step, watch, window=window)
        for row in rows:
            counts = {n: r.count // window for n, r in row.tables["activations"].items()}
            assert counts == {"0": 80, "1": 80, "2": 32, "3": 32, "4": 64}
            assert row.gradient_norm.size == window
            assert row.gradient_norm_before_clipping.size == window * (row.steps != (2,))


def check_the_next_of_peers_counts_outputs_where_the_first_is_missing() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    path = shared_folder()
    for window, reduce in itertools.product((1, 2), ("merge", "none")):
        net = model()
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        monitor = Monitor(
            net,
            every=1,
            window=window,
            watch=("activations", "inputs"),
            sinks=[JsonLines(path / f"{reduce}{window}.jsonl")],
            group=world(),
            reduce=reduce,  # type: ignore[arg-type]
            rank_timeout=30.0,
        )
        monitor.attach()
        for number in range(1, 7):
            if number == 3 and rank() == 2:
                monitor.close()
            net(rows_of(batch(number), 2, rank() // 2))  # all of a mesh compute it together
            if number < 3 or rank() != 2:
                monitor.step()
            dist.barrier()
        monitor.close()
        dist.barrier()
    if rank() != 0:
        return
    for window in (1, 2):
        merged = list(read_rows(path / f"merge{window}.jsonl"))
        joined = list(join_rows(sorted(path.glob(f"none{window}.rank*.jsonl"))))
        assert len(merged) == len(joined) == 6 // window
        for row, one in zip(joined, merged, strict=True):
            assert ("ranks" in one.missing) == (row.step > 2)
            for kind, table in one.tables.items():
                counts = {name: table[name].count // window for name in table}
                # The cut one lacks a half of a half of the batch, the half of the rank that closed.
                cut = 80 if row.step <= 2 or kind == "inputs" else 60
                assert counts["0"] == (48 if kind == "inputs" else cut), (row.step, counts)
                assert_alike(row.tables[kind], table, "", kind)


COSINES = ("momentum_cosine", "gradients")


def cosines_of_one_process() -> list[Row]:
    net, kept = model(), Kept()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
    with Monitor(net, optimizer=optimizer, every=1, watch=COSINES, sinks=[kept]) as monitor:
        for number in range(1, 7):
            optimizer.zero_grad()
            net(batch(number)).square().mean().backward()
            optimizer.step()
            monitor.step()
            wait_for(kept, number)
    return kept.rows


def check_cosines_of_shards_are_those_of_one_process() -> None:
    def build() -> nn.Module:
        net = model()
        for layer in (net[0], net[2], net):
            fully_shard(layer)
        return net

    def step(net: nn.Module, number: int) -> None:
        net(rows_of(batch(number))).square().mean().backward()

    rows = assert_joined(build, step, COSINES)
    if rank() == 0:
        for row, one in zip(rows, cosines_of_one_process(), strict=True):
            cosines, expected = row.tables["momentum_cosine"], one.tables["momentum_cosine"]
            assert_alike(cosines, expected, "", "momentum_cosine")
            assert cosines["0.weight"].histogram.total == 1


def check_cosines_of_shards_and_of_whole_tensors_are_in_one_table() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def build() -> nn.Module:
        net = model().append(nn.LayerNorm(4))
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for layer in (net[0], net[2]):
            fully_shard(layer, mesh=mesh["dp"])
        return net

    def step(net: nn.Module, number: int) -> None:
        net(rows_of(batch(number), 2, rank() // 2)).square().mul(SLOPE).mean().backward()
        for p in net.get_submodule("3").parameters():  # of no wrapper that would reduce it
            assert p.grad is not None
            dist.all_reduce(p.grad)

    for row in assert_joined(build, step, COSINES, window=2):
        found = row.tables["momentum_cosine"]
        assert list(found) == list(row.tables["gradients"])
        assert {found[name].count for name in found} == {2}
        assert all(-1 <= cosine <= 1 for cosine in row.momentum_cosines().values())


SLOPE = torch.linspace(-1.0, 2.0, 4)


def check_stages_that_clip_apart_have_one_norm() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        embed = nn.Linear(3, 3)  # tied: on both stages
        return nn.ModuleDict({"embed": embed, f"stage{rank() // 2}": nn.Linear(5, 2)})

    def step(net: nn.Module, number: int) -> None:
        for p in net.parameters():
            p.grad = torch.full_like(p, float(number))
        if number > 1 and rank() >= 2:
            clip_grad_norm_(net.parameters(), 1e-3)

    rows = assert_joined(build, step, ("weights", "gradients"))
    for row in rows[1:]:
        np.testing.assert_allclose(row.gradient_norm_before_clipping, [6 * row.step], rtol=1e-6)


def check_alerts_across_ranks_are_those_of_rows_merged_while_training() -> None:
    def build() -> nn.Module:
        return DistributedDataParallel(model())

    def step(net: nn.Module, number: int) -> None:
        x = rows_of(batch(number)).clone()
        if number == 5 and rank() == 2:
            x[0, 0] = float("nan")
        if number == 3 and rank() == 3:
            weight = net.get_parameter("module.2.weight")
            with torch.no_grad():
                weight[0, 1] = torch.nextafter(weight[0, 1], torch.tensor(9.0))
        net(x).square().mean().backward()

    watch = ("weights", "gradients", "activations", "local_gradients")
    for window in (1, 3):
        rows = assert_joined(build, step, watch, window=window)
        if rank() == 0:
            told = [(row.step, a.rule, a.where) for row in rows for a in row.alerts]
            last = {1: 5, 3: 6}[window]  # of the row
            assert (3, "replicas-differ", "module.2.weight") in told
            assert (last, "first-rank-not-finite", "module.0") in told
            assert [one for one in told if one[1] == "not-finite"] == [
                (last, "not-finite", "module.0"),
                *[(6, "not-finite", "module.0.weight")] * (window == 1),
            ]


def check_windows_in_which_some_ranks_lack_gradients_are_joined() -> None:
    def step(net: nn.Module, number: int) -> None:
        for i, p in enumerate(net.parameters()):
            p.grad = torch.full_like(p, number + i)
        if (number, rank()) in ((2, 0), (4, 1), (6, 2)):
            net.get_parameter("0.weight").grad = None
        if number == 5:
            net.get_parameter("2.bias").grad = None

    rows = assert_joined(model, step, ("weights", "gradients", "updates"), window=2)
    why = [{"0.weight": f"no gradient on rank {i}"} for i in range(3)]
    why[2]["2.bias"] = "no gradient on ranks 0, 1, 2, 3"
    assert [row.missing.get("gradients") for row in rows] == why[: len(rows)]
    if rank() == 0:
        assert rows[0].tables["gradients"].low["mean"][0] == 1.0
        assert rows[0].tables["gradients"].high["mean"][0] == 2.0


def check_a_rank_whose_norm_leaves_the_others_is_named_afterwards() -> None:
    def step(net: nn.Module, number: int) -> None:
        scale = 1.0 + 0.05 * ((3 * number + rank()) % 7)
        scale *= 1e4 if number == 12 and rank() == 1 else 1.0
        (scale * net(batch(0))).sum().backward()

    def build() -> nn.Module:
        return DistributedDataParallel(model())

    watch, settings = ("gradients", "local_gradients"), {"histograms": False, "rules": ()}
    rows = assert_joined(build, step, watch, steps=12, **settings)
    told = [(row.step, a.rule, a.where) for row in rows for a in row.alerts]
    assert told == [(12, "rank-gradient-norm", "rank 1")] * (rank() == 0)


def check_learning_rates_that_differ_are_named() -> None:
    def build() -> nn.Module:
        return model()

    def step(net: nn.Module, _number: int) -> None:
        for p in net.parameters():  # the same, whatever the rates have made of the weights
            p.grad = torch.ones_like(p)

    def schedule(optimizer: Optimizer, number: int) -> None:
        (group,) = optimizer.param_groups
        group["lr"] = 1.0 / number  # that of rank 1 lags behind for two steps
        if rank() == 1 and number in (3, 4):
            group["lr"] = torch.tensor(0.5)

    with messages() as sent:
        rows = assert_joined(build, step, ("gradients",), schedule=schedule)
    assert len(sent) == 3 * 6 + 2 + 1, sent  # one more in two rows, and one at the end
    if rank() == 0:
        assert [row.learning_rates["0"] for row in rows] == [1 / n for n in range(1, 7)]
        others = [row.ranks.learning_rates for row in rows if row.ranks is not None]
        assert others == [{}, {}, *[{"rank 1": {"0": 0.5}}] * 2, {}, {}]
        told = [(row.step, a) for row in rows for a in row.alerts if a.rule == "rank-learning-rate"]
        assert [(step, a.where, a.value) for step, a in told] == [(3, "rank 1", 0.5)]
        cause = "its learning rate of group 0 is 0.5, that of most other ranks 0.333333"
        assert told[0][1].cause == cause


def check_calls_are_the_mean_over_ranks_and_steps() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({name: nn.Linear(6, 4) for name in ("0", "1", f"own {rank()}")})

    def step(net: nn.Module, number: int) -> None:
        net.get_submodule("0")(batch(number)).sum().backward()
        for _ in range(rank() if number > 1 else 0):
            net.get_submodule("1")(batch(number)).sum().backward()
        net.get_submodule(f"own {rank()}")(batch(number)).sum().backward()

    for window in (1, 3):
        rows = assert_joined(build, step, ("activations",), window=window)
        if rank() == 0:
            own = {f"own {i}": 1.0 for i in range(4)}
            first = {1: 0.0, 3: 1.0}[window]  # 0, 1, 2 and 3 calls, but none in the first step
            assert rows[0].calls == {"0": 1.0, "1": first, **own}
            assert rows[1].calls == {"0": 1.0, "1": 1.5, **own}


CHECKS = (
    check_learning_rates_that_differ_are_named,
    check_calls_are_the_mean_over_ranks_and_steps,
    check_windows_in_which_some_ranks_lack_gradients_are_joined,
    check_tensor_parallel_outputs_count_once_and_norms_are_whole,
    check_the_next_of_peers_counts_outputs_where_the_first_is_missing,
    check_cosines_of_shards_are_those_of_one_process,
    check_cosines_of_shards_and_of_whole_tensors_are_in_one_table,
    check_stages_that_clip_apart_have_one_norm,
    check_alerts_across_ranks_are_those_of_rows_merged_while_training,
    check_a_rank_whose_norm_leaves_the_others_is_named_afterwards,
)
