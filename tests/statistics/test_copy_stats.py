"""`copy_stats_`: the statistics of tensors that are copied while they are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from initstats import _ops

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64]
# Nothing, parts of a line of 64 bytes, around a tile, and more tiles than one thread takes at once.
SIZES = [0, 1, 15, 16, 17, 4095, 4096, 4097, 140_001]


def bits(rows: tuple[Tensor, ...]) -> list[bytes]:
    return [part.cpu().numpy().tobytes() for part in rows]


def bytes_of(x: Tensor) -> bytes:
    return x.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def check(tensors: list[Tensor], copies: list[Tensor]) -> None:
    for groups, scale in ((1, 0), (3, 0), (5, 0), (7, 2)):
        for copy in copies:
            copy.fill_(1)
        expected = _ops.stats(tensors, groups, scale)
        assert bits(_ops.copy_stats_(tensors, copies, groups, scale)) == bits(expected)
        for x, copy in zip(tensors, copies, strict=True):
            assert bytes_of(copy) == bytes_of(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_have_the_bits_of_the_tensors_and_records_those_of_stats(
    dtype: torch.dtype, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [(torch.randn(n, generator=generator) * 9).to(dtype).to(device) for n in SIZES]
    if dtype.is_floating_point:
        tensors[-1][3:6] = torch.tensor([float("nan"), float("-inf"), -0.0], dtype=dtype)
    check(tensors, [torch.empty_like(x) for x in tensors])


@pytest.mark.parametrize("threads", [1, 3])
def test_every_layout_is_copied_and_nothing_beside_it(threads: int, device: torch.device) -> None:
    x = torch.randn(70, 90, generator=torch.Generator().manual_seed(1)).to(device)
    wide = x[:, 5:75]
    tensors = [x, x.t(), wide, x.flatten()[1:], x.view(7, 10, 90).permute(2, 0, 1)]
    room = torch.zeros(70 * 90 + 1, device=device)
    gaps = torch.zeros(70, 90, device=device)
    copies = [
        room[1:].view(70, 90),  # not at the beginning of a line
        torch.empty_like(x).t(),
        gaps[:, 10:80],
        torch.empty_like(tensors[3]),
        torch.empty_like(tensors[4]),
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(tensors, copies)
    finally:
        torch.set_num_threads(before)
    assert room[0] == 0
    assert not gaps[:, :10].any()
    assert not gaps[:, 80:].any()


A = torch.ones(3, 4)
OTHERS = "expected copies of the dtype, device, sizes and strides of tensors"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([A], [], 1, 0), "expected one copy per tensor, 1, got 0"),
        (([A], [A, A], 1, 0), "expected one copy per tensor, 1, got 2"),
        (([A], [A.double()], 1, 0), OTHERS),
        (([A], [A[:2]], 1, 0), OTHERS),
        (([A], [A.flatten()], 1, 0), OTHERS),
        (([A], [torch.ones(4, 3).t()], 1, 0), OTHERS),
        (([A], [A.clone()], 0, 0), "expected groups to be a sum of 1, 2 and 4"),
    ],
)
def test_the_op_refuses_what_is_no_copy(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"initstats.copy_stats_: {message}"):
        torch.ops.initstats.copy_stats_(*arguments)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("zeros", [0, 1, 300])
@pytest.mark.parametrize("deep", [1, 7, 9, 95, 600])
def test_elements_far_below_the_largest_are_counted_where_they_lie(
    deep: int, zeros: int, sign: float, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(deep)
    x = sign * (1 + torch.rand(4096, generator=generator))
    order = torch.randperm(4096, generator=generator)
    # Powers of two, upper edges of their buckets, and denormal numbers.
    small = torch.exp2(-torch.randint(15, 149, (deep,), generator=generator).double()).float()
    x[order[:deep]] = small * torch.where(torch.arange(deep) % 2 == 0, 1.0, -1.0)
    x[order[deep : deep + zeros]] = sign * 0.0
    places = _ops.stats([x.to(device)], 2, 0)[2][0].cpu()
    values = x.double()
    values = values[values != 0]
    bucket = torch.ceil(torch.log2(values.abs())).long() - 1 + 127
    expected = torch.bincount(bucket.clamp_min(0) + 256 * (values < 0), minlength=512)
    assert torch.equal(places, expected)
