"""Fills inside torch.vmap and forward-mode differentiation, and through unusual views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import initstats
from initstats import init

# torch's own, where it loads its rules of forward-mode differentiation.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

Fill = Callable[..., Tensor]
RANDOM: dict[str, Fill] = {
    "uniform_": initstats.uniform_,
    "normal_": initstats.normal_,
    "trunc_normal_": initstats.trunc_normal_,
    "kaiming_uniform_": initstats.kaiming_uniform_,
    "sparse_": lambda t, **given: init.sparse_(t, 0.5, **given),
    "orthogonal_": initstats.orthogonal_,
    "orthogonal_block_": lambda t, **given: initstats.orthogonal_block_(
        t, (0, 0), tuple(t.shape), **given
    ),
}
LARGE = {
    "orthogonal_": RANDOM["orthogonal_"],
    "orthogonal_block_": RANDOM["orthogonal_block_"],
}
SMALL_AND_LARGE = [(name, fill, (8, 8)) for name, fill in RANDOM.items()]
SMALL_AND_LARGE += [(name, fill, (140, 130)) for name, fill in LARGE.items()]
each_fill = pytest.mark.parametrize("fill", RANDOM.values(), ids=RANDOM.keys())
each_fill_and_shape = pytest.mark.parametrize(
    ("fill", "shape"),
    [(fill, shape) for _, fill, shape in SMALL_AND_LARGE],
    ids=[f"{name}{shape}" for name, _, shape in SMALL_AND_LARGE],
)


@each_fill
@pytest.mark.parametrize("dim", [0, 2])
def test_vmap_with_different_randomness_is_a_loop(fill: Fill, dim: int) -> None:
    torch.manual_seed(0)
    stacked = torch.zeros(5, 8, 8).movedim(0, dim)
    mapped = torch.vmap(fill, in_dims=dim, randomness="different")(stacked)
    torch.manual_seed(0)
    assert torch.equal(mapped, torch.stack([fill(torch.zeros(8, 8)) for _ in range(5)]))


@each_fill
def test_vmap_with_the_same_randomness_fills_as_one_call(fill: Fill) -> None:
    torch.manual_seed(0)
    mapped = torch.vmap(fill, randomness="same")(torch.zeros(5, 8, 8))
    after = torch.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(mapped, fill(torch.zeros(8, 8)).expand(5, 8, 8))
    assert torch.equal(torch.get_rng_state(), after)


@each_fill
@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_a_seed_decides_inside_vmap_too(fill: Fill, randomness: str) -> None:
    mapped = torch.vmap(lambda t: fill(t, seed=3), randomness=randomness)(torch.zeros(5, 8, 8))
    assert torch.equal(mapped, fill(torch.zeros(8, 8), seed=3).expand(5, 8, 8))


@each_fill
def test_nested_vmaps_give_every_example_numbers_of_its_own(fill: Fill) -> None:
    inner = torch.vmap(fill, randomness="different")
    mapped = torch.vmap(inner, randomness="different")(torch.zeros(3, 2, 8, 8))
    assert len(mapped.reshape(6, 64).unique(dim=0)) == 6


@each_fill
def test_what_vmap_cannot_do_is_refused_before_a_generator_moves(fill: Fill) -> None:
    def tangent(t: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(lambda u: fill(u.clone()), (t,), (t,))[1]
        return result

    outside = torch.zeros(8, 8)
    state = torch.get_rng_state()
    for function, randomness, message in (
        (fill, "error", 'expected randomness="different" or "same" from torch.vmap, got "error"'),
        (tangent, "different", "expected one tensor that the innermost torch.vmap maps over"),
        (lambda t: fill(outside) + t, "different", "on an unbatched tensor"),
        (
            lambda t: initstats.foreach_normal_([t]),
            "different",
            "foreach_normal_: expected one tensor that the innermost torch.vmap maps over",
        ),
        (
            lambda t: initstats.orthogonal_([t]),
            "same",
            "orthogonal_: expected one tensor that the innermost torch.vmap maps over",
        ),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.vmap(function, randomness=randomness)(torch.zeros(5, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert not outside.any()


def test_delta_orthogonal_and_dirac_inside_vmap() -> None:
    for fill in (lambda t: initstats.delta_orthogonal_(t, seed=0), init.dirac_):
        mapped = torch.vmap(fill)(torch.ones(5, 6, 6, 3))
        assert torch.equal(mapped, fill(torch.ones(6, 6, 3)).expand(5, 6, 6, 3))


@each_fill_and_shape
def test_a_tangent_is_0(fill: Fill, shape: Sequence[int]) -> None:
    ones = torch.ones(*shape)
    wanted = fill(torch.zeros(*shape), seed=0)
    value, tangent = torch.func.jvp(lambda t: fill(t.clone(), seed=0), (ones,), (ones,))
    assert torch.equal(value, wanted)
    assert not tangent.any()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(ones.clone(), ones.clone())
        fill(dual, seed=0)
        found = forward_ad.unpack_dual(dual)
        assert torch.equal(found.primal, wanted)
        assert not found.tangent.any()


def test_tangents_of_lists_and_convolutions_are_0() -> None:
    def fill(t: Tensor) -> Tensor:
        first, second, third, fourth = (t * i for i in range(1, 5))
        initstats.foreach_normal_([first, second], seed=0)
        return first + second + init.dirac_(third) + initstats.delta_orthogonal_(fourth, seed=0)

    ones = torch.ones(6, 6, 3)
    value, tangent = torch.func.jvp(fill, (ones,), (ones,))
    assert torch.equal(value, fill(ones))
    assert not tangent.any()


def test_what_cannot_be_written_keeps_value_and_tangent() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(3, 1), torch.ones(3, 1))
        with pytest.raises(RuntimeError, match="do not share memory"):
            initstats.normal_(dual.expand(3, 3))
        found = forward_ad.unpack_dual(dual)
        assert found.primal.all()
        assert found.tangent.all()


@each_fill_and_shape
def test_negated_views_hold_the_numbers(fill: Fill, shape: Sequence[int]) -> None:
    numbers = torch.zeros(*shape, dtype=torch.complex64)
    view = numbers.conj().imag
    assert view.is_neg()
    wanted = fill(torch.zeros(*shape), seed=0)
    assert torch.equal(fill(view, seed=0), wanted)
    assert torch.equal(numbers.imag, -wanted)
    assert not numbers.real.any()


def test_negated_views_in_lists_and_convolutions() -> None:
    weight = torch._neg_view(torch.ones(6, 6, 3))
    assert torch.equal(init.dirac_(weight), init.dirac_(torch.zeros(6, 6, 3)))
    plain = [torch.zeros(4), torch.zeros(6, 6, 3)]
    initstats.foreach_normal_(plain, seed=0)
    mixed = [torch.zeros(4), weight]
    initstats.foreach_normal_(mixed, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: [x, x.view(8, 8)],
        lambda x: [x[:40], x[39:]],
        lambda x: [x[::2], x[1:40:3]],
        lambda x: [torch.zeros(3), x.view(8, 8).t(), x.detach()[5:6]],
        lambda x: [x[:8], x.view(torch.bfloat16)[14:20]],
        lambda x: [x[:1].expand(4), x[8:]],
    ],
)
def test_lists_that_overlap_are_refused(make: Callable[[Tensor], list[Tensor]]) -> None:
    memory = torch.zeros(64)
    state = torch.get_rng_state()
    for fill in (initstats.foreach_normal_, initstats.foreach_uniform_):
        with pytest.raises((ValueError, RuntimeError), match="do not share memory"):
            fill(make(memory))
    matrices = [memory.view(8, 8), memory[:64].view(4, 16)]
    with pytest.raises(ValueError, match="orthogonal_: expected tensors that do not share memory"):
        initstats.orthogonal_(matrices)
    assert not memory.any()
    assert torch.equal(state, torch.get_rng_state())


def test_parts_that_do_not_overlap_are_filled() -> None:
    memory = torch.zeros(6, 8)
    parts = [
        memory[:, :3],
        memory[:, 3:5],
        memory[::2, 5:],
        memory[1::2, 5:],
        memory[:0],
        memory[0, :0],
    ]
    initstats.foreach_normal_(parts, seed=0)
    assert memory.all()
    halves = memory.view(torch.bfloat16)
    initstats.foreach_normal_([memory[:3], halves[3:]], seed=0)
    meta = torch.empty(4, device="meta")
    initstats.foreach_normal_([meta, meta[:2]], seed=0)


def test_the_advice_for_a_parametrized_weight() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3))
    for fill in (initstats.normal_, initstats.orthogonal_):
        with pytest.raises(ValueError, match=r"fill what it is computed from, such as parametriz"):
            fill(layer.weight)
