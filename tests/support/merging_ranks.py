"""What each of four ranks checks of merged statistics: tests/statistics/test_across_ranks.py."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from initstats import Stats, StatsTable, replicas_agree, stats
from initstats.sharding import sharded_parameters

MOMENTS = ("mean", "std", "rms", "l1", "l2", "skewness", "kurtosis")
EXACT = ("count", "nan", "pos_inf", "neg_inf", "zero", "min", "max", "min_abs")


def world() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def mesh_2d() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))


def whole(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def raising(kind: type[Exception], *texts: str) -> Iterator[None]:
    """Expect an error with these texts in its message."""
    with pytest.raises(kind) as caught:
        yield
    for text in texts:
        assert text in str(caught.value)


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """Count the collectives of torch.distributed, the functional ones too."""
    calls: list[str] = []
    found = {}
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object", "barrier"):
        found[name] = getattr(dist, name)

        def spy(*args: object, _name: str = name, **kwargs: object) -> object:
            calls.append(_name)
            return found[_name](*args, **kwargs)

        setattr(dist, name, spy)
    try:
        yield calls
    finally:
        for name, function in found.items():
            setattr(dist, name, function)


def assert_same(merged: Stats, expected: Stats, of: str = "") -> None:
    assert not merged.is_sharded
    assert merged.groups == expected.groups
    for name in EXACT:
        got, want = getattr(merged, name), getattr(expected, name)
        assert got == want or (math.isnan(got) and math.isnan(want)), (of, name)
    for name in MOMENTS:
        got, want = getattr(merged, name), getattr(expected, name)
        if math.isnan(want):
            assert math.isnan(got), (of, name)
            continue
        scale = {"mean": expected.rms * 0.1, "skewness": 1.0, "kurtosis": 3.0}.get(name, 0.0)
        assert abs(got - want) <= 3e-6 * (abs(want) + scale), (of, name, got, want)
    assert merged.histogram == expected.histogram, of
    assert merged.fingerprint == expected.fingerprint, of


def assert_equal_on_all_ranks(table: StatsTable) -> None:
    texts: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(texts, repr(table.to_dict()))
    assert len(set(texts)) == 1


def placed() -> dict[str, DTensor]:
    """One tensor per way of placing it, uneven, strided and with empty ranks included."""
    mesh = mesh_2d()
    dp, tp = mesh["dp"], mesh["tp"]
    found = {
        "rows": distribute_tensor(whole(64, 30), mesh, [Shard(0), Replicate()]),
        "columns": distribute_tensor(whole(30, 17), mesh, [Replicate(), Shard(1)]),
        "both": distribute_tensor(whole(9, 11), mesh, [Shard(0), Shard(1)]),
        "twice": distribute_tensor(whole(7, 5), mesh, [Shard(0), Shard(0)]),
        "replicated": distribute_tensor(whole(6), mesh, [Replicate(), Replicate()]),
        "empty ranks": distribute_tensor(whole(1, 9), mesh, [Shard(0), Shard(0)]),
        "one dimension": distribute_tensor(whole(10, 3), dp, [Shard(0)]),
        "the other": distribute_tensor(whole(10, 3), tp, [Shard(0)]),
        "implicit replicas": distribute_tensor(whole(12), dp, [Replicate()]),
        "bfloat16": distribute_tensor(whole(40, 4).bfloat16(), mesh, [Shard(1), Shard(0)]),
        "scalar": distribute_tensor(torch.tensor(3.0), mesh, [Replicate(), Replicate()]),
        "nothing": distribute_tensor(torch.empty(0, 3), mesh, [Shard(0), Shard(1)]),
    }
    linear = nn.Linear(12, 10, bias=False)
    with torch.no_grad():
        linear.weight.copy_(whole(10, 12))
    linear.weight = nn.Parameter(distribute_tensor(linear.weight, tp, [Shard(0)]))
    fully_shard(linear, mesh=dp)  # a strided shard of dimension 0
    found["strided"] = linear.weight  # type: ignore[assignment]
    return found


def check_merged_records_are_those_of_the_unsharded_tensors() -> None:
    tensors = placed()
    expected = stats({name: x.full_tensor() for name, x in tensors.items()}, fingerprint=True)
    with counted() as calls:
        table = stats(tensors, fingerprint=True)
    assert calls == []
    with counted() as calls:
        merged = table.all_merge(world())
    assert calls == ["all_reduce"] * 3
    for name in tensors:
        assert_same(merged[name], expected[name], name)
    assert_equal_on_all_ranks(merged)
    for scale in (1, 2):
        merged = stats(tensors, scale=scale).all_merge(world())
        assert merged["both"].histogram == stats(whole(9, 11), scale=scale).histogram
    alone = stats(tensors, moments=False, histogram=False, fingerprint=True).all_merge(world())
    for name in tensors:
        assert alone[name].fingerprint == expected[name].fingerprint
    assert alone["both"].count == 99


def check_reading_a_shard_raises_and_local_is_the_way_out() -> None:
    x = distribute_tensor(whole(8, 3), mesh_2d(), [Shard(0), Replicate()])
    table = stats({"x": x}, fingerprint=True)
    record = table["x"]
    for name in (*EXACT, *MOMENTS, "histogram", "fingerprint"):
        with raising(ValueError, "all_merge(group)", ".local"):
            getattr(record, name)
    with raising(ValueError, "all_merge"):
        stats(x).mean  # noqa: B018
    with raising(ValueError, "all_merge"):
        table.total().mean  # noqa: B018
    with raising(ValueError, "all_merge"):
        record.merge(record)
    assert record.is_sharded
    assert "all_merge" in repr(record)
    assert "[8, 3]" in repr(table)
    local = stats(x.to_local())
    assert table.local["x"].mean == record.local.mean == local.mean
    assert record.local.count == 12
    with raising(ValueError, "all_merge"):  # reading the local record merges nothing
        record.mean  # noqa: B018
    replicated = distribute_tensor(whole(5), mesh_2d(), [Replicate(), Replicate()])
    assert stats(replicated).mean == stats(whole(5)).mean


def check_differences_of_dtensors() -> None:
    mesh = mesh_2d()
    a, b = (distribute_tensor(whole(9, 4, seed=s), mesh, [Shard(0), Shard(1)]) for s in (1, 2))
    merged = stats({"x": a}, minus={"x": b}).all_merge(world())["x"]
    expected = stats(whole(9, 4, seed=1), minus=whole(9, 4, seed=2))
    assert merged.histogram == expected.histogram
    assert merged.count == 36
    other = distribute_tensor(whole(9, 4), mesh, [Shard(1), Shard(0)])
    with raising(ValueError, "mesh and placements"):
        stats(a, minus=other)
    with raising(TypeError, "kind of x"):
        stats(a, minus=whole(9, 4))


def check_partial_is_refused() -> None:
    x = DTensor.from_local(torch.ones(3), mesh_2d(), [Replicate(), Partial()])
    with raising(TypeError, "Partial(sum)"):
        stats(x)
    with raising(TypeError, "dim"):
        stats(distribute_tensor(whole(4, 4), mesh_2d(), [Shard(0), Shard(1)]), dim=0)


def check_plain_tensors_are_replicas_or_parts() -> None:
    rank = dist.get_rank()
    same, own = {"w": whole(50)}, {"out": whole(10 + rank, seed=rank)}
    with raising(ValueError, "plain=", "'w'"):
        stats(same).all_merge(world())
    assert_same(
        stats(same, fingerprint=True).all_merge(world(), plain="replicas")["w"],
        stats(whole(50), fingerprint=True),
    )
    merged = stats(own).all_merge(world(), plain="parts")["out"]
    expected = stats(torch.cat([whole(10 + r, seed=r) for r in range(4)]))
    assert merged.histogram == expected.histogram
    assert abs(merged.std - expected.std) < 3e-6 * expected.std
    pair = dist.new_group([0, 1])
    if rank < 2:
        merged = stats(own).all_merge(pair, plain="parts")["out"]
        assert merged.count == 21
    else:
        with raising(TypeError, "not in"):
            stats(own).all_merge(pair, plain="parts")


def check_the_group_is_named() -> None:
    table = stats({"x": torch.ones(2)})
    with raising(TypeError, "got NoneType", "torch.distributed.group.WORLD"):
        table.all_merge(None, plain="parts")  # type: ignore[arg-type]
    assert table.all_merge(mesh_2d()["dp"], plain="parts")["x"].count == 4  # type: ignore[arg-type]


def check_two_levels_give_the_bits_of_one() -> None:
    tensors = placed()
    table = stats(tensors, fingerprint=True)
    for mesh in (mesh_2d(), DeviceMesh("cpu", [[3, 1], [2, 0]])):
        with counted() as calls:
            merged = table.all_merge(mesh)
        assert calls == ["all_reduce"] * 3 * 2  # of two ranks each
        assert repr(merged.to_dict()) == repr(table.all_merge(world()).to_dict())
        assert_equal_on_all_ranks(merged)
    many = stats({str(i): torch.ones(2) for i in range(600)}, histogram=False)
    for group in (mesh_2d(), mesh_2d()["tp"], mesh_2d()):  # each has a capacity of its own
        assert many.all_merge(group, plain="replicas")["599"].count == 2
    pair = DeviceMesh("cpu", [[0, 1]], _init_backend=True)
    if dist.get_rank() > 1:
        with raising(TypeError, "not in"):
            table.all_merge(pair)


def check_differences_between_ranks_raise_on_all() -> None:
    rank = dist.get_rank()
    names = ["a", "b", "only here"] if rank == 2 else ["a", "b"]
    with raising(ValueError, "'only here' on rank 2 alone", 'plain="held"'):
        stats({name: torch.ones(2) for name in names}).all_merge(world(), plain="replicas")
    many = {str(i): torch.ones(1) for i in range(600 if rank == 1 else 3)}
    with raising(ValueError, "'3' on rank 1 alone", "and 594 more"):
        stats(many).all_merge(world(), plain="parts")
    with raising(ValueError, "one shape of 'a'", "[3] on rank 3", "[2] on ranks 0, 1, 2"):
        stats({"a": torch.ones(2 + (rank == 3))}).all_merge(world(), plain="held")
    with raising(ValueError, "same groups on all ranks", "on rank 1"):
        odd = {"histogram": rank != 1}
        stats({"a": torch.ones(2)}, **odd).all_merge(world(), plain="held")
    with raising(ValueError, "plain=" if rank == 3 else "none from rank 3"):
        stats({"a": torch.ones(2)}).all_merge(world(), plain=None if rank == 3 else "replicas")
    shard = distribute_tensor(whole(8), mesh_2d()["dp"], [Shard(0)])
    pair = dist.new_group([0, 1])
    if rank < 2:  # a tensor-parallel group: no rank of it holds the other rows
        with raising(ValueError, "expected the 8 elements of 'x' once", "got 4"):
            stats({"x": shard}).all_merge(pair)
    assert stats({"x": shard}).all_merge(world())["x"].count == 8


def check_stages_and_experts_that_some_ranks_hold_merge() -> None:
    rank, stage = dist.get_rank(), dist.get_rank() // 2
    mesh = mesh_2d()  # (stage, expert parallel)
    embedding, experts = whole(12, 3), whole(4, 5, 6, seed=1)
    layers = {f"stage{s}.weight": whole(4 + s, 3, seed=s) for s in range(2)}
    here: dict[str, torch.Tensor] = {"embed": embedding}  # tied: on both stages
    here[f"stage{stage}.weight"] = layers[f"stage{stage}.weight"]
    line = mesh["tp"]  # of this stage: the other one has another mesh
    here[f"stage{stage}.experts"] = distribute_tensor(experts * (stage + 1), line, [Shard(0)])
    if rank == 3:
        here["only here"] = whole(7, seed=3)
    expected = {"embed": embedding, **layers, "only here": whole(7, seed=3)}
    expected |= {f"stage{s}.experts": experts * (s + 1) for s in range(2)}
    with counted() as calls:
        merged = stats(here, fingerprint=True).all_merge(world(), plain="held")
    assert calls == ["all_reduce"] * 6
    assert set(merged) == set(expected)
    for name, record in merged.items():
        assert_same(record, stats(expected[name], fingerprint=True), name)
    assert_equal_on_all_ranks(merged)
    some = {} if rank == 1 else {"embed": embedding}  # a rank without any tensor
    merged = stats(some, fingerprint=True).all_merge(mesh, plain="held")
    assert_same(merged["embed"], stats(embedding, fingerprint=True))
    order = ["embed", *layers] if rank else [*layers, "embed"]
    merged = stats({n: expected[n] for n in order}).all_merge(world(), plain="replicas")
    assert_equal_on_all_ranks(merged)
    assert merged["embed"].count == 36
    sharded = distribute_tensor(whole(8), mesh["tp"], [Shard(0)])
    with raising(ValueError, "8 elements of 'x' once", "got 4", "ranks 1, 3 have none"):
        stats({} if rank % 2 else {"x": sharded}).all_merge(world(), plain="held")


def check_more_than_512_tensors() -> None:
    tensors = {str(i): torch.full((2,), float(i)) for i in range(700)}
    counts = []
    for _ in range(2):
        with counted() as calls:
            merged = stats(tensors, histogram=False).all_merge(world(), plain="replicas")
        counts.append(len(calls))
        assert [merged[str(i)].mean for i in (0, 699)] == [0.0, 699.0]
    assert counts[1] == 3


def sharded_model() -> tuple[nn.Module, list[FSDPModule]]:
    """Return a small model under FSDP2, and its modules that are sharded."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    return model, [module for module in model.modules() if isinstance(module, FSDPModule)]


def check_fsdp2_is_read_in_every_state() -> None:
    model, modules = sharded_model()
    values = {name: p.full_tensor() for name, p in model.named_parameters()}  # type: ignore[operator]
    expected = stats(values, fingerprint=True)
    with torch.no_grad():
        model(torch.ones(2, 6))  # leaves whole parameters in their place
    for change in ("reshard", "unshard", "reshard"):
        table = stats(model, fingerprint=True).all_merge(world())
        for name in values:
            assert_same(table[name], expected[name])
        for module in modules:
            getattr(module, change)()


def check_fsdp2_stale_copies_are_not_read() -> None:
    model, modules = sharded_model()
    for module in modules:
        module.set_reshard_after_backward(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()  # of the shards: the whole parameters in their place are stale
    table = stats(model, fingerprint=True).all_merge(world())
    trained = [p.full_tensor() for p in optimizer.param_groups[0]["params"]]
    for merged, tensor in zip(table.values(), trained, strict=True):
        assert_same(merged, stats(tensor, fingerprint=True))
    gradients = {n: p.grad for n, p in sharded_parameters(model).items() if p.grad is not None}
    assert len(gradients) == len(trained)
    assert stats(gradients).all_merge(world())["0.weight"].count == 60


def check_equal_replicas_agree() -> None:
    model, _ = sharded_model()
    with counted() as calls:
        report = replicas_agree(model, world())
    assert calls == ["all_reduce"] * 2
    assert report.ok
    assert report.compared == 0  # every element is on one rank
    tensors = placed()
    report = replicas_agree(stats(tensors, fingerprint=True), world())
    assert report, str(report)
    assert report.compared == 7
    plain = nn.Linear(5, 3)
    for parameter in plain.parameters():
        dist.broadcast(parameter.detach(), 0)
    assert replicas_agree(plain, world()).compared == 2
    with raising(ValueError, "fingerprint=True"):
        replicas_agree(stats(plain), world())
    with raising(TypeError, "got NoneType"):
        replicas_agree(plain, None)
    with raising(TypeError, "a module or records of stats(), got dict"):
        replicas_agree(dict(plain.named_parameters()), world())  # type: ignore[arg-type]


def check_one_changed_bit_in_one_replica_is_found() -> None:
    rank, tensors = dist.get_rank(), placed()
    local = tensors["implicit replicas"].to_local()
    if rank == 3:
        local[7] = torch.nextafter(local[7], torch.tensor(9.0))
    if rank == 1:
        tensors["columns"].to_local()[29, 0] += 1.0
    report = replicas_agree(stats(tensors, fingerprint=True), world())
    assert not report
    assert dict(report.differing) == {
        "columns": ((0, 1, 2), (3,)),  # 1 and 3 hold the same: which changed, nothing tells
        "implicit replicas": ((0, 1, 2), (3,)),
    }
    assert "implicit replicas: rank 3 from ranks 0, 1, 2" in str(report)
    reports: list[object] = [None] * 4
    dist.all_gather_object(reports, str(report))
    assert len(set(reports)) == 1


def check_many_differences_are_counted() -> None:
    rank = dist.get_rank()
    table = stats({str(i): torch.full((3,), float(rank % 2)) for i in range(40)}, fingerprint=True)
    report = replicas_agree(table, world())
    assert report.differing["0"] == ((0, 2), (1, 3))
    assert (len(report.differing), report.differing_count) == (16, 40)
    assert "and 24 more tensors" in str(report)
    with raising(ValueError, "one shape of '0'", "got [1] on ranks 0, 1, 3 and [2] on rank 2"):
        replicas_agree(stats([torch.ones(1 + (rank == 2))], fingerprint=True), world())


def check_tensors_that_some_ranks_lack_are_named_and_the_others_compared() -> None:
    rank = dist.get_rank()
    tensors = {"a": torch.ones(3), "b": torch.full((2,), float(rank == 3)), "c": torch.ones(2)}
    tensors |= {f"own {rank}": torch.ones(rank + 1)}
    if rank in (1, 2):
        del tensors["b"], tensors["c"]
    if rank == 2:
        tensors["a"] += 1.0
    report = replicas_agree(stats(tensors, fingerprint=True), world())
    assert not report.ok
    assert report.compared == 3
    assert report.differing == {"a": ((0, 1, 3), (2,)), "b": ((0,), (3,))}
    others = {f"own {i}": tuple(j for j in range(4) if j != i) for i in range(4)}
    assert report.lacking == {"b": (1, 2), "c": (1, 2), **others}
    assert "a: rank 2 from ranks 0, 1, 3; b: rank 3 from rank 0, ranks 1, 2 have none" in str(
        report
    )
    reports: list[object] = [None] * 4
    dist.all_gather_object(reports, report)
    assert reports == [report] * 4

    # In another order, and with a rank that has nothing at all.
    order = ("x", "y") if rank < 2 else ("y", "x")
    swapped = {name: torch.full((2,), float(name == "x")) for name in order}
    assert replicas_agree(stats(swapped, fingerprint=True), world()).compared == 2
    report = replicas_agree(stats(swapped if rank else {}, fingerprint=True), world())
    assert report.lacking == {"x": (0,), "y": (0,)}
    assert str(report) == "replicas differ: x: rank 0 has none; y: rank 0 has none"

    # In an order of its own on every rank: of no tensor all take the same place.
    mesh = mesh_2d()
    given = {
        "a": torch.ones(3),
        "b": distribute_tensor(whole(8, 3), mesh, [Replicate(), Shard(0)]),
        "c": torch.full((2,), 5.0),
        "d": distribute_tensor(whole(4), mesh, [Replicate(), Replicate()]),
    }
    names = [*given][rank:] + [*given][:rank]
    turned = {name: given[name] for name in names}
    report = replicas_agree(stats(turned, fingerprint=True), world())
    assert report.ok, str(report)
    assert report.compared == 4
    if rank == 2:
        turned["c"] = torch.full((2,), 6.0)
    report = replicas_agree(stats(turned, fingerprint=True), world())
    assert report.differing == {"c": ((0, 1, 3), (2,))}

    # A DTensor belongs on the ranks of its mesh, whoever has it.
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "dp"))["dp"]
    stage = {f"stage {rank // 2}": distribute_tensor(torch.ones(4), mesh, [Replicate()])}
    report = replicas_agree(stats(stage, fingerprint=True), world())
    assert report.ok, str(report)
    assert report.compared == 2
    report = replicas_agree(stats(stage if rank != 3 else {}, fingerprint=True), world())
    assert report.lacking == {"stage 1": (3,)}


def check_many_tensors_that_a_rank_lacks_are_counted() -> None:
    here = 40 if dist.get_rank() != 1 else 2
    table = stats({str(i): torch.ones(3) for i in range(here)}, fingerprint=True)
    report = replicas_agree(table, world())
    assert (len(report.lacking), report.lacking_count, report.compared) == (16, 38, 40)
    assert "and 22 more tensors" in str(report)


CHECKS = (
    check_merged_records_are_those_of_the_unsharded_tensors,
    check_reading_a_shard_raises_and_local_is_the_way_out,
    check_differences_of_dtensors,
    check_partial_is_refused,
    check_plain_tensors_are_replicas_or_parts,
    check_the_group_is_named,
    check_two_levels_give_the_bits_of_one,
    check_differences_between_ranks_raise_on_all,
    check_stages_and_experts_that_some_ranks_hold_merge,
    check_more_than_512_tensors,
    check_fsdp2_is_read_in_every_state,
    check_fsdp2_stale_copies_are_not_read,
    check_equal_replicas_agree,
    check_one_changed_bit_in_one_replica_is_found,
    check_many_differences_are_counted,
    check_tensors_that_some_ranks_lack_are_named_and_the_others_compared,
    check_many_tensors_that_a_rank_lacks_are_counted,
)
