"""Models of several ranks are initialised from a seed that all of them know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import initstats


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def replicated() -> nn.Module:
    return DistributedDataParallel(nn.Sequential(nn.Linear(4, 4)))


def sharded() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    mesh = init_device_mesh("cpu", (1,))
    model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh, [Shard(0)]))
    return model


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("build", [replicated, sharded])
def test_a_model_of_several_ranks_needs_a_seed(build: type) -> None:
    model = build()
    before = [torch.clone(p.detach()) for p in model.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"init_: expected seed= for a model of several ranks"):
        initstats.init_(model, "mlp")
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    initstats.init_(model, "mlp", seed=0)
