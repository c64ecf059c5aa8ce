"""Every fill on DTensors: the shards of any mesh, put together, are the unsharded tensor."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

import initstats
from initstats import Box
from initstats.sharding import local_boxes, local_tensor
from sharded import coordinates, fake_mesh, owned, placements_of, sharded_like

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MATRICES: dict[str, Callable[..., object]] = {
    "uniform_": partial(initstats.uniform_, a=-1.0, b=2.0),
    "normal_": partial(initstats.normal_, std=0.02),
    "trunc_normal_": partial(initstats.trunc_normal_, a=0.5, b=0.625),
    "truncated_normal_": partial(initstats.truncated_normal_, std=0.02),
    "xavier_uniform_": initstats.xavier_uniform_,
    "xavier_normal_": initstats.xavier_normal_,
    "kaiming_uniform_": initstats.kaiming_uniform_,
    "kaiming_normal_": initstats.kaiming_normal_,
    "lecun_uniform_": initstats.lecun_uniform_,
    "lecun_normal_": initstats.lecun_normal_,
    "variance_scaling_": partial(initstats.variance_scaling_, mode="fan_avg"),
    "orthogonal_": partial(initstats.orthogonal_, gain=1.5),
}
MATRICES_ALONE: dict[str, Callable[..., object]] = {
    "sparse_": partial(initstats.sparse_, sparsity=0.4),
}
BATCHES: dict[str, Callable[..., object]] = {
    "orthogonal_ batch": partial(initstats.orthogonal_, batch_dims=1),
    "delta_orthogonal_": initstats.delta_orthogonal_,
}
DEEP: dict[str, Callable[..., object]] = {
    "orthogonal_ batches": partial(initstats.orthogonal_, batch_dims=2)
}
CONSTANT: dict[str, Callable[..., object]] = {
    "constant_": lambda x: initstats.constant_(x, 3.0),
    "ones_": initstats.ones_,
    "zeros_": initstats.zeros_,
    "identity_": partial(initstats.identity_, gain=2.0),
    "eye_": initstats.eye_,
    "dirac_": initstats.dirac_,
}
FILLS = {**MATRICES, **MATRICES_ALONE, **BATCHES, **DEEP, **CONSTANT}
SEEDED = {"seed": 3, "name": "layer.weight"}


def shapes_for(fill: str, rng: random.Random) -> tuple[int, ...]:
    """Return a random shape that the fill takes."""
    sizes = [rng.randint(1, 9) for _ in range(4)]
    if fill in MATRICES_ALONE or fill == "eye_":
        return tuple(sizes[:2])
    if fill in DEEP:
        return tuple(sizes)
    if fill in {"delta_orthogonal_", "dirac_"}:
        return (sizes[0] + sizes[1], sizes[1], *sizes[2 : rng.choice([3, 4])])
    if fill in BATCHES:
        return tuple(sizes[:3])
    return tuple(sizes[: rng.choice([2, 3, 4])])


def call(fill: str, tensor: torch.Tensor, **more: object) -> None:
    arguments = {} if fill in CONSTANT else SEEDED
    result = FILLS[fill](tensor, **arguments, **more)
    assert result is tensor


def random_mesh(rng: random.Random, dims: int) -> tuple[tuple[int, ...], list[Placement]]:
    """Return a mesh of at most 12 ranks and placements for it."""
    mesh = tuple(rng.randint(1, 4) for _ in range(rng.choice([1, 2, 3])))
    while torch.Size(mesh).numel() > 12:
        mesh = mesh[:-1]
    kinds = placements_of(dims)
    return mesh, [rng.choice(kinds) for _ in mesh]


@pytest.mark.parametrize("fill", FILLS)
def test_shards_have_the_bits_of_the_whole(fill: str) -> None:
    rng = random.Random(fill)
    for trial in range(8):
        dtype = DTYPES[trial % 4]
        whole = torch.full(shapes_for(fill, rng), 9.0, dtype=dtype)
        call(fill, whole)
        mesh, placements = random_mesh(rng, whole.dim())
        for rank, coordinate in enumerate(coordinates(mesh)):
            with fake_mesh(mesh, rank) as device_mesh:
                x = sharded_like(whole, device_mesh, placements)
                call(fill, x)
                expected = owned(whole, mesh, coordinate, placements)
                assert torch.equal(local_tensor(x), expected), (whole.shape, mesh, placements)


@pytest.mark.parametrize(
    "fill", sorted(set(FILLS) - {"constant_", "ones_", "zeros_"} - {"eye_", "dirac_"})
)
def test_plain_shards_with_a_box_have_the_bits_of_the_whole(fill: str) -> None:
    rng = random.Random(fill)
    for trial in range(8):
        whole = torch.full(shapes_for(fill, rng), 9.0, dtype=DTYPES[trial % 4])
        call(fill, whole)
        offset = tuple(rng.randint(0, n - 1) for n in whole.shape)
        ends = [rng.randint(o + 1, n) for o, n in zip(offset, whole.shape, strict=True)]
        part = whole[tuple(slice(o, end) for o, end in zip(offset, ends, strict=True))]
        x = torch.full_like(part, 7.0)
        call(fill, x, box=Box(offset, tuple(whole.shape)))
        assert torch.equal(x, part), (whole.shape, offset, ends)


FOREACH: dict[str, Callable[..., None]] = {
    name: getattr(initstats, name) for name in initstats.__all__ if name.startswith("foreach_")
}


@pytest.mark.parametrize("fill", FOREACH)
def test_the_forms_for_many_tensors_take_shards_among_others(fill: str) -> None:
    shapes = [(6, 4), (5, 3), (3, 4, 2), (7, 2)]
    names = ["a", "b", "c", "d"]
    wholes = [torch.empty(shape, dtype=DTYPES[i]) for i, shape in enumerate(shapes)]
    FOREACH[fill](wholes, seed=1, names=names)
    placements: list[Placement] = [Shard(0), _StridedShard(1, split_factor=2)]
    for rank, coordinate in enumerate(coordinates((2, 2))):
        with fake_mesh((2, 2), rank) as mesh:
            first = sharded_like(wholes[0], mesh, placements)
            plain = torch.empty_like(wholes[1])
            third = sharded_like(wholes[2], mesh, [Replicate(), Shard(2)])
            boxed = torch.empty_like(wholes[3][2:5])
            boxes = [None, None, None, Box((2, 0), (7, 2))]
            FOREACH[fill]([first, plain, third, boxed], seed=1, names=names, boxes=boxes)
            assert torch.equal(
                local_tensor(first), owned(wholes[0], (2, 2), coordinate, placements)
            )
            assert torch.equal(plain, wholes[1])
            assert torch.equal(
                local_tensor(third), owned(wholes[2], (2, 2), coordinate, [Replicate(), Shard(2)])
            )
            assert torch.equal(boxed, wholes[3][2:5])


def test_lists_of_orthogonal_matrices_take_shards_among_others() -> None:
    wholes = [torch.empty(8, 6), torch.empty(5, 5), torch.empty(6, 3)]
    initstats.orthogonal_(wholes, [1.0, 2.0, 3.0], seed=1, name=["a", "b", "c"])
    for rank, coordinate in enumerate(coordinates((3,))):
        with fake_mesh((3,), rank) as mesh:
            x = sharded_like(wholes[0], mesh, [Shard(0)])
            plain, boxed = torch.empty(5, 5), torch.empty(2, 3)
            initstats.orthogonal_(
                [x, plain, boxed],
                [1.0, 2.0, 3.0],
                seed=1,
                name=["a", "b", "c"],
                box=[None, None, Box((1, 0), (6, 3))],
            )
            assert torch.equal(local_tensor(x), owned(wholes[0], (3,), coordinate, [Shard(0)]))
            assert torch.equal(plain, wholes[1])
            assert torch.equal(boxed, wholes[2][1:3])


# The bound of a block against the whole: tests/init/test_orthogonal_blocks.py.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1.5e-6), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize(
    ("shape", "batch_dims", "placements"),
    [
        ((150, 40), 0, [Shard(0)]),
        ((150, 40), 0, [Shard(1)]),
        ((40, 150), 0, [_StridedShard(1, split_factor=2)]),
        ((3, 140, 20), 1, [Shard(1)]),
        ((5, 140, 20), 1, [Shard(0)]),
        ((9, 5, 4, 9), 0, [Shard(2)]),
        ((9, 5, 4, 9), 0, [Shard(3)]),
        ((2, 3, 130, 10), 2, [Shard(2)]),
    ],
)
def test_large_orthogonal_matrices_agree_within_rounding(
    shape: tuple[int, ...],
    batch_dims: int,
    placements: Sequence[Placement],
    dtype: torch.dtype,
    bound: float,
) -> None:
    whole = torch.empty(shape, dtype=dtype)
    initstats.orthogonal_(whole, batch_dims=batch_dims, seed=1)
    for rank, coordinate in enumerate(coordinates((3,))):
        with fake_mesh((3,), rank) as mesh:
            x = sharded_like(whole, mesh, placements)
            initstats.orthogonal_(x, batch_dims=batch_dims, seed=1)
            difference = local_tensor(x) - owned(whole, (3,), coordinate, placements)
            assert not difference.numel() or float(difference.double().abs().max()) <= bound


def test_small_orthogonal_matrices_are_made_in_the_memory_of_the_shard() -> None:
    # 64 matrices of 16 KB: 8 of them, cut to 8 rows each, in one of 8 times 2 KB.
    whole = torch.empty(64, 64, 64)
    with fake_mesh((8, 8), 0) as mesh:
        x = sharded_like(whole, mesh, [Shard(0), Shard(1)])
        with torch.profiler.profile(profile_memory=True) as profile:
            initstats.orthogonal_(x, batch_dims=1, seed=1)
    assert max(event.cpu_memory_usage for event in profile.events()) <= 64 * 64 * 4


# ---- what is refused, with nothing written and no generator moved


class OwnPlacement(Replicate):
    """A placement whose meaning nobody but its author knows."""


@pytest.mark.parametrize("placement", [Partial(), OwnPlacement()])
@pytest.mark.parametrize("fill", FILLS)
def test_partial_and_unknown_placements_are_refused(fill: str, placement: Placement) -> None:
    shape = shapes_for(fill, random.Random(0))
    state = torch.get_rng_state()
    with fake_mesh((2,), 0) as mesh:
        x = DTensor.from_local(torch.full(shape, 9.0), mesh, [placement], run_check=False)
        name = fill.split(maxsplit=1)[0]
        with pytest.raises(TypeError, match=rf"initstats\.{name}: expected the placements Shard,"):
            FILLS[fill](x)
        assert bool((local_tensor(x) == 9.0).all())
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_of_a_list_is_written_when_one_shard_is_refused() -> None:
    with fake_mesh((2,), 0) as mesh:
        x = DTensor.from_local(torch.zeros(4, 4), mesh, [Partial()], run_check=False)
        plain = torch.zeros(4, 4)
        with pytest.raises(TypeError, match="Partial"):
            initstats.foreach_normal_([plain, x])
        with pytest.raises(TypeError, match="Partial"):
            initstats.orthogonal_([plain, x])
        assert not plain.any()


def test_a_value_that_does_not_fit_is_refused_by_ranks_without_elements_too() -> None:
    with fake_mesh((4,), 3) as mesh:
        x = sharded_like(torch.empty(2, 2, dtype=torch.float16), mesh, [Shard(0)])
        assert local_boxes("test", x) == ()
        for fill in (initstats.constant_, initstats.identity_):
            with pytest.raises(RuntimeError, match="cannot be converted"):
                fill(x, 1e10)


@pytest.mark.parametrize(
    ("box", "error", "message"),
    [
        (((0, 0), (4, 4)), TypeError, r"normal_: expected box to be an initstats.Box, got \(\(0"),
        (Box((3, 0), (4, 4)), ValueError, r"expected a box whose size holds the tensor at its off"),
        (Box((0,), (4,)), ValueError, r"got Box\(offset=\(0,\), size=\(4,\)\) for shape=\(2, 4\)"),
    ],
)
def test_a_box_that_does_not_fit_is_refused(
    box: object, error: type[Exception], message: str
) -> None:
    x = torch.zeros(2, 4)
    for call_it in (initstats.normal_, initstats.xavier_normal_, initstats.orthogonal_):
        with pytest.raises(error, match=message.replace("normal_", call_it.__name__)):
            call_it(x, box=box)  # type: ignore[operator]
    assert not x.any()


def test_boxes_are_counted_and_not_for_dtensors() -> None:
    x = torch.zeros(2, 4)
    for fill in (initstats.foreach_normal_, initstats.foreach_xavier_normal_):
        with pytest.raises(ValueError, match="expected one box per tensor, 1, got 2"):
            fill([x], boxes=[None, None])
    with pytest.raises(ValueError, match="expected one box per tensor, 1, got 2"):
        initstats.orthogonal_([x], box=[None, None])
    with fake_mesh((2,), 0) as mesh:
        d = sharded_like(x, mesh, [Shard(0)])
        with pytest.raises(ValueError, match="expected no box with a DTensor"):
            initstats.normal_(d, box=Box((0, 0), (2, 4)))
    assert not x.any()


# ---- memory, generators, autograd


def test_empty_shards_take_their_place_in_the_generator() -> None:
    torch.manual_seed(0)
    first, second = torch.empty(3), torch.empty(5)
    initstats.foreach_normal_([first, second])
    for rank in range(4):
        with fake_mesh((4,), rank) as mesh:
            torch.manual_seed(0)
            tensors = [sharded_like(t, mesh, [Shard(0)]) for t in (first, second)]
            initstats.foreach_normal_(tensors)
            for x, whole in zip(tensors, (first, second), strict=True):
                assert torch.equal(local_tensor(x), owned(whole, (4,), (rank,), [Shard(0)]))


def test_meta_shards_are_left_alone_and_move_no_generator() -> None:
    state = torch.get_rng_state()
    with fake_mesh((2,), 0) as mesh:
        x = sharded_like(torch.empty(4, 4, device="meta"), mesh, [Shard(0)])
        assert initstats.normal_(x) is x
        assert initstats.orthogonal_(x) is x
        assert initstats.eye_(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_autograd_notices_a_fill_of_a_saved_dtensor() -> None:
    with fake_mesh((1,), 0) as mesh:
        x = sharded_like(torch.empty(3), mesh, [Replicate()]).requires_grad_()
        loss = (x * x).sum()
        for fill in (initstats.normal_, initstats.ones_):
            version, local = x._version, local_tensor(x)._version
            fill(x)
            assert x._version > version
            assert local_tensor(x)._version > local
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
