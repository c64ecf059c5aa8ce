"""Checks of sharded fills that every one of four ranks makes; see gloo_ranks.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement
from torch.utils._python_dispatch import TorchDispatchMode

import initstats
from gloo_ranks import Check
from initstats.sharding import reshard
from sharded import owned


class Model(nn.Module):
    """Two projections, a norm and a head, of sizes that four ranks do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.down(torch.relu(self.up(x)))))

    def init_weights(self) -> None:
        """Initialise as torchtitan's models do, after to_empty."""
        for layer in (self.up, self.down, self.head):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        for layer in (self.up, self.down):
            nn.init.uniform_(layer.bias, -0.1, 0.1)
        self.norm.reset_parameters()


class Collectives(TorchDispatchMode):
    """Counts what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        self.count += func.namespace in {"c10d", "_c10d_functional"}
        return func(*args, **(kwargs or {}))


def on_meta() -> Model:
    with torch.device("meta"):
        return Model()


def mesh_of(*shape: int) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=("dp", "tp")[: len(shape)])


def fill_all(model: nn.Module, **seeded: Any) -> None:
    """Fill every parameter, each by its own fill."""
    for name, parameter in model.named_parameters():
        own = {**seeded, "name": name} if seeded else {}
        if parameter.dim() == 2:
            initstats.kaiming_normal_(parameter, **own)
        else:
            initstats.uniform_(parameter, -0.1, 0.1, **own)


def filled() -> Model:
    """Return the model as one process fills it."""
    model = Model()
    fill_all(model, seed=0)
    return model


def shard_of(whole: torch.Tensor, tensor: DTensor) -> torch.Tensor:
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    return owned(whole, tensor.device_mesh.shape, coordinate, tensor.placements)


def assert_shards_of(model: nn.Module, whole: nn.Module) -> None:
    """Assert that the DTensors hold the bits of a whole model."""
    expected = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), name
        local = parameter.to_local()
        assert torch.equal(local, shard_of(expected[name].detach(), parameter)), name


def fill_and_compare(model: nn.Module) -> None:
    model.to_empty(device="cpu")
    with Collectives() as sent:
        fill_all(model, seed=0)
    assert sent.count == 0, sent.count
    assert_shards_of(model, filled())


@contextmanager
def caught() -> Iterator[list[str]]:
    """Collect the texts of warnings."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        yield texts
    texts += [str(record.message) for record in records]


def refusal(function: Callable[[], object]) -> str:
    """Return what the function raises, as text."""
    try:
        function()
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was refused")


# ---- layouts


def fsdp2_from_meta() -> None:
    fill_and_compare(fully_shard(on_meta(), mesh=mesh_of(4)))


def hsdp_from_meta() -> None:
    fill_and_compare(fully_shard(on_meta(), mesh=mesh_of(2, 2)))


def tensor_parallel_and_fsdp2_from_meta() -> None:
    mesh = mesh_of(2, 2)
    model = on_meta()
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel(), "head": ColwiseParallel()}
    parallelize_module(model, mesh["tp"], plan)
    fully_shard(model, mesh=mesh["dp"])
    placements = {str(p) for x in model.parameters() for p in x.placements}
    assert any("StridedShard" in p or "_S" in p for p in placements), placements
    fill_and_compare(model)


def offloaded_to_the_cpu() -> None:
    policy = CPUOffloadPolicy(pin_memory=False)
    fill_and_compare(fully_shard(on_meta(), mesh=mesh_of(4), offload_policy=policy))


def full_tensors_are_equal() -> None:
    """torch's own gathering of the shards gives the unsharded tensor, strided shards included."""
    mesh = mesh_of(2, 2)
    for placements in ([Shard(0), Shard(0)], [Shard(1), Replicate()], [Replicate(), Shard(0)]):
        x = distribute_tensor(torch.zeros(7, 5), mesh, placements)
        initstats.orthogonal_(x, seed=1)
        assert torch.equal(x.full_tensor(), initstats.orthogonal_(torch.empty(7, 5), seed=1))


# ---- generators


def generators_that_differ_agree_on_the_first_rank() -> None:
    rank = dist.get_rank()
    whole = [torch.empty(7, 5), torch.empty(9)]
    torch.manual_seed(0)
    initstats.foreach_normal_(whole)
    shards = [
        distribute_tensor(torch.zeros_like(x), mesh_of(2, 2), [Replicate(), Shard(0)])
        for x in whole
    ]
    torch.manual_seed(rank)
    with caught() as texts, Collectives() as sent:
        initstats.foreach_normal_(shards)
    assert sent.count == 1, sent.count
    for x, y in zip(shards, whole, strict=True):
        assert torch.equal(x.to_local(), shard_of(y, x))
    assert len(texts) == (rank != 0), texts
    assert all("the generators of the ranks differ" in text for text in texts), texts


def generators_that_agree_do_not_warn() -> None:
    x = distribute_tensor(torch.zeros(7, 5), mesh_of(4), [Shard(0)])
    for fill in (initstats.orthogonal_, initstats.normal_):
        torch.manual_seed(1)
        with caught() as texts, Collectives() as sent:
            fill(x)
        assert sent.count == 1
        assert not texts, texts
        torch.manual_seed(1)
        assert torch.equal(x.to_local(), shard_of(fill(torch.zeros(7, 5)), x))


def a_mesh_of_some_ranks_agrees_among_them() -> None:
    rank = dist.get_rank()
    mesh = DeviceMesh("cpu", [1, 3])
    local = torch.zeros({1: 2, 3: 1}.get(rank, 0), 3)
    x = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=(3, 3), stride=(3, 1))
    torch.manual_seed(rank)
    with caught() as texts, Collectives() as sent:
        initstats.normal_(x)
    assert sent.count == (rank in {1, 3})
    assert len(texts) == (rank == 3), texts
    torch.manual_seed(1)
    whole = initstats.normal_(torch.zeros(3, 3))
    assert torch.equal(local, {1: whole[:2], 3: whole[2:]}.get(rank, whole[:0]))


def a_mesh_of_two_dimensions_beside_the_world_agrees_row_by_row() -> None:
    # A mesh of two ranks and two dimensions: a broadcast along each.
    rank = dist.get_rank()
    mesh = DeviceMesh("cpu", [[0, 2]])
    local = torch.zeros(2 if rank in {0, 2} else 0)
    x = DTensor.from_local(
        local, mesh, [Shard(0), Shard(0)], run_check=False, shape=(4,), stride=(1,)
    )
    torch.manual_seed(rank)
    with caught():
        initstats.normal_(x)
    torch.manual_seed(0)
    whole = initstats.normal_(torch.zeros(4))
    assert torch.equal(local, {0: whole[:2], 2: whole[2:]}.get(rank, whole[:0]))


# ---- FSDP2's states


def fsdp2_unsharded_copies_are_refused() -> None:
    """A fill of the copy would be lost at the next reshard()."""
    model = fully_shard(on_meta(), mesh=mesh_of(4))
    model.to_empty(device="cpu")
    fill_all(model, seed=1)
    with torch.no_grad():
        model(torch.ones(2, 6))
    copies = dict(model.named_parameters())
    assert not isinstance(copies["up.weight"], DTensor)
    before = copies["up.weight"].detach().clone()
    for fill in (initstats.normal_, initstats.ones_, initstats.eye_, initstats.orthogonal_):
        text = refusal(lambda fill=fill: fill(copies["up.weight"]))  # type: ignore[misc]
        assert "got the unsharded copy that FSDP2 throws away (call reshard()" in text, text
    text = refusal(lambda: initstats.foreach_normal_([torch.zeros(2), copies["up.weight"]]))
    assert "unsharded copy" in text, text
    assert torch.equal(copies["up.weight"], before)
    reshard(model)
    fill_all(model, seed=0)
    assert_shards_of(model, filled())
    # What was filled lasts: the next gathering has it.
    with torch.no_grad():
        y = model(torch.ones(2, 6))
        assert torch.equal(y, filled()(torch.ones(2, 6)))
    reshard(model)


def freed_copies_are_refused() -> None:
    model = fully_shard(on_meta(), mesh=mesh_of(4))
    model.to_empty(device="cpu")
    with torch.no_grad():
        model(torch.ones(2, 6))
    copy_of_weight = model.up.weight
    reshard(model)
    assert copy_of_weight.untyped_storage().nbytes() == 0
    assert "unsharded copy" in refusal(lambda: initstats.zeros_(copy_of_weight))
    view = copy_of_weight.data  # no parameter, and the same memory
    for call in (initstats.normal_, initstats.zeros_, initstats.stats):
        text = refusal(lambda call=call: call(view))  # type: ignore[misc]
        assert "expected a tensor whose storage holds its elements" in text, text


def local_tensors_are_taken_afresh() -> None:
    model = fully_shard(on_meta(), mesh=mesh_of(4))
    model.to_empty(device="cpu")
    fill_all(model, seed=1)
    with torch.no_grad():
        model(torch.ones(2, 6))
    reshard(model)
    fill_all(model, seed=0)
    assert_shards_of(model, filled())


# ---- other engines, and fills of third-party code


def fsdp1_parameters_are_refused() -> None:
    for original in (False, True):
        model = FullyShardedDataParallel(
            Model(), device_id=torch.device("cpu"), use_orig_params=original
        )
        for parameter in model.parameters():
            for fill in (initstats.uniform_, initstats.ones_):
                text = refusal(lambda fill=fill, p=parameter: fill(p))  # type: ignore[misc]
                assert "got a parameter that FSDP1 flattened" in text, text


def fast_init_of_a_sharded_model() -> None:
    whole = Model()
    torch.manual_seed(0)
    with initstats.fast_init():
        whole.init_weights()
    model = fully_shard(on_meta(), mesh=mesh_of(4))
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    with initstats.fast_init() as fast:
        model.init_weights()
    assert not fast.report.left, fast.report
    assert_shards_of(model, whole)


def fast_init_zeroes_padding_rows_of_sharded_tables() -> None:
    """`weight[padding_idx]` of a table that is cut along its rows is a copy that torch gathers."""

    def zeroed(table: nn.Embedding) -> None:
        nn.init.normal_(table.weight)
        nn.init.zeros_(table.weight[1])
        nn.init.constant_(table.weight[-3:], 2.0)
        table.weight[5:8].zero_()
        table.weight.data[20].fill_(7)

    for init in (nn.Embedding.reset_parameters, zeroed):
        whole = nn.Embedding(33, 12, padding_idx=1)
        with torch.device("meta"):
            table = nn.Embedding(33, 12, padding_idx=1)
        fully_shard(table, mesh=mesh_of(4)).to_empty(device="cpu")
        for one in (whole, table):
            torch.manual_seed(0)
            with torch.no_grad(), initstats.fast_init():
                init(one)
        assert not whole.weight[1].any()
        assert torch.equal(table.weight.full_tensor(), whole.weight)  # type: ignore[attr-defined]


def fast_init_refuses_what_reaches_no_shard() -> None:
    table = fully_shard(nn.Embedding(33, 12), mesh=mesh_of(4))
    with torch.no_grad(), initstats.fast_init():
        for write in (
            lambda w: nn.init.normal_(w[1]),
            lambda w: w[2:20].uniform_(),
            lambda w: nn.init.zeros_(w[2:20, 3:]),
        ):
            text = refusal(lambda write=write: write(table.weight))  # type: ignore[misc]
            assert "got a view that torch gathered into a copy" in text, text
    model = fully_shard(nn.Linear(8, 8), mesh=mesh_of(4), reshard_after_forward=False)
    with torch.no_grad():
        model(torch.zeros(2, 8))
        with initstats.fast_init():
            text = refusal(lambda: nn.init.normal_(model.weight))
        assert "unsharded" in text, text
        model.reshard()


def torchs_fills_depend_on_the_mesh() -> None:
    """What fast_init replaces: torch's numbers depend on the placement, and ranks repeat them."""
    layouts: list[Placement] = [Shard(0), Shard(1)]
    shards = [distribute_tensor(torch.zeros(8, 8), mesh_of(4), [layout]) for layout in layouts]
    for x in shards:
        torch.manual_seed(0)
        with caught():
            nn.init.normal_(x)
    rows, columns = (x.full_tensor() for x in shards)
    assert not torch.equal(rows, columns)
    assert all(torch.equal(rows[:2], part) for part in rows.split(2))
    for x in shards:
        torch.manual_seed(0)
        initstats.normal_(x)
    rows, columns = (x.full_tensor() for x in shards)
    assert torch.equal(rows, columns)
    assert not any(torch.equal(rows[:2], part) for part in rows.split(2)[1:])


CHECKS: list[Check] = [
    fsdp2_from_meta,
    hsdp_from_meta,
    tensor_parallel_and_fsdp2_from_meta,
    offloaded_to_the_cpu,
    full_tensors_are_equal,
    generators_that_differ_agree_on_the_first_rank,
    generators_that_agree_do_not_warn,
    a_mesh_of_some_ranks_agrees_among_them,
    a_mesh_of_two_dimensions_beside_the_world_agrees_row_by_row,
    fsdp2_unsharded_copies_are_refused,
    freed_copies_are_refused,
    local_tensors_are_taken_afresh,
    fsdp1_parameters_are_refused,
    fast_init_of_a_sharded_model,
    fast_init_zeroes_padding_rows_of_sharded_tables,
    fast_init_refuses_what_reaches_no_shard,
    torchs_fills_depend_on_the_mesh,
]
