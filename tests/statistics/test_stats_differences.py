"""`stats(x, minus=y)`: the statistics of x - y without making it, against making it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initstats
from initstats import _ops

NARROW = [torch.float16, torch.bfloat16]
SIZES = [0, 1, 3, 4095, 4096, 4097, 140_001]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rows(x: Tensor, minus: Tensor | None = None, scale: int = 0) -> list[bytes]:
    """Return the bits of the record."""
    taken = _ops.stats([x], 3, scale, minus=[] if minus is None else [minus])
    return [part.cpu().numpy().tobytes() for part in taken]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_a_difference_has_the_bits_of_the_subtracted_tensor(
    dtype: torch.dtype, n: int, device: torch.device
) -> None:
    x, y = (normal(n, seed=i, dtype=dtype).to(device) for i in range(2))
    if n > 4:
        x[1], x[2], y[2], x[3] = float("nan"), float("inf"), float("inf"), y[3]
    assert rows(x, y) == rows(x - y)
    assert rows(x, y, scale=2) == rows(x - y, scale=2)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_halves_are_subtracted_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    x, y = (normal(9001, seed=i, dtype=dtype).to(device) for i in range(2))
    mine = initstats.stats(x, minus=y)
    exact = (x.double() - y.double()).float()  # no difference of halves needs more than 24 bits
    theirs = initstats.stats(exact)
    assert mine.histogram.counts.tolist() == theirs.histogram.counts.tolist()
    assert (mine.min, mine.max, mine.zero) == (theirs.min, theirs.max, theirs.zero)
    # The order of summation is that of halves: at most 17 roundings each (test_stats.py).
    rounding = 2 * 17 * 2.0**-24
    assert abs(mine.mean - theirs.mean) <= rounding * theirs.l1 / theirs.count
    assert mine.std == pytest.approx(theirs.std, rel=rounding)


def test_operands_may_lie_differently_in_memory(device: torch.device) -> None:
    x, y = normal(70, 80, seed=0).to(device), normal(80, 70, seed=1).to(device)
    wide = normal(71, 161, seed=2).to(device)
    for left, right in (
        (x, y.t()),
        (x[:, ::2], wide[:70, 1:81:2]),
        (x.flatten(), wide.flatten()[1:5601]),  # not aligned to 16 bytes
        (x, x.new_ones(()).expand(70, 80)),
    ):
        assert rows(left, right) == rows((left - right).contiguous())
    # The order is that of the first one's memory.
    assert rows(y.t(), x) == rows(y - x.t())


@pytest.mark.parametrize("count", [1, 5, 700])
def test_many_differences_are_those_one_by_one(count: int, device: torch.device) -> None:
    n = 37 if count > 5 else 5000
    x = [normal(n + i, seed=i).to(device) for i in range(count)]
    y = [normal(n + i, seed=1000 + i).to(device) for i in range(count)]
    together = _ops.stats(x, 3, 0, minus=y)
    for i in range(0, count, max(1, count // 5)):
        assert [part[i].cpu().numpy().tobytes() for part in together] == rows(x[i], y[i])


def test_tables_are_matched_by_name() -> None:
    model, other = nn.Linear(5, 4), nn.Linear(5, 4)
    table = initstats.stats(model, minus=dict(reversed(list(other.named_parameters()))))
    for name, mine in model.named_parameters():
        expected = initstats.stats((mine - other.get_parameter(name)).detach())
        assert table[name].to_dict() == expected.to_dict()
    pair = [model.weight, model.bias]
    assert initstats.stats(pair, minus=pair)["0"].zero == 20


A, MODEL = torch.ones(3), nn.Linear(2, 3)


@pytest.mark.parametrize(
    ("error", "x", "arguments", "message"),
    [
        (TypeError, A, {"minus": [A]}, "expected minus to be of the kind of x, a tensor, got list"),
        (TypeError, MODEL, {"minus": A}, "expected minus to be of the kind of x, a module, .* got"),
        (TypeError, A, {"minus": A.double()}, "expected dense tensors of one floating dtype"),
        (TypeError, A.int(), {"minus": A.int()}, "expected dense tensors of one floating dtype"),
        (TypeError, A, {"minus": A.to_sparse()}, "got torch.float32 and torch.sparse_coo for 'x'"),
        (ValueError, A, {"minus": A[:2]}, r"the shape of x, \(3,\), got \(2,\) for 'x'"),
        (ValueError, A, {"minus": A.to("meta")}, "the device of x, cpu, got meta for 'x'"),
        (ValueError, [A], {"minus": [A, A]}, "the names of x, got '1' in one"),
        (ValueError, A, {"minus": A, "fingerprint": True}, "expected no fingerprint with minus"),
        (ValueError, A, {"minus": A, "dim": 0}, "expected moments alone with dim, .* or minus"),
    ],
)
def test_what_cannot_be_subtracted_is_one_error(
    error: type[Exception], x: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=f"initstats.stats: .*{message}"):
        initstats.stats(x, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([A], 1, 0, [], [A, A]), "expected one tensor to subtract per tensor, 1, got 2"),
        (([A], 4, 0, [], [A]), "expected neither fingerprint nor box with minus"),
        (([A], 1, 0, [0, 3], [A]), "expected neither fingerprint nor box with minus"),
        (([A], 1, 0, [], [A.double()]), "expected tensors and minus of one floating dtype"),
        (([A], 1, 0, [], [A[:2]]), "expected tensors and minus of the same sizes"),
        (([A], 1, 0, [], [A[None]]), "expected tensors and minus of the same sizes"),
    ],
)
def test_the_op_refuses_what_does_not_match(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"initstats.stats: {message}"):
        torch.ops.initstats.stats(*arguments)
