"""Direct calls: the bits of the dispatched ones, and the long way for all that is not plain."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import initstats
from initstats import _ops
from initstats.init._distributions import DISTRIBUTIONS, NORMAL
from initstats.statistics.compute import DTYPES
from initstats.statistics.record_array import Batch, Groups

FILLS = [(family, numbers) for family in DISTRIBUTIONS for numbers in family.examples.values()]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each direct call was taken, in order."""
    answers: list[bool] = []

    def told(function: Callable[..., Any]) -> Callable[..., Any]:
        def telling(*arguments: Any) -> Any:
            answer = function(*arguments)
            answers.append(answer not in {None, False})
            return answer

        return telling

    for name in ("fill_directly", "stats_directly"):
        monkeypatch.setattr(_ops, name, told(getattr(_ops, name)))
    return answers


def tensors(dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    with device:
        return [
            torch.zeros(3, 5, dtype=dtype),
            torch.zeros((), dtype=dtype),
            torch.zeros(0, 4, dtype=dtype),
            torch.zeros(40, 70, dtype=dtype).t(),
            torch.zeros(2, 8, 4, 6, dtype=dtype).to(memory_format=torch.channels_last)[:, 1:, ::2],
            torch.nn.Parameter(torch.zeros(300_000, dtype=dtype)),
        ]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("family", "numbers"), FILLS)
def test_direct_fills_have_the_bits_of_the_op(
    family: Any,
    numbers: tuple[float, ...],
    dtype: torch.dtype,
    taken: list[bool],
    device: torch.device,
) -> None:
    one, many = getattr(initstats, family.name), getattr(initstats, f"foreach_{family.name}")
    for i, x in enumerate(tensors(dtype, device)):
        y = tensors(dtype, device)[i]
        assert one(x, *numbers, seed=i, name="x") is x
        with torch.no_grad():
            family.op([y], [_signed(initstats.key_of(i, "x"))], *[[number] for number in numbers])
        assert torch.equal(x, y)
    several, others = ([x for x in tensors(dtype, device) if x.numel()] for _ in range(2))
    many(several, *[[number] * len(several) for number in numbers], seed=2**63)
    keys = [_signed(initstats.key_of(2**63, f"#{i}" if i else None)) for i in range(len(others))]
    with torch.no_grad():
        family.op(others, keys, *[[number] for number in numbers])
    assert all(map(torch.equal, several, others))
    assert all(taken)
    assert len(taken) == 7


def _signed(key: int) -> int:
    return key - (key >> 63 << 64)


def bits(rows: Any) -> list[torch.Tensor]:
    return [row.cpu().view(torch.int64) for row in rows]


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str))
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 7])
def test_direct_records_have_the_bits_of_the_op(
    dtype: torch.dtype, groups: int, taken: list[bool], device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(0)
    some = [x.detach() for x in tensors(torch.float32, device)]
    for x in some:
        x.copy_(torch.randn(x.shape, generator=generator) * 20)
    some = [x.to(dtype) for x in some]
    for given in ([some[0]], some):
        rows = _ops.stats_directly(given if len(given) > 1 else given[0], groups, 1)
        assert rows is not None
        moments, counts, places = (rows.cpu() for rows in _ops.stats(given, groups, 1))
        if isinstance(rows[0], torch.Tensor):  # of CUDA kernels
            assert all(row.device == given[0].device for row in rows)
            assert all(map(torch.equal, bits(rows), bits((moments, counts, places))))
            continue
        assert rows[:2] == (moments.numpy().tobytes(), counts.numpy().tobytes())
        if groups & Groups.HISTOGRAM:
            direct = Batch(rows, groups, 1)
            for i, expected in enumerate(places.numpy()):
                assert np.array_equal(direct.row(i).histogram.counts.ravel(), expected)
        else:
            assert rows[2] == b""
    assert all(taken)


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_histograms_of_few_elements_are_those_of_many(dtype: torch.dtype, scale: int) -> None:
    odd = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1.0, 2.0, 3e38])
    drawn = torch.randn(2048 - len(odd), generator=torch.Generator().manual_seed(0))
    x = torch.cat([odd, drawn]).to(dtype)
    sizes = [511, 0, 512, 1, 513, 511]  # of at most 512 elements, their places are kept
    table = initstats.stats(list(x.split(sizes)), scale=scale)
    records = [table[str(i)] for i in range(len(sizes))]
    assert [record.count for record in records] == sizes
    merged = initstats.stats(x, scale=scale).histogram
    assert np.array_equal(sum(r.histogram.counts for r in records), merged.counts)
    assert sum(r.histogram.total for r in records) == merged.total
    quantiles = [initstats.stats(piece.clone()).quantile(0.5) for piece in x.split(sizes)]
    assert all(math.isnan(q) == (size == 0) for q, size in zip(quantiles, sizes, strict=True))


def test_a_small_record_takes_less_memory_than_a_histogram() -> None:
    rows = _ops.stats_directly([torch.ones(64), torch.ones(3)], Groups.HISTOGRAM, 0)
    assert rows is not None
    assert list(map(len, rows)) == [2 * 64, 2 * 64, 2 * 64 + 8]


def test_a_record_of_a_direct_call_reads_as_that_of_the_op(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    x = torch.tensor([[1.0, -2.0, math.nan], [0.0, math.inf, 3.0]], device=device)
    direct = initstats.stats(x, fingerprint=True), initstats.stats([x, x], fingerprint=True)
    monkeypatch.setattr(_ops, "stats_directly", lambda *_: None)
    long = initstats.stats(x, fingerprint=True), initstats.stats([x, x], fingerprint=True)
    assert direct[0].to_dict() == long[0].to_dict()
    assert direct[1].to_dict() == long[1].to_dict()
    assert direct[0].merge(long[0]).histogram == long[0].merge(direct[0]).histogram


def test_generators_move_as_for_the_op(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    def filled(**arguments: Any) -> list[torch.Tensor]:
        some = [torch.zeros(n, dtype=t, device=device) for n, t in ((5, FLOATS[2]), (7, FLOATS[3]))]
        initstats.normal_(some[0], **arguments)
        initstats.foreach_normal_(some, **arguments)
        return [*some, torch.rand(1, generator=arguments.get("generator"))]

    def both() -> list[list[torch.Tensor]]:
        torch.manual_seed(3)
        return [filled(), filled(generator=torch.Generator().manual_seed(4))]

    direct = both()
    monkeypatch.setattr(_ops, "fill_directly", lambda *_: False)
    for a, b in zip(direct, both(), strict=True):
        assert all(map(torch.equal, a, b))


# ---- what goes the long way


class Recording(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names.append(str(func))
        return func(*args, **(kwargs or {}))


class Watching(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


names: list[str] = []


@pytest.mark.parametrize(
    ("around", "seen"),
    [
        (Recording, "initstats.normal_.default"),
        (Watching, "normal_"),
    ],
)
def test_modes_see_what_happens(around: Callable[[], Any], seen: str, device: torch.device) -> None:
    names.clear()
    x = torch.zeros(3, device=device)
    with around():
        initstats.normal_(x)
    assert seen in names


def test_a_profiler_sees_the_op(device: torch.device) -> None:
    x = torch.zeros(3, device=device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        initstats.normal_(x)
        initstats.stats(x)
    assert {"initstats::normal_", "initstats::stats"} <= {e.key for e in profile.key_averages()}


class Subclass(torch.Tensor):
    pass


def resized(x: torch.Tensor, items: int) -> torch.Tensor:
    x.untyped_storage().resize_(4 * items)
    return x


NOT_PLAIN: dict[str, Callable[[], Any]] = {
    "subclass": lambda: torch.zeros(3).as_subclass(Subclass),
    "negated": lambda: torch.zeros(3, dtype=torch.complex64).conj().imag,
    "functional": lambda: torch._to_functional_tensor(torch.zeros(3)),
    "meta": lambda: torch.zeros(3, device="meta"),
    "sparse": lambda: torch.zeros(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
    "complex": lambda: torch.zeros(3, dtype=torch.complex64),
    "freed": lambda: resized(torch.zeros(4), 0),
    "shortened": lambda: resized(torch.zeros(4), 3),
    "shortened to the elements of a view": lambda: resized(torch.zeros(8)[4:], 4),
    "nine dimensions": lambda: torch.zeros(4, *[3] * 8).permute(*range(8, -1, -1)),
    "no tensor": lambda: np.zeros(3),
}
NOT_FILLABLE: dict[str, Callable[[], Any]] = NOT_PLAIN | {
    "in a graph": lambda: torch.zeros(3, requires_grad=True) * 1,
    "expanded": lambda: torch.zeros(1).expand(3),
    "integers": lambda: torch.zeros(3, dtype=torch.int32),
    "twice": lambda: [torch.zeros(3)] * 2,
    "empty and twice": lambda: [torch.zeros(0)] * 2,
    "overlapping": lambda: [(x := torch.zeros(5))[:3], x[2:]],
    "none": list,
}


def direct(given: Any, *values: Any, **keys: Any) -> bool:
    key = [keys.get(name) for name in ("generator", "seed", "names")]
    numbers = values or (0.0, 1.0)
    return _ops.fill_directly("normal_", NORMAL.check, "normal_", given, numbers, *key)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation.*:UserWarning")
@pytest.mark.parametrize("kind", NOT_FILLABLE)
def test_nothing_happens_to_what_is_not_plain(kind: str, device: torch.device) -> None:
    with device:
        given = NOT_FILLABLE[kind]()
    state = torch.get_rng_state()
    assert direct(torch.zeros(2, requires_grad=True, device=device))
    torch.set_rng_state(state)
    assert not direct(given)
    if not isinstance(given, list):
        plain = torch.zeros(2, device=device)
        assert not direct([plain, given])
        assert not plain.any()
        if kind in NOT_PLAIN:
            assert _ops.stats_directly(given, 1, 0) is None
            assert _ops.stats_directly([plain, given], 1, 0) is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ((0.0, -1.0), {}),
        ((math.nan, 1.0), {}),
        ((0.0, True), {}),
        ((0.0, np.float64(1)), {}),
        ((0.0, 10**400), {}),
        ((0.0,), {}),
        ((0.0, [1.0]), {}),
        ((0.0, 1.0), {"seed": 2**64}),
        ((0.0, 1.0), {"seed": -(2**63) - 1}),
        ((0.0, 1.0), {"seed": True}),
        ((0.0, 1.0), {"seed": 1.0}),
        ((0.0, 1.0), {"seed": 1, "names": 5}),
        ((0.0, 1.0), {"seed": 1, "names": ["a", "b"]}),
        ((0.0, 1.0), {"names": "a"}),
        ((0.0, 1.0), {"seed": 1, "generator": torch.Generator()}),
    ],
)
def test_nothing_happens_for_odd_arguments(
    values: tuple[Any, ...], keys: dict[str, Any], device: torch.device
) -> None:
    x, state = torch.zeros(3, device=device), torch.get_rng_state()
    assert not direct(x, *values, **keys)
    assert not x.any()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "around",
    [
        nullcontext,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_contexts_that_change_no_fill_stay_plain(
    around: Callable[[], AbstractContextManager[Any]], taken: list[bool], device: torch.device
) -> None:
    x = torch.nn.Parameter(torch.zeros(3, device=device))
    before = x._version
    with around():
        initstats.normal_(x, 0, 1, seed=0)
        initstats.foreach_normal_([x, torch.zeros(2, device=device)], [0.0, 1.0], seed=0)
        assert initstats.stats(x).count == 3
    assert taken == [True, True, True]
    assert x._version == before + 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_nothing_is_direct_while_torch_traces() -> None:
    answers = []

    def traced(x: torch.Tensor) -> torch.Tensor:
        answers.append(direct(torch.zeros(3)))
        return x + 1

    torch.jit.trace(traced, torch.zeros(3))
    assert answers[0] is False


def test_this_build_makes_direct_calls(device: torch.device) -> None:
    assert _ops.build_info()["direct_calls"] == "yes"
    assert _ops.stats_directly(torch.zeros(1, device=device), 1, 0)


def test_nobody_keeps_the_records_of_direct_calls(device: torch.device) -> None:
    rows = _ops.stats_directly(torch.ones(5, device=device), Groups.HISTOGRAM, 0)
    assert rows is not None
    uses = torch.ones(5, device=device)._use_count()
    assert all(isinstance(row, bytes) or row._use_count() == uses for row in rows)


@pytest.mark.backends("cuda")
def test_tensors_of_several_devices_go_the_long_way(device: torch.device) -> None:
    given = [torch.zeros(3), torch.zeros(3, device=device)]
    for some in (given, given[::-1]):
        assert not direct(some)
        assert _ops.stats_directly(some, 1, 0) is None
    assert not any(x.any() for x in given)
    initstats.foreach_normal_(given, seed=0)
    assert initstats.stats(given)["1"].count == 3


@pytest.mark.backends("cuda")
def test_direct_calls_take_the_current_stream(device: torch.device, taken: list[bool]) -> None:
    x, y = torch.zeros(100, device=device), torch.zeros(100, device=device)
    initstats.normal_(y, seed=1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # on a stream of its own, where nothing runs yet
        initstats.normal_(x, seed=1)
        rows = _ops.stats_directly(x, 1, 0)
    assert not x.any()
    graph.replay()
    assert torch.equal(x, y)
    assert rows is not None
    assert all(map(torch.equal, rows[:2], _ops.stats([x], 1, 0)[:2]))
    assert all(taken)
