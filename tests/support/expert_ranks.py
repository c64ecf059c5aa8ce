"""What each of four ranks checks of experts on a mesh of their own: test_monitoring_experts.py.

Experts are DTensors cut over the ranks of expert parallelism. Data-parallel ranks have meshes of
their own with the same experts: replicas that no placement tells of.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from initstats import replicas_agree, stats
from initstats.monitoring import Monitor, Row
from monitored import Kept, assert_alike, wait_for
from monitoring_ranks import batch, rank, rows_of, world

EXPERTS, WIDTH, STEPS = 4, 6, 3
WATCH = ("weights", "gradients", "updates", "moments")


class Copied(torch.autograd.Function):
    """The same on the ranks of a group: their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        if ctx.group is not None:
            dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class Summed(torch.autograd.Function):
    """The sum over the ranks of a group."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        x = x.clone()
        if group is not None:
            dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Experts(nn.Module):
    """A router and experts, of which each rank of a mesh has some; every token goes to all."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH) / WIDTH)
        self.group: dist.ProcessGroup | None = None
        self.first = 0

    def cut(self, mesh: DeviceMesh) -> None:
        """Keep the experts of this rank."""
        self.experts = nn.Parameter(distribute_tensor(self.experts.detach(), mesh, [Shard(0)]))
        self.group, self.first = mesh.get_group(), mesh.get_local_rank() * EXPERTS // mesh.size()

    def forward(self, x: Tensor) -> Tensor:
        here = self.experts.to_local() if isinstance(self.experts, DTensor) else self.experts
        gates = Copied.apply(self.router(x).softmax(-1), self.group)
        gates = gates[:, self.first : self.first + len(here)]
        out = torch.einsum("ni,eij,ne->nj", Copied.apply(x, self.group), here, gates)
        return Summed.apply(out, self.group)  # type: ignore[no-any-return]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, WIDTH), Experts(), nn.Linear(WIDTH, 2))


def average_gradients(net: nn.Module, group: dist.ProcessGroup) -> None:
    """Average over the data-parallel ranks, as such loops do."""
    for p in net.parameters():
        assert p.grad is not None
        local = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
        dist.all_reduce(local, group=group)
        local.div_(group.size())


def reference() -> list[Row]:
    """The rows of one process."""
    net, kept = model(), Kept()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with Monitor(net, optimizer=optimizer, every=1, watch=WATCH, sinks=[kept]) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            net(batch(step)).square().mean().backward()
            optimizer.step()
            monitor.step()
            wait_for(kept, step + 1)
    return kept.rows


def check_experts_count_once_and_their_replicas_agree() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    net, kept = model(), Kept()
    assert isinstance(net[1], Experts)
    net[1].cut(mesh["ep"])
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    with Monitor(
        net, optimizer=optimizer, every=1, watch=WATCH, sinks=[kept], group=world()
    ) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            net(rows_of(batch(step), 2, rank() // 2)).square().mean().backward()
            average_gradients(net, mesh.get_group("dp"))
            optimizer.step()
            monitor.step()
    report = replicas_agree(net, world())
    assert report, str(report)
    assert report.compared == len(list(net.parameters()))
    merged = stats(net).all_merge(world(), plain="replicas")
    assert merged["1.experts"].count == EXPERTS * WIDTH * WIDTH
    if rank() != 0:
        return
    for row, one in zip(kept.rows, reference(), strict=True):
        for kind in WATCH[:3]:
            assert_alike(row.tables[kind], one.tables[kind], "", kind)
        assert_alike(row.tables["exp_avg_sq"], one.tables["exp_avg_sq"], "", "exp_avg_sq")
        np.testing.assert_allclose(row.gradient_norm, one.gradient_norm, rtol=1e-4)
        assert row.tables["gradients"]["1.experts"].count == EXPERTS * WIDTH * WIDTH
        assert not row.missing, row.missing
        assert not row.alerts, row.alerts


def check_one_changed_bit_of_an_expert_is_named() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    net, kept = model(), Kept()
    assert isinstance(net[1], Experts)
    net[1].cut(mesh["ep"])
    with Monitor(net, every=1, watch=("weights",), sinks=[kept], group=world()) as monitor:
        for step in range(2):
            if step == 1 and rank() == 3:  # the second expert of the second half, in one replica
                assert isinstance(net[1].experts, DTensor)
                local = net[1].experts.to_local().detach()
                local[1, 2, 3] = torch.nextafter(local[1, 2, 3], torch.tensor(9.0))
            monitor.step()
    report = replicas_agree(net, world())
    assert dict(report.differing) == {"1.experts": ((0, 1, 2), (3,))}
    if rank() == 0:
        assert not kept.rows[0].alerts
        (alert,) = kept.rows[1].alerts
        assert (alert.rule, alert.where) == ("replicas-differ", "1.experts")
        assert "rank 3 differs" in alert.cause


def check_stages_with_experts_and_a_tied_embedding_count_once() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "ep"))
    stage = rank() // 2
    torch.manual_seed(0)
    embed, experts = nn.Linear(WIDTH, WIDTH, bias=False), [Experts(), Experts()]
    net = nn.ModuleDict({"embed": embed, f"stage{stage}": copy.deepcopy(experts[stage])})
    own = net[f"stage{stage}"]
    assert isinstance(own, Experts)
    own.cut(mesh["ep"])
    kept = Kept()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    kinds = ("weights", "gradients", "updates")
    with Monitor(
        net, optimizer=optimizer, every=1, watch=kinds, sinks=[kept], group=world()
    ) as monitor:
        for p in net.parameters():
            p.grad = torch.full_like(p, 2.0)  # the tied one after its sum over the stages
        optimizer.step()
        monitor.step()
    table = stats(net).all_merge(world(), plain="held")
    numel = {"embed.weight": WIDTH**2}
    for s in range(2):
        numel |= {f"stage{s}.{name}": p.numel() for name, p in experts[s].named_parameters()}
    assert {name: record.count for name, record in table.items()} == numel
    if rank() == 0:
        (row,) = kept.rows
        for kind in kinds:
            found = row.tables[kind]
            assert {name: found[name].count for name in found} == numel, kind
        np.testing.assert_allclose(row.gradient_norm, [2 * np.sqrt(sum(numel.values()))])
        assert not row.missing


CHECKS = (
    check_experts_count_once_and_their_replicas_agree,
    check_one_changed_bit_of_an_expert_is_named,
    check_stages_with_experts_and_a_tied_embedding_count_once,
)
