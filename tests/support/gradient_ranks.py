"""What each of four ranks checks of gradients: tests/monitoring/test_monitoring_gradients.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)

from initstats import stats
from initstats.diagnostics.findings import Finding
from initstats.monitoring import Monitor, Row
from initstats.monitoring.rank_alerts import RankAlerts, Together
from monitored import Kept
from monitoring_ranks import RANKS, batch, model, rank, rows_of, world

LOCAL = "local_gradients"


def gradients_of(which: int, steps: tuple[int, ...], prefix: str = "module.") -> dict[str, Tensor]:
    """What one rank accumulates over some batches, without any other rank."""
    net = model()
    for step in steps:
        net(rows_of(batch(step), RANKS, which)).square().mean().backward()
    return {f"{prefix}{n}": p.grad for n, p in net.named_parameters() if p.grad is not None}


def watched(net: nn.Module, kept: Kept, **settings: object) -> Monitor:
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    defaults = {"watch": ("gradients", LOCAL), "group": world(), "rank_timeout": 30.0}
    defaults |= {"optimizer": optimizer, "every": 1, "sinks": [kept]}
    return Monitor(net, **(defaults | settings))  # type: ignore[arg-type]


def assert_local(
    row: Row, steps: tuple[int, ...], prefix: str = "module.", rtol: float | None = None
) -> None:
    """The row has the elements of all ranks before, and the mean of the ranks after.

    Args:
        row: The row.
        steps: Of the batches that were accumulated.
        prefix: What names begin with.
        rtol: Relative error of norms in lower precision; None for float32.
    """
    each = [gradients_of(which, steps, prefix) for which in range(RANKS)]
    for name in each[0]:
        local, reduced = row.tables[LOCAL][name], row.tables["gradients"][name]
        expected = stats(torch.cat([one[name].ravel() for one in each]))
        assert local.count == expected.count == RANKS * reduced.count
        np.testing.assert_allclose(local.l2, expected.l2, rtol=rtol or 1e-5)
        if rtol is None:
            extrema = np.array((local.min, local.max))
            np.testing.assert_allclose(extrema, (expected.min, expected.max), rtol=1e-5)
        whole = stats(torch.stack([one[name] for one in each]).mean(0))
        np.testing.assert_allclose(reduced.l2, whole.l2, rtol=rtol or 1e-4)


def check_ddp_local_gradients_are_those_before_the_reduction() -> None:
    for view in (False, True):
        net = DistributedDataParallel(model(), gradient_as_bucket_view=view)
        kept = Kept()
        with watched(net, kept) as monitor:
            for step in range(3):
                net.zero_grad()
                net(rows_of(batch(step))).square().mean().backward()
                monitor.step()
        if rank() == 0:
            assert [row.step for row in kept.rows] == [1, 2, 3]
            for step, row in enumerate(kept.rows):
                assert_local(row, (step,))
                assert not row.missing
        assert not net.module[0].weight._post_accumulate_grad_hooks  # type: ignore[union-attr,operator,index]


def check_accumulation_without_sync_counts_once_and_whole() -> None:
    net = DistributedDataParallel(model())
    kept = Kept()
    with watched(net, kept) as monitor:
        for step in range(2):
            net.zero_grad()
            for i in range(3):
                with contextlib.nullcontext() if i == 2 else net.no_sync():
                    net(rows_of(batch(3 * step + i))).square().mean().backward()
            monitor.step()
    if rank() == 0:
        for step, row in enumerate(kept.rows):
            assert_local(row, (3 * step, 3 * step + 1, 3 * step + 2))


def check_a_parameter_that_some_ranks_do_not_use() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.other = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out + self.other(x) if rank() < 2 else out

    net = DistributedDataParallel(Routed(), find_unused_parameters=True)
    kept = Kept()
    with watched(net, kept) as monitor:
        for step in range(2):
            net.zero_grad()
            net(rows_of(batch(step))).square().mean().backward()
            monitor.step()
    if rank() == 0:
        assert [row.step for row in kept.rows] == [1, 2]
        for row in kept.rows:
            assert row.tables[LOCAL]["module.used.weight"].count == RANKS * 12
            assert row.tables[LOCAL]["module.other.weight"].count == 2 * 12
            assert row.tables["gradients"]["module.other.weight"].count == 12


def check_fsdp2_local_gradients_are_those_before_they_are_scattered() -> None:
    for policy, accumulated in ((None, 1), (None, 3), (MIXED, 1), (MIXED, 3)):
        net, kept = model(), Kept()
        for layer in (net[0], net[2], net):
            fully_shard(layer, **({} if policy is None else {"mp_policy": policy}))
        with watched(net, kept) as monitor:
            for step in range(3):
                net.zero_grad()
                for i in range(accumulated):
                    net.set_requires_gradient_sync(i == accumulated - 1)
                    x = rows_of(batch(accumulated * step + i))
                    net(x).float().square().mean().backward()
                monitor.step()
        if rank() == 0:
            assert [row.step for row in kept.rows] == [1, 2, 3]
            for step, row in enumerate(kept.rows):
                assert not row.missing
                first = accumulated * step
                steps = tuple(range(first, first + accumulated))
                assert_local(row, steps, "", None if policy is None else 0.03)
        for parameter in net.parameters():
            assert not parameter._post_accumulate_grad_hooks


MIXED = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def check_tensor_parallel_local_gradients_are_those_of_a_batch_each() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    for sharded in (True, False):
        net, kept, norms = model(), Kept(), []
        net.append(nn.LayerNorm(4))  # a plain module: both ranks of a batch have its gradient
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(net, mesh["tp"], plan)
        if sharded:
            for layer in (net[0], net[2], net):
                fully_shard(layer, mesh=mesh["dp"])
        judge = RankAlerts.judge

        def spy(self: RankAlerts, together: Together) -> tuple[Finding, ...]:
            norms.append(dict(together.local_norms))  # noqa: B023  # called in this turn
            return judge(self, together)  # noqa: B023

        with patch.object(RankAlerts, "judge", spy), watched(net, kept) as monitor:
            for step in range(2):
                net.zero_grad()
                net(rows_of(batch(step), 2, rank() // 2)).square().mul(WEIGHTS).mean().backward()
                monitor.step()
        if rank() != 0:
            continue
        for step, row in enumerate(kept.rows):
            assert not row.missing, row.missing
            each = []
            for which in range(2):
                alone = model().append(nn.LayerNorm(4))
                alone(rows_of(batch(step), 2, which)).square().mul(WEIGHTS).mean().backward()
                each.append(dict(alone.named_parameters()))
                norm = get_total_norm([p.grad for p in alone.parameters() if p.grad is not None])
                np.testing.assert_allclose(norms[step][2 * which], float(norm), rtol=1e-5)
            assert list(norms[step]) == [0, 2]
            for name in each[0]:
                both = torch.stack([one[name].grad for one in each])  # type: ignore[misc]
                local = row.tables[LOCAL][name]
                assert local.count == both.numel()
                np.testing.assert_allclose(local.l2, float(both.norm()), rtol=1e-5)


WEIGHTS = torch.tensor([1.0, 2.0, 3.0, 4.0])


def check_a_part_of_fsdp2_that_is_called_alone_is_named_in_the_first_step() -> None:
    net, kept = nn.ModuleDict({"part": model()}), Kept()
    fully_shard(net["part"])
    with watched(net, kept) as monitor:
        for step in range(2):
            net.zero_grad()
            net["part"](rows_of(batch(step))).square().mean().backward()  # not net(...)
            monitor.step()
    if rank() == 0:
        first, second = kept.rows
        assert LOCAL not in first.tables
        assert "had not gathered" in first.missing[LOCAL]["part.0.weight"]
        assert second.tables[LOCAL]["part.0.weight"].count == RANKS * 60


def check_a_partial_gradient_is_named_and_not_taken() -> None:
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("tp",))

    class Times(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(distribute_tensor(torch.ones(6, 3), mesh, [Replicate()]))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    net, kept = Times(), Kept()
    with watched(net, kept, optimizer=None) as monitor:
        x = DTensor.from_local(rows_of(batch(0)), mesh, [Shard(0)])
        net(x).to_local().square().sum().backward()
        assert isinstance(net.weight.grad, DTensor)
        assert net.weight.grad.placements[0].is_partial()
        monitor.step()
    if rank() == 0:
        (row,) = kept.rows
        assert LOCAL not in row.tables
        assert "Partial" in row.missing[LOCAL]["weight"]


def alerts_of(kept: Kept, rule: str) -> list[tuple[int, str]]:
    return [(row.step, a.where) for row in kept.rows for a in row.alerts if a.rule == rule]


def check_a_rank_whose_gradient_norm_leaves_the_others_is_named() -> None:
    net = DistributedDataParallel(model())
    kept = Kept()
    with watched(net, kept, histograms=False) as monitor:
        for step in range(1, 31):
            net.zero_grad()
            scale = 100.0 if rank() == 2 and step in (21, 22, 30) else 1.0
            loss = net(rows_of(batch(step))).square().mean()  # healthy: each rank its own data
            (scale * loss).backward()
            monitor.step()
    if rank() == 0:
        assert [row.step for row in kept.rows] == list(range(1, 31))
        found = alerts_of(kept, "rank-gradient-norm")
        assert found == [(21, "rank 2"), (30, "rank 2")]  # once, and again when it comes back
        (alert,) = [a for a in kept.rows[20].alerts if a.rule == "rank-gradient-norm"]
        assert alert.value > alert.threshold > 0


def check_a_rank_of_fsdp2_whose_norm_leaves_the_others_is_named() -> None:
    net, kept = model(), Kept()
    for layer in (net[0], net[2], net):
        fully_shard(layer)
    with watched(net, kept, histograms=False) as monitor:
        for step in range(1, 21):
            net.zero_grad()
            scale = 100.0 if rank() == 1 and step == 20 else 1.0
            (scale * net(rows_of(batch(step))).square().mean()).backward()
            monitor.step()
    if rank() == 0:
        assert alerts_of(kept, "rank-gradient-norm") == [(20, "rank 1")]


def check_a_restart_does_not_forget_the_norms_of_the_ranks() -> None:
    state: dict[str, object] = {}
    for first, last in ((1, 20), (21, 23)):
        net, kept = DistributedDataParallel(model()), Kept()
        monitor = watched(net, kept, histograms=False)
        if state:
            monitor.load_state_dict(state)
        with monitor:
            for step in range(first, last + 1):
                net.zero_grad()
                scale = 100.0 if rank() == 2 and step in (20, 21, 23) else 1.0
                (scale * net(rows_of(batch(step))).square().mean()).backward()
                monitor.step()
            state = monitor.state_dict()
        if rank() == 0:  # told in step 20 already, over in 22, and told again
            steps = [20] if first == 1 else [23]
            assert alerts_of(kept, "rank-gradient-norm") == [(step, "rank 2") for step in steps]


def check_the_first_rank_and_layer_with_nan_are_named() -> None:
    for watch, where in (
        (("weights", "gradients", "activations"), "module.0"),
        (("gradients", LOCAL), "module.2.bias"),  # the last parameter is the first in backward
    ):
        net = DistributedDataParallel(model())
        kept = Kept()
        with watched(net, kept, watch=watch, window=2) as monitor:
            for step in range(1, 5):
                net.zero_grad()
                x = rows_of(batch(step)).clone()
                if rank() == 3 and step == 4:
                    x[0, 0] = float("nan")
                net(x).square().mean().backward()
                monitor.step()
        if rank() == 0:
            assert alerts_of(kept, "first-rank-not-finite") == [(4, where)]
            (alert,) = [a for a in kept.rows[1].alerts if a.rule == "first-rank-not-finite"]
            assert "rank 3 is the first" in alert.cause


def check_reduced_gradients_blame_no_rank() -> None:
    net = DistributedDataParallel(model())
    kept = Kept()
    with watched(net, kept, watch=("gradients",)) as monitor:
        x = rows_of(batch(0)) * (float("inf") if rank() == 3 else 1.0)
        net(x).square().mean().backward()
        monitor.step()
    if rank() == 0:
        (alert,) = [a for a in kept.rows[0].alerts if a.rule == "first-rank-not-finite"]
        assert "reduced over ranks" in alert.cause
        assert "local_gradients" in alert.fix


def check_a_mask_of_infinities_is_no_alert() -> None:
    class Mask(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x < 0, -torch.inf)

    net = nn.Sequential(nn.Linear(6, 6), Mask(), nn.Softmax(-1))
    kept = Kept()
    with watched(net, kept, watch=("activations",)) as monitor:
        net(batch(rank()))
        monitor.step()
    if rank() == 0:
        (row,) = kept.rows
        assert row.tables["activations"]["1"].neg_inf > 0
        assert not row.alerts


def norms_before(build: object, watch: tuple[str, ...] = ("gradients",)) -> None:
    """Clip gradients of a sharded model in two ways, and compare the norms with those of one rank.

    Args:
        build: Shards a model; returns it and over how many ranks the batch is split.
        watch: What the monitor watches.
    """
    assert callable(build)
    for how in (clip_grad_norm_, clip_apart, clip_grad_value_):
        net, ranks = build()
        expected, kept = [], Kept()
        with watched(net, kept, watch=watch, window=2) as monitor:
            for step in range(4):
                net.zero_grad()
                alone = model()
                which = rank() * ranks // RANKS
                net(rows_of(batch(step), ranks, which)).square().mean().backward()
                alone(batch(step)).square().mean().backward()
                expected.append(float(get_total_norm([p.grad for p in alone.parameters()])))  # type: ignore[misc]
                if step != 1:
                    how(net.parameters(), 0.01)
                monitor.step()
        if rank() == 0:
            before = np.concatenate([row.gradient_norm_before_clipping for row in kept.rows])
            after = np.concatenate([row.gradient_norm for row in kept.rows])
            np.testing.assert_allclose(before, expected, rtol=1e-4, err_msg=how.__name__)
            assert before[1] == after[1]  # nothing was clipped
            assert (after[[0, 2, 3]] < 0.5 * before[[0, 2, 3]]).all()


def clip_apart(parameters: Iterable[Tensor], most: float) -> None:
    """Clip as a loop of torchtitan does."""
    listed = list(parameters)
    norm = get_total_norm([p.grad for p in listed if p.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    clip_grads_with_norm_(listed, most, norm)


def check_the_norm_before_clipping_of_ddp() -> None:
    norms_before(lambda: (DistributedDataParallel(model()), RANKS))


def check_the_norm_before_clipping_of_fsdp2() -> None:
    def build() -> tuple[nn.Module, int]:
        net = model()
        for layer in (net[0], net[2], net):
            fully_shard(layer)
        return net, RANKS

    norms_before(build)


def check_the_norm_before_clipping_of_hsdp() -> None:
    def build() -> tuple[nn.Module, int]:
        net, mesh = model(), init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
        for layer in (net[0], net[2], net):
            fully_shard(layer, mesh=mesh)
        return net, RANKS

    norms_before(build)


def check_the_norm_before_clipping_of_tensor_parallel() -> None:
    def build(*, sharded: bool) -> tuple[nn.Module, int]:
        net, mesh = model(), init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        if sharded:
            for layer in (net[0], net[2], net):
                fully_shard(layer, mesh=mesh["dp"])
        return net, 2 if sharded else 1

    norms_before(lambda: build(sharded=True))
    # Each pair of ranks holds the whole model: implicit replicas, with the whole batch.
    norms_before(lambda: build(sharded=False))


def check_norms_of_stages_are_joined_and_a_tied_weight_counts_once() -> None:
    torch.manual_seed(0)
    stage = rank() // 2
    net = nn.ModuleDict({"embed": nn.Linear(3, 3), f"stage{stage}": nn.Linear(5, 2)})
    kept = Kept()
    with watched(net, kept) as monitor:
        for p in net.parameters():
            p.grad = torch.full_like(p, 2.0)
        if stage == 1:  # the other stage does not clip
            clip_grad_norm_(net.parameters(), 1e-3)
        monitor.step()
    if rank() == 0:
        (row,) = kept.rows
        # 12 elements of each stage, and the embedding of one stage: the one that is counted.
        np.testing.assert_allclose(row.gradient_norm_before_clipping, [2 * np.sqrt(36)], rtol=1e-12)


def check_a_norm_that_is_not_finite_stays_so() -> None:
    for value in (float("nan"), float("inf")):
        net, kept = model(), Kept()
        for layer in (net[0], net[2], net):
            fully_shard(layer)
        with watched(net, kept) as monitor:
            x = rows_of(batch(0)) * (value if rank() == 3 else 1.0)
            net(x).square().mean().backward()
            clip_grad_norm_(net.parameters(), 0.01)
            monitor.step()
        if rank() == 0:
            assert not np.isfinite(kept.rows[0].gradient_norm_before_clipping).any()


CHECKS = (
    check_ddp_local_gradients_are_those_before_the_reduction,
    check_accumulation_without_sync_counts_once_and_whole,
    check_a_parameter_that_some_ranks_do_not_use,
    check_fsdp2_local_gradients_are_those_before_they_are_scattered,
    check_tensor_parallel_local_gradients_are_those_of_a_batch_each,
    check_a_partial_gradient_is_named_and_not_taken,
    check_a_part_of_fsdp2_that_is_called_alone_is_named_in_the_first_step,
    check_a_rank_of_fsdp2_whose_norm_leaves_the_others_is_named,
    check_a_rank_whose_gradient_norm_leaves_the_others_is_named,
    check_a_restart_does_not_forget_the_norms_of_the_ranks,
    check_the_first_rank_and_layer_with_nan_are_named,
    check_reduced_gradients_blame_no_rank,
    check_a_mask_of_infinities_is_no_alert,
    check_the_norm_before_clipping_of_ddp,
    check_the_norm_before_clipping_of_fsdp2,
    check_the_norm_before_clipping_of_hsdp,
    check_the_norm_before_clipping_of_tensor_parallel,
    check_norms_of_stages_are_joined_and_a_tied_weight_counts_once,
    check_a_norm_that_is_not_finite_stays_so,
)
