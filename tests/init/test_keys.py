"""Keys: where the 64 bits of a fill come from, and that generators move as users expect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import initstats
import stream_model as model


def filled(**arguments: object) -> torch.Tensor:
    return initstats.normal_(torch.empty(8), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63, 2**64 - 1, -(2**63)])
@pytest.mark.parametrize("name", [None, "", "layer.0.weight", "Größe"])
def test_key_is_blake2b_of_domain_seed_and_name(seed: int, name: str | None) -> None:
    assert initstats.key_of(seed, name) == model.key_of(seed, name)


def test_names_of_any_length_make_keys() -> None:
    # Tag, seed and mark are 25 bytes, a block of the hash is 128.
    for length in (1, 102, 103, 104, 230, 231, 232, 1000):
        assert initstats.key_of(7, "n" * length) == model.key_of(7, "n" * length)


def test_key_bits_are_the_golden_ones() -> None:
    assert initstats.key_of(0) == 0xE3577B659B062D7B
    assert initstats.key_of(2026, "golden") == 0xF8BBF83C896063D5


def test_seed_and_name_decide_the_bits() -> None:
    assert torch.equal(filled(seed=3, name="a"), filled(seed=3, name="a"))
    assert not torch.equal(filled(seed=3, name="a"), filled(seed=3, name="b"))
    assert not torch.equal(filled(seed=3, name="a"), filled(seed=4, name="a"))
    assert not torch.equal(filled(seed=3, name=""), filled(seed=3))


def test_seed_leaves_the_default_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    filled(seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_manual_seed_decides_the_bits_and_two_calls_never_repeat_them() -> None:
    torch.manual_seed(5)
    first, second = filled(), filled()
    torch.manual_seed(5)
    assert torch.equal(filled(), first)
    assert torch.equal(filled(), second)
    assert not torch.equal(first, second)


def test_fork_rng_and_rng_state_restore_the_stream() -> None:
    torch.manual_seed(6)
    with torch.random.fork_rng(devices=[]):
        inside = filled()
    assert torch.equal(filled(), inside)
    state = torch.get_rng_state()
    first = filled()
    torch.set_rng_state(state)
    assert torch.equal(filled(), first)


def test_given_generator_is_used_and_advanced() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    a, b = filled(generator=generator), filled(generator=generator)
    assert not torch.equal(a, b)
    assert torch.equal(filled(generator=torch.Generator().manual_seed(5)), a)
    assert torch.equal(torch.get_rng_state(), before)


def test_many_tensors_draw_like_one_by_one() -> None:
    torch.manual_seed(9)
    together = [torch.empty(10) for _ in range(40)]
    initstats.foreach_normal_(together)
    torch.manual_seed(9)
    for tensor in together:
        assert torch.equal(initstats.normal_(torch.empty(10)), tensor)


def test_unnamed_tensors_of_one_seed_differ() -> None:
    tensors = [torch.empty(10) for _ in range(3)]
    initstats.foreach_normal_(tensors, seed=1)
    assert not torch.equal(tensors[0], tensors[1])
    assert not torch.equal(tensors[1], tensors[2])
    assert torch.equal(initstats.normal_(torch.empty(10), seed=1), tensors[0])


def test_adding_a_tensor_changes_no_other_tensor_with_names() -> None:
    few, more = [torch.empty(10) for _ in range(2)], [torch.empty(10) for _ in range(3)]
    initstats.foreach_normal_(few, seed=1, names=["a", "c"])
    initstats.foreach_normal_(more, seed=1, names=["a", "b", "c"])
    assert torch.equal(few[0], more[0])
    assert torch.equal(few[1], more[2])


def test_default_device_has_no_say_in_the_keys() -> None:
    torch.manual_seed(0)
    expected = filled()
    torch.manual_seed(0)
    x = torch.empty(8)
    with torch.device("meta"):
        initstats.normal_(x)
    assert torch.equal(x, expected)


def test_meta_tensors_draw_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    meta = torch.empty(3, 4, device="meta")
    assert initstats.normal_(meta) is meta
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.backends("cuda")
def test_manual_seed_makes_cpu_and_cuda_equal(device: torch.device) -> None:
    torch.manual_seed(1)
    on_gpu = initstats.normal_(torch.empty(1000, device=device))
    torch.manual_seed(1)
    assert torch.equal(on_gpu.cpu(), initstats.normal_(torch.empty(1000)))


@pytest.mark.backends("cuda")
def test_cuda_generator_is_advanced_on_the_host(device: torch.device) -> None:
    generator = torch.Generator(device=device).manual_seed(1)
    a, b = (
        initstats.normal_(torch.empty(1000, device=device), generator=generator) for _ in range(2)
    )
    assert not torch.equal(a, b)
    assert generator.get_offset() == 8
    again = torch.Generator(device=device).manual_seed(1)
    assert torch.equal(initstats.normal_(torch.empty(1000), generator=again), a.cpu())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": 1.5}, TypeError, "expected seed to be an integer, got seed=1.5"),
        ({"seed": True}, TypeError, "expected seed to be an integer, got seed=True"),
        (
            {"seed": 2**64},
            ValueError,
            r"expected seed in \[-2\*\*63, 2\*\*64\), got seed=18446744073709551616",
        ),
        ({"seed": 1, "name": 3}, TypeError, "expected name to be a string or None, got name=3"),
        (
            {"seed": 1, "generator": torch.Generator()},
            ValueError,
            "expected seed or generator, got both",
        ),
        ({"name": "a"}, ValueError, "expected a seed with name, got name without seed"),
        ({"generator": 7}, TypeError, "expected generator to be a torch.Generator, got int"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_written(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    x = torch.zeros(4)
    with pytest.raises(error, match=message):
        initstats.normal_(x, **arguments)  # type: ignore[arg-type]
    assert torch.equal(x, torch.zeros(4))


@pytest.mark.parametrize(
    "seed", [np.int64(7), np.uint64(2**64 - 1), np.int32(-3), np.random.default_rng(0).integers(9)]
)
def test_integers_of_numpy_are_seeds(seed: Any) -> None:
    plain = int(seed)
    assert initstats.key_of(seed, "a") == initstats.key_of(plain, "a")
    assert torch.equal(filled(seed=seed), filled(seed=plain))
    first, second = (initstats.orthogonal_([torch.empty(3, 3)], seed=s)[0] for s in (seed, plain))
    assert torch.equal(first, second)
    for make in (initstats.plan, initstats.init_):
        written = make(torch.nn.Linear(3, 3), "mlp", seed=seed)
        assert type(written.seed) is int
        assert written.seed == plain


@pytest.mark.parametrize("seed", [True, np.bool_(True), 1.0, np.float64(1), "1", torch.tensor(1)])
def test_what_is_no_integer_is_no_seed(seed: Any) -> None:
    for call in (
        lambda: initstats.normal_(torch.zeros(2), seed=seed),
        lambda: initstats.init_(torch.nn.Linear(3, 3), "mlp", seed=seed),
    ):
        with pytest.raises(TypeError, match="expected seed to be an integer, got seed="):
            call()
