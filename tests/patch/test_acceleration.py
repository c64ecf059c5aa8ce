"""fast_init: what it reaches, what it leaves alone, and that nothing stays behind."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import Shard
from torch.nn import init
from torch.overrides import TorchFunctionMode

import initstats
from initstats.patch import accelerate
from sharded import fake_mesh, owned, sharded_like

# References as other modules keep them.
from torch.nn.init import kaiming_normal_, orthogonal_, sparse_, trunc_normal_  # isort: skip

NAMES = [
    "uniform_",
    "normal_",
    "trunc_normal_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "orthogonal_",
    "sparse_",
    "dirac_",
]
BODIES = {name: getattr(init, name).__code__ for name in NAMES}
CAPTURED = types.SimpleNamespace(
    functions={"trunc_normal_": trunc_normal_, "orthogonal_": orthogonal_},
    partial=functools.partial(kaiming_normal_, nonlinearity="relu"),
)


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    yield
    assert {name: getattr(init, name).__code__ for name in NAMES} == BODIES
    assert torch.overrides._get_current_function_mode_stack() == []
    assert accelerate.THREAD.blocks == []


def arguments(name: str) -> tuple[float, ...]:
    return (0.5,) if name == "sparse_" else ()


def weight(name: str) -> torch.Tensor:
    return torch.zeros((6, 5, 3) if name == "dirac_" else (16, 24))


@pytest.mark.parametrize("name", NAMES)
def test_functions_of_torch_run_here_with_the_bits_of_ours(name: str) -> None:
    torch.manual_seed(1)
    expected = getattr(initstats, name)(weight(name), *arguments(name))
    torch.manual_seed(1)
    with initstats.fast_init() as fast:
        x = weight(name)
        assert getattr(init, name)(x, *arguments(name)) is x
    assert torch.equal(x, expected)
    assert fast.report.accelerated == {name: 1}
    assert fast.report.elements == {name: x.numel()}
    assert not fast.report.left
    assert name in str(fast.report)


@pytest.mark.parametrize(
    ("call", "name", "expected"),
    [
        (lambda x: x.normal_(), "normal_", initstats.normal_),
        (
            lambda x: x.normal_(1.0, std=2.0),
            "normal_",
            lambda x: initstats.normal_(x, 1.0, 2.0),
        ),
        (lambda x: x.uniform_(), "uniform_", initstats.uniform_),
        (lambda x: x.uniform_(-1, to=2.0), "uniform_", lambda x: initstats.uniform_(x, -1, 2)),
        (lambda x: sparse_(x, 0.5), "sparse_", lambda x: initstats.sparse_(x, 0.5)),
        (CAPTURED.functions["trunc_normal_"], "trunc_normal_", initstats.trunc_normal_),
        (CAPTURED.functions["orthogonal_"], "orthogonal_", initstats.orthogonal_),
        (
            CAPTURED.partial,
            "kaiming_normal_",
            lambda x: initstats.kaiming_normal_(x, nonlinearity="relu"),
        ),
        (
            lambda x: init.uniform_(x, b=3.0, a=-1.0),
            "uniform_",
            lambda x: initstats.uniform_(x, -1.0, 3.0),
        ),
    ],
)
def test_methods_and_captured_references_run_here(  # type: ignore[no-untyped-def]
    call, name, expected
) -> None:
    torch.manual_seed(2)
    y = torch.zeros(16, 24)
    expected(y)
    torch.manual_seed(2)
    with initstats.fast_init() as fast:
        x = torch.zeros(16, 24)
        call(x)
    assert torch.equal(x, y)
    assert fast.report.accelerated == {name: 1}


def test_a_models_constructor_runs_here_and_torch_is_as_before_after_it() -> None:
    with initstats.fast_init() as fast:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(64, 64), nn.LSTM(8, 8), nn.MultiheadAttention(8, 2))
    assert fast.report.accelerated["kaiming_uniform_"] == 2  # Linear, and the attention's output
    assert fast.report.accelerated["xavier_uniform_"] == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    torch.manual_seed(3)
    first = init.normal_(torch.empty(8))
    torch.manual_seed(3)
    assert torch.equal(first, torch.empty(8).normal_())  # torch's own numbers again


def test_everything_is_restored_after_an_exception() -> None:
    with pytest.raises(KeyError, match="on purpose"), initstats.fast_init():
        raise KeyError("on purpose")


def test_blocks_nest_and_each_report_counts_what_is_inside() -> None:
    with initstats.fast_init() as outer:
        init.normal_(torch.empty(3))
        with initstats.fast_init() as inner:
            torch.empty(3).normal_()
        trunc_normal_(torch.empty(3))
    assert outer.report.accelerated == {"normal_": 2, "trunc_normal_": 1}
    assert inner.report.accelerated == {"normal_": 1}


def test_decorated_functions_accelerate_every_call_and_may_call_themselves() -> None:
    fast = initstats.fast_init()

    @fast
    def build(depth: int) -> None:
        """Build."""
        trunc_normal_(torch.empty(3))
        if depth:
            build(depth - 1)

    build(1)
    build(0)
    assert build.__doc__ == "Build."
    assert fast.report.accelerated["trunc_normal_"] == 3


def test_other_threads_go_on_with_torch() -> None:
    found = {}

    def work() -> None:
        torch.manual_seed(4)
        found["there"] = trunc_normal_(torch.empty(8))

    with initstats.fast_init() as fast:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    torch.manual_seed(4)
    assert torch.equal(found["there"], trunc_normal_(torch.empty(8)))
    assert not fast.report.accelerated


def test_threads_come_and_go_in_any_order() -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with initstats.fast_init():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with initstats.fast_init() as fast:
        thread.start()
        assert inside.wait(10)
    with initstats.fast_init() as again:
        leave.set()
        thread.join()
        trunc_normal_(torch.empty(3))
    assert not fast.report.accelerated
    assert again.report.accelerated == {"trunc_normal_": 1}


class Marked(torch.Tensor):
    """A subclass that torch knows nothing of."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.empty(4, 4, device="meta"), "on meta"),
        (lambda: torch.zeros(4, 4).as_subclass(Marked), "a Marked"),
        (lambda: torch.zeros(4, 4, dtype=torch.complex64), "torch.complex64"),
        (lambda: torch.zeros(0, 4), "no elements"),
    ],
)
@pytest.mark.parametrize("fill", [init.normal_, torch.Tensor.normal_], ids=["function", "method"])
def test_what_torch_has_to_do_is_left_to_it_with_a_note(  # type: ignore[no-untyped-def]
    fill: Callable[..., torch.Tensor], make, reason: str
) -> None:
    with initstats.fast_init() as fast:
        x = make()
        fill(x)
    assert not fast.report.accelerated
    assert fast.report.left == {("normal_", reason): 1}
    assert reason in str(fast.report)


def test_fake_tensors_are_left_to_torch() -> None:
    with initstats.fast_init() as fast, FakeTensorMode():
        x = torch.empty(4, 4)
        init.xavier_uniform_(torch.nn.Parameter(x))
        x.normal_()
    assert not fast.report.accelerated
    assert {reason for _, reason in fast.report.left} == {"a FakeTensor"}


def test_dtensors_get_their_shard_of_the_whole() -> None:
    whole = {name: torch.empty(8, 4) for name in ("normal_", "xavier_uniform_", "method")}
    torch.manual_seed(0)
    with initstats.fast_init():
        fill_three(whole)
    for rank in range(3):
        with fake_mesh((3,), rank) as mesh:
            shards = {name: sharded_like(x, mesh, [Shard(0)]) for name, x in whole.items()}
            torch.manual_seed(0)
            with initstats.fast_init() as fast:
                fill_three(shards)
            assert not fast.report.left
            for name, x in shards.items():
                assert torch.equal(x.to_local(), owned(whole[name], (3,), (rank,), [Shard(0)]))
            assert fast.report.elements["xavier_uniform_"] == x.to_local().numel()


@pytest.mark.parametrize("name", ["eye_", "dirac_"])
def test_identities_of_dtensors_are_placed_by_the_index_in_the_whole(name: str) -> None:
    # torch gives the rows of dirac_ zeros alone, and eye_ a local tensor of the whole's shape.
    shape = (5, 4, 3) if name == "dirac_" else (5, 4)
    whole = getattr(init, name)(torch.zeros(shape))
    for rank in range(2):
        with fake_mesh((2,), rank) as mesh, initstats.fast_init() as fast:
            x = sharded_like(whole, mesh, [Shard(0)])
            getattr(init, name)(x)
            assert torch.equal(x.to_local(), owned(whole, (2,), (rank,), [Shard(0)]))
            assert fast.report.accelerated == {name: 1}


def fill_three(tensors: dict[str, Any]) -> None:
    """Call two functions of torch.nn.init and a method."""
    init.normal_(tensors["normal_"], std=0.02)
    init.xavier_uniform_(tensors["xavier_uniform_"])
    tensors["method"].normal_(0.0, 0.5)


def test_a_freed_storage_is_not_left_to_torch() -> None:
    x = torch.empty(4, 4)
    x.untyped_storage().resize_(0)
    with initstats.fast_init() as fast, pytest.raises(RuntimeError, match="storage holds its elem"):
        init.normal_(x)
    assert not fast.report.left


def test_what_torch_refuses_is_refused_in_its_words() -> None:
    w = torch.zeros(3, requires_grad=True)
    with initstats.fast_init() as fast:
        for call, message in (
            (lambda: init.normal_(torch.zeros(3), 0, -1), "normal expects std >= 0.0, but found"),
            (
                w.normal_,
                "a leaf Variable that requires grad is being used in an in-place",
            ),
            (
                lambda: init.uniform_(torch.zeros(3), 1, 0),
                r"return a \[from, to\) range, but found",
            ),
        ):
            with pytest.raises(RuntimeError, match=message):
                call()
    assert not w.any()
    assert not fast.report.accelerated


def test_generators_and_forks_behave() -> None:
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    with initstats.fast_init(generators=True):
        first = init.normal_(torch.empty(8), generator=generator)
        assert torch.equal(torch.get_rng_state(), state)
        with torch.random.fork_rng():
            torch.manual_seed(6)
            second = init.normal_(torch.empty(8))
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(6)
        assert torch.equal(init.normal_(torch.empty(8)), second)
        assert not torch.equal(init.normal_(torch.empty(8)), second)
        kept = torch.get_rng_state()
        third = init.normal_(torch.empty(8))
        torch.set_rng_state(kept)
        assert torch.equal(init.normal_(torch.empty(8)), third)
    assert torch.equal(initstats.normal_(torch.empty(8), generator=generator.manual_seed(5)), first)


def test_modes_of_the_user_go_on_seeing_calls() -> None:
    seen = []

    class Log(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Log(), initstats.fast_init() as fast:
        torch.empty(3).normal_()
    with initstats.fast_init() as again, Log():
        torch.empty(3).normal_()
    assert seen.count("normal_") == 2
    assert fast.report.accelerated == again.report.accelerated == {"normal_": 1}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"dirac_", "sparse_"}])
def test_an_explicit_generator_keeps_torchs_numbers(name: str) -> None:
    # peft makes VeRA's frozen projections again from a seed when a checkpoint is loaded. Where the
    # zeros of torch's sparse_ are, no generator decides.
    def made() -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        filled = getattr(init, name)(weight(name), *arguments(name), generator=generator)
        assert isinstance(filled, torch.Tensor)
        return filled

    expected = made()
    with initstats.fast_init() as fast:
        assert torch.equal(made(), expected)
    assert fast.report.left == {(name, "an explicit generator"): 1}
    with initstats.fast_init(generators=True) as fast:
        assert not torch.equal(made(), expected)
    assert fast.report.accelerated[name] == 1


def test_methods_with_an_explicit_generator_keep_torchs_numbers() -> None:
    def made() -> tuple[torch.Tensor, torch.Tensor]:
        g = torch.Generator().manual_seed(7)
        return torch.empty(9).uniform_(-1, 1, generator=g), torch.empty(9).normal_(generator=g)

    expected = made()
    with initstats.fast_init(generators=True), initstats.fast_init() as fast:
        assert all(map(torch.equal, made(), expected))
    assert fast.report.left.total() == 2


def test_a_block_that_is_entered_twice_counts_a_fill_once() -> None:
    fast = initstats.fast_init()
    with fast, fast:
        nn.Linear(3, 3, bias=False)
    assert fast.report.accelerated == {"kaiming_uniform_": 1}


async def _async() -> None: ...


def _generator() -> Iterator[int]:
    yield 1


def _returns_coroutine() -> object:
    return _async()


def _returns_generator() -> object:
    return _generator()


class _AsyncCall:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "target", [_async, _generator, nn.Linear, 3, functools.partial(_async), _AsyncCall()]
)
def test_what_runs_after_its_call_is_refused_as_a_target(target: object) -> None:
    with pytest.raises(TypeError, match=r"^initstats.fast_init: expected a function whose body"):
        initstats.fast_init()(target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "target", [_returns_coroutine, _returns_generator, functools.partial(_AsyncCall())]
)
def test_a_call_whose_body_runs_later_is_refused(target: Callable[[], object]) -> None:
    fast = initstats.fast_init()(target)
    with pytest.raises(TypeError, match=r"got one that returns a coroutine or a generator"):
        fast()


def test_functions_compiled_inside_a_block_fill_as_torch_does() -> None:
    torch._dynamo.reset()
    fill = torch.compile(lambda x: init.normal_(x.clone()), backend="eager", fullgraph=True)
    with initstats.fast_init():
        assert fill(torch.zeros(9)).any()
