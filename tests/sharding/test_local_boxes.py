"""Placements to boxes: every rank's pieces are what torch cuts, and together they are the whole."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

import initstats
from initstats.sharding import (
    Box,
    Piece,
    Run,
    is_dtensor,
    local_boxes,
    local_runs,
    local_tensor,
    pieces_of,
    runs_of,
)
from sharded import coordinates, fake_mesh, owned, placements_of, sharded_like


def cases(count: int) -> list[tuple[list[int], list[int], list[Placement]]]:
    """Return random (shape, mesh, placements), also with empty shards and empty tensors."""
    rng = random.Random(0)
    found = []
    for _ in range(count):
        dims = rng.choice([1, 2, 3])
        shape = [rng.randint(0 if rng.random() < 0.05 else 1, 9) for _ in range(dims)]
        mesh = [rng.randint(1, 4) for _ in range(rng.choice([1, 2, 3]))]
        kinds = placements_of(dims, splits=(1, 2, 3, 4))
        found.append((shape, mesh, [rng.choice(kinds) for _ in mesh]))
    return found


def written(local: torch.Tensor, pieces: tuple[Piece, ...]) -> torch.Tensor:
    """Return local with each element's C-order index in the whole, by the pieces' boxes."""
    for slices, box in pieces:
        view = local[slices]
        index = torch.zeros((), dtype=torch.int64)
        for size, offset, n in zip(box.size, box.offset, view.shape, strict=True):
            index = index[..., None] * size + torch.arange(offset, offset + n)
        view.copy_(index)
    return local


def test_pieces_are_what_torch_gives_the_rank_for_random_placements() -> None:
    several = empty = 0
    for shape, mesh, placements in cases(600):
        whole = torch.arange(torch.Size(shape).numel()).view(shape)
        for coordinate in coordinates(mesh):
            expected = owned(whole, mesh, coordinate, placements)
            runs = runs_of(shape, mesh, coordinate, placements)
            pieces = pieces_of(runs, [0] * len(shape), shape)
            local = written(torch.full_like(expected, -1), pieces)
            assert torch.equal(local, expected), (shape, mesh, coordinate, placements)
            several += len(pieces) > 1
            empty += not pieces
    assert several > 100
    assert empty > 100


def test_pieces_of_all_ranks_partition_the_tensor() -> None:
    for shape, mesh, placements in cases(200):
        seen = torch.zeros(shape, dtype=torch.int64)
        for coordinate in coordinates(mesh):
            for slices, box in pieces_of(
                runs_of(shape, mesh, coordinate, placements), [0] * len(shape), shape
            ):
                here = tuple(
                    slice(o, o + cut.stop - cut.start)
                    for o, cut in zip(box.offset, slices, strict=True)
                )
                seen[here] += 1
        replicas = torch.Size(
            n for n, p in zip(mesh, placements, strict=True) if isinstance(p, Replicate)
        ).numel()
        assert (seen == replicas).all(), (shape, mesh, placements)


def test_a_block_of_the_whole_has_pieces_that_count_from_its_first_element() -> None:
    rng = random.Random(1)
    for shape, mesh, placements in cases(200):
        offset = [rng.randint(0, n) for n in shape]
        size = [rng.randint(0, n - o) for n, o in zip(shape, offset, strict=True)]
        inside = tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))
        whole = torch.full(shape, -1)
        whole[inside] = torch.arange(torch.Size(size).numel()).view(size)
        for coordinate in coordinates(mesh):
            expected = owned(whole, mesh, coordinate, placements)
            runs = runs_of(shape, mesh, coordinate, placements)
            local = written(torch.full_like(expected, -1), pieces_of(runs, offset, size))
            assert torch.equal(local, expected), (shape, mesh, coordinate, placements, offset, size)


@pytest.mark.parametrize(
    ("shape", "mesh", "placements"),
    [
        ((7, 5), (2,), [Shard(0)]),
        ((7, 5), (4,), [Shard(1)]),
        ((3, 5), (4, 2), [Shard(0), Shard(0)]),
        ((8, 6), (2, 2), [_StridedShard(0, split_factor=2), Shard(0)]),
        ((8, 6, 4), (2, 2, 2), [Replicate(), Shard(2), Shard(0)]),
        ((), (2,), [Replicate()]),
    ],
)
def test_the_boxes_of_a_dtensor_are_those_of_its_rank(
    shape: tuple[int, ...], mesh: tuple[int, ...], placements: list[Placement]
) -> None:
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    for rank, coordinate in enumerate(coordinates(mesh)):
        with fake_mesh(mesh, rank) as device_mesh:
            x = sharded_like(whole, device_mesh, placements, fill=-1)
            assert is_dtensor(x)
            local = written(local_tensor(x), local_boxes("test", x))
            assert torch.equal(local, owned(whole, mesh, coordinate, placements))
            assert local_runs("test", x) == runs_of(shape, mesh, coordinate, placements)
            assert torch.equal(x.to_local(), local)  # the local tensor is the DTensor's memory


def test_strided_shards_are_told_from_shards() -> None:
    strided, plain = _StridedShard(0, split_factor=2), Shard(0)
    assert runs_of([8], [2], [0], [plain]) == ((Run(0, 4),),)
    assert runs_of([8], [2], [0], [strided]) == ((Run(0, 2), Run(4, 2)),)


def test_a_rank_outside_of_the_mesh_owns_nothing() -> None:
    with fake_mesh((4,), 3):
        mesh = torch.distributed.device_mesh.DeviceMesh("cpu", [0, 1])
        x = DTensor.from_local(
            torch.zeros(0, 3), mesh, [Shard(0)], run_check=False, shape=(4, 3), stride=(3, 1)
        )
        assert local_boxes("test", x) == ()


class OwnPlacement(Replicate):
    """A placement whose meaning nobody but its author knows."""


@pytest.mark.parametrize("placement", [Partial(), Partial("max"), OwnPlacement()])
def test_partial_and_unknown_placements_are_refused(placement: Placement) -> None:
    with fake_mesh((2,), 0) as mesh:
        x = DTensor.from_local(torch.zeros(4), mesh, [placement], run_check=False)
        with pytest.raises(TypeError, match=r"initstats.test: expected the placements Shard, Repl"):
            local_boxes("test", x)


def test_a_local_tensor_of_another_shape_is_refused() -> None:
    with fake_mesh((2,), 0) as mesh:
        x = DTensor.from_local(
            torch.zeros(2, 3), mesh, [Shard(0)], run_check=False, shape=(7, 3), stride=(3, 1)
        )
        with pytest.raises(ValueError, match=r"test: expected a local tensor of shape \(4, 3\)"):
            local_runs("test", x)


@pytest.mark.parametrize(
    "view", [lambda x: x[3], lambda x: x.narrow(0, 1, 2), lambda x: x.chunk(2)[0]]
)
def test_views_that_torch_gathered_are_refused(
    view: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    with fake_mesh((2,), 0) as mesh:
        x = DTensor.from_local(torch.zeros(2, 4), mesh, [Shard(0)], run_check=False)
        for base in (x, x.detach().requires_grad_()):
            with torch.no_grad():
                copied = view(base)
                with pytest.raises(ValueError, match="test: expected a DTensor with memory of its"):
                    local_boxes("test", copied)
                with pytest.raises(ValueError, match="a view that torch gathered into a copy"):
                    initstats.ones_(copied)
                assert not local_tensor(copied).any()


def test_views_of_the_memory_are_taken() -> None:
    whole = initstats.normal_(torch.zeros(4, 4), seed=1)
    with fake_mesh((2,), 1) as mesh:
        x = DTensor.from_local(torch.zeros(2, 4), mesh, [Shard(0)], run_check=False)
        initstats.normal_(x.t(), seed=1)
        assert torch.equal(local_tensor(x), whole.t()[2:])
        initstats.ones_(x[:, 1])
        assert torch.equal(local_tensor(x)[:, 1], torch.ones(2))


def test_dtensors_that_are_cut_from_larger_tensors_are_not_tied() -> None:
    # As transformers makes them: the address of each was 32, and all but one were left unwritten.
    with fake_mesh((2,), 1) as mesh:
        model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(3)))
        for layer in model:
            x = DTensor.from_local(torch.zeros(4, 4)[2:], mesh, [Shard(0)], run_check=False)
            layer.weight = torch.nn.Parameter(x)
        model[2].weight = model[0].weight
        assert [(e.name, e.tied_to) for e in initstats.plan(model, "mlp")] == [
            ("0.weight", ("2.weight",)),
            ("1.weight", ()),
        ]


def test_plain_tensors_are_no_dtensors() -> None:
    assert not is_dtensor(torch.zeros(1))
    assert not is_dtensor(torch.nn.Parameter(torch.zeros(1)))
    assert not is_dtensor(torch.nn.Buffer(torch.zeros(1)))
    assert not is_dtensor(None)


# ---- Box


def test_a_box_is_public_and_keeps_plain_integers() -> None:
    box = initstats.Box([torch.Size([4])[0], 0], torch.Size([8, 3]))  # type: ignore[arg-type]
    assert box == Box((4, 0), (8, 3))
    assert hash(box) == hash(Box((4, 0), (8, 3)))
    assert repr(box) == "Box(offset=(4, 0), size=(8, 3))"
    assert type(box).__module__ == "initstats"


@pytest.mark.parametrize(
    ("offset", "size", "error", "message"),
    [
        ((0.5,), (1,), TypeError, r"Box: expected offset to hold integers, got offset=\(0.5,\)"),
        ((0,), 1, TypeError, r"Box: expected size to hold integers, got size=1"),
        ((0,), (1, 2), ValueError, r"as many offsets as sizes, none negative, got offset=\(0,\)"),
        (
            (0,),
            (1 << 63,),
            ValueError,
            r"expected offsets and sizes below 2\*\*63, got offset=\(0,",
        ),
        ((-1,), (1,), ValueError, r"as many offsets as sizes, none negative, got offset=\(-1,\)"),
    ],
)
def test_a_box_that_is_none_is_refused(
    offset: object, size: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Box(offset, size)  # type: ignore[arg-type]


def test_a_run_is_a_start_and_a_length() -> None:
    assert runs_of([6], [2], [1], [_StridedShard(0, split_factor=2)]) == ((Run(2, 1), Run(5, 1)),)
