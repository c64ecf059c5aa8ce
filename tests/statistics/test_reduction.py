"""Merging over ranks: bits, order, exactness against the unsharded tensor, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from initstats import _ops
from initstats.statistics.record_array import (
    COUNT,
    L1,
    M2,
    M3,
    M4,
    MAX,
    MEAN,
    MIN,
    MIN_ABS,
    Records,
)
from initstats.statistics.reduction import (
    CAPACITY,
    Contribution,
    LayoutsDifferError,
    Merged,
    merge_over_ranks,
)
from simulated_ranks import by_nodes, in_order, run_ranks

RANKS = 16
SIZE = 16000  # not a multiple of a tile
PER_RANK = SIZE // RANKS
INF, NAN = math.inf, math.nan


def tensors() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(SIZE, generator=g)
    wide = normal.double()
    mask = torch.rand(SIZE, generator=g) < 0.1
    return {
        "normal": normal * 0.02,
        "offset": normal * 1e-3 + 5,
        "outlier": torch.cat([normal[1:], torch.tensor([1e6])]),
        "sorted": normal.sort()[0],
        "heavy": normal**9,
        "one value": torch.full((SIZE,), 3.3),
        "one value, negative": torch.full((SIZE,), -0.1, dtype=torch.float64),
        "zeros": torch.zeros(SIZE),
        "positive": normal.abs() + 1e-30,
        "zeros of both signs": torch.where(mask, 0.0, -0.0),
        "with nan": torch.where(mask, NAN, normal),
        "one rank has inf": torch.cat([torch.full((PER_RANK,), INF), normal[PER_RANK:]]),
        "all nan": torch.full((SIZE,), NAN),
        "bfloat16": normal.bfloat16(),
        "float64": wide * 1e200,
        "far too small": wide * 1e-310,
        "far too large": wide.sign() * 1e308,
        "overflowing": wide * 1e100 + 1e101,
        "all magnitudes": torch.exp2(torch.linspace(-1074, 1023, SIZE, dtype=torch.float64)),
        "integers": (normal * 1e4).to(torch.int32),
        "short": normal[: RANKS // 2],
    }


def taken(values: Sequence[torch.Tensor], scale: int) -> tuple[Records, np.ndarray]:
    moments, counts, places = _ops.stats(values, 7, scale)
    return Records(moments.numpy(), counts.numpy()), places.numpy()


def contributions(scale: int = 0) -> list[Contribution]:
    """One per rank, for shards along the only dimension."""
    whole = tensors()
    found = []
    for rank in range(RANKS):
        shards = [torch.tensor_split(x, RANKS)[rank] for x in whole.values()]
        boxes = []
        for x in whole.values():
            starts = [0, *torch.tensor([len(s) for s in torch.tensor_split(x, RANKS)]).cumsum(0)]
            boxes += [int(starts[rank]), len(x)]
        moments, counts, places = _ops.stats(shards, 7, scale, boxes)
        found.append(
            Contribution(
                tuple(whole),
                ("",) * len(whole),
                Records(moments.numpy(), counts.numpy()),
                places.numpy(),
                scale,
                np.array([x.numel() for x in whole.values()]),
                fingerprint=True,
                rank=rank,
                ranks=RANKS,
                seconds=1.0 + 0.25 * (rank == 5) - 0.25 * (rank == 9),
            )
        )
    return found


def changed(own: Contribution, **changes: object) -> Contribution:
    return Contribution(**{**vars(own), **changes})  # type: ignore[arg-type]


def merged(ranks: Sequence[Contribution], *arguments: object, **settings: object) -> list[Merged]:
    return run_ranks([merge_over_ranks("test", own) for own in ranks], *arguments, **settings)  # type: ignore[arg-type]


def bits(result: Merged) -> tuple[bytes, ...]:
    places = b"" if result.places is None else result.places.tobytes()
    return result.records.moments.tobytes(), result.records.counts.tobytes(), places


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_counts_extrema_histogram_and_fingerprint_are_those_of_the_whole(scale: int) -> None:
    expected, places = taken(list(tensors().values()), scale)
    result = merged(contributions(scale))[0]
    assert np.array_equal(result.records.counts[:, :6], expected.counts[:, :6])
    for column in (MIN, MAX, MIN_ABS):
        mine, whole = result.records.moments[:, column], expected.moments[:, column]
        assert np.array_equal(mine, whole, equal_nan=True)
        assert np.array_equal(np.signbit(mine[mine == 0]), np.signbit(whole[whole == 0]))
    assert result.places is not None
    assert np.array_equal(result.places, places)


def test_moments_are_those_of_the_whole() -> None:
    expected, _ = taken(list(tensors().values()), 0)
    result = merged(contributions())[0]
    for i, name in enumerate(tensors()):
        mine, whole = result.records[i : i + 1], expected[i : i + 1]
        fields = ["mean", "l1", "rms"]
        if name not in ("overflowing", "far too large", "far too small", "all magnitudes"):
            fields += ["std", "skewness", "kurtosis"]
        for field in fields:
            got, want = mine.column(field)[0], whole.column(field)[0]
            # What may be near 0: next to a usual distribution, a mean next to float32 of the rms.
            near = {"skewness": 3e-6, "kurtosis": 9e-6, "mean": 1e-7 * whole.column("rms")[0]}
            known = near.get(field, 0.0)
            assert got == pytest.approx(want, rel=3e-6, abs=known, nan_ok=True), (name, field)


@pytest.mark.parametrize("name", ["normal", "offset", "sorted", "heavy", "with nan"])
def test_moments_are_exact_sums(name: str) -> None:
    x = [v for v in tensors()[name].double().tolist() if math.isfinite(v)]
    mean = math.fsum(x) / len(x)
    size = math.sqrt(math.fsum(v * v for v in x) / len(x))
    moments = merged(contributions())[0].records.moments[list(tensors()).index(name)]
    assert moments[MEAN] == pytest.approx(mean, abs=1e-7 * size)
    for column, power in ((M2, 2), (M3, 3)):
        exact = math.fsum((v - mean) ** power for v in x)
        scale = math.fsum(abs(v - mean) ** power for v in x)
        assert moments[column] == pytest.approx(exact, abs=3e-6 * scale)


@pytest.mark.parametrize("name", ["one value", "one value, negative", "zeros"])
def test_one_value_alone_has_no_spread(name: str) -> None:
    i = list(tensors()).index(name)
    moments = merged(contributions())[0].records.moments[i]
    assert moments[MEAN] == moments[MIN] == moments[MAX]
    assert moments[[M2, M3, M4]].tolist() == [0, 0, 0]


def test_sums_that_leave_float64_are_infinite() -> None:
    whole, _ = taken(list(tensors().values()), 0)
    result = merged(contributions())[0].records
    for name, columns in (("overflowing", (M4,)), ("far too large", (L1, M2, M4))):
        i = list(tensors()).index(name)
        for column in columns:
            assert not math.isfinite(whole.moments[i, column])
            assert result.moments[i, column] == INF
    i = list(tensors()).index("overflowing")
    assert result.moments[i, M3] == pytest.approx(whole.moments[i, M3], rel=1e-6)


def test_every_order_and_hierarchy_gives_every_rank_the_same_bits() -> None:
    ranks = contributions()
    orders = [random.Random(i).sample(range(RANKS), RANKS) for i in range(5)]
    ways = [None, *(in_order(order) for order in orders), by_nodes(4), by_nodes(8), by_nodes(5)]
    assert len({bits(result) for way in ways for result in merged(ranks, way)}) == 1


@pytest.mark.parametrize("tensors_per_table", [1, 40, CAPACITY])
def test_three_messages_whatever_the_number_of_tensors(tensors_per_table: int) -> None:
    sent: list[object] = []
    merged(repeated(tensors_per_table), sent=sent)
    assert len(sent) == 3


def repeated(n: int) -> list[Contribution]:
    """One small tensor per rank, n times."""
    ranks = []
    for own in contributions()[:4]:
        rows = Records(*(np.repeat(x[:1], n, 0) for x in (own.records.moments, own.records.counts)))
        names = tuple(f"w{i}" for i in range(n))
        numel = np.full(n, 4 * PER_RANK)
        ranks.append(
            changed(own, names=names, shapes=("",) * n, records=rows, places=None, numel=numel)
        )
    return ranks


def test_a_larger_table_takes_a_fourth_message_once() -> None:
    ranks = repeated(CAPACITY + 1)
    sent: list[object] = []
    first = merged(ranks, sent=sent)
    assert len(sent) == 4
    assert {result.capacity for result in first} == {CAPACITY + 1}
    sent.clear()
    again = [merge_over_ranks("test", own, first[0].capacity) for own in ranks]
    assert bits(run_ranks(again, sent=sent)[0]) == bits(first[0])  # type: ignore[arg-type]
    assert len(sent) == 3


def test_a_rank_without_elements_changes_nothing() -> None:
    ranks = contributions()
    n = len(ranks[0].names)
    idle = changed(
        ranks[0],
        records=Records.empty(n),
        places=np.zeros_like(ranks[0].places),
        rank=RANKS,
        seconds=1.0,
    )
    assert bits(merged([idle, *ranks, idle])[1]) == bits(merged(ranks)[0])


def test_the_first_tensor_and_rank_that_are_not_finite_are_named() -> None:
    result = merged(contributions())[3]
    names = list(tensors())
    assert result.first_not_finite == (names.index("with nan"), 0)
    only = [changed(own, records=only_last_rank(own)) for own in contributions()]
    assert merged(only)[0].first_not_finite == (names.index("with nan"), RANKS - 1)
    assert merged(repeated(3))[0].first_not_finite is None


def only_last_rank(own: Contribution) -> Records:
    """Return the records of the last rank; the finite ones of the others, as often as needed."""
    if own.rank == RANKS - 1:
        return own.records
    moments, counts = own.records.moments.copy(), own.records.counts.copy()
    counts[:, 1:4] = 0
    return Records(moments, counts)


def test_the_slowest_and_the_fastest_rank_are_named() -> None:
    result = merged(contributions())[2]
    assert (result.slowest, result.fastest) == ((5, 1.25), (9, 0.75))


def test_an_absurd_time_still_names_its_rank() -> None:
    ranks = [changed(own, seconds=1e9 * (own.rank == 7)) for own in contributions()]
    slowest = merged(ranks)[0].slowest
    assert slowest is not None
    assert slowest[0] == 7


def test_ranks_that_have_measured_no_time_are_not_named() -> None:
    ranks = [changed(own, seconds=float(own.rank in (3, 7)) * own.rank) for own in contributions()]
    assert (merged(ranks)[0].slowest, merged(ranks)[0].fastest) == ((7, 7.0), (3, 3.0))
    result = merged([changed(own, seconds=0.0) for own in contributions()])[0]
    assert (result.slowest, result.fastest) == (None, None)


def test_elements_of_no_known_number_are_counted() -> None:
    ranks = [changed(own, numel=np.full(len(own.numel), -1)) for own in contributions()]
    result, expected = merged(ranks)[0], merged(contributions())[0]
    assert np.array_equal(result.records.counts, expected.records.counts)
    for name in ("mean", "std", "kurtosis"):
        np.testing.assert_allclose(
            result.records.column(name), expected.records.column(name), rtol=3e-6, atol=1e-12
        )


# ---- what is refused, on every rank, without a rank that waits


def raised_by_all(ranks: Sequence[Contribution], kind: type[Exception]) -> str:
    sent: list[object] = []
    errors = merged(ranks, sent=sent)
    assert {type(error) for error in errors} == {kind}
    assert len({str(error) for error in errors}) == 1
    assert len(sent) <= 3
    return str(errors[0])


def test_different_names_are_an_error_on_all_ranks_that_names_rank_and_tensor() -> None:
    ranks = repeated(3)
    ranks[2] = changed(ranks[2], names=("w0", "w1", "other"))
    text = raised_by_all(ranks, LayoutsDifferError)
    assert "rank 2 has 'other '" in text
    assert "rank 0 has 'w2 '" in text


@pytest.mark.parametrize("n", [0, 1, CAPACITY + 7])
def test_a_rank_with_more_or_fewer_tensors_is_an_error_on_all_ranks(n: int) -> None:
    ranks = repeated(3)
    ranks[1] = repeated(n)[1]
    text = raised_by_all(ranks, LayoutsDifferError)
    assert "rank 1" in text
    assert ("and" in text and "more" in text) == (n > CAPACITY)


def test_different_groups_or_shapes_are_an_error_on_all_ranks() -> None:
    ranks = repeated(2)
    ranks[3] = changed(ranks[3], fingerprint=False)
    assert "fingerprint=False" in raised_by_all(ranks, LayoutsDifferError)
    ranks = repeated(2)
    ranks[3] = changed(ranks[3], shapes=("[3]", ""))
    assert "'w0 [3]'" in raised_by_all(ranks, LayoutsDifferError)


def test_another_order_of_the_same_tensors_is_an_error() -> None:
    ranks = repeated(2)
    ranks[3] = changed(ranks[3], names=("w1", "w0"))
    assert raised_by_all(ranks, LayoutsDifferError).endswith("their order")


def test_a_shard_that_is_missing_or_counted_twice_is_an_error_on_all_ranks() -> None:
    ranks = repeated(2)
    text = raised_by_all(ranks[:3], ValueError)
    assert "expected the 4000 elements of 'w0' once" in text
    assert "got 3000" in text
    assert "got 5000" in raised_by_all([*ranks, changed(ranks[0], rank=4)], ValueError)


def test_a_table_without_tensors_merges() -> None:
    result = merged([changed(own, ranks=4) for own in repeated(0)])[0]
    assert result.records.counts.shape == (0, 8)
    assert result.records.counts[:, COUNT].sum() == 0
