"""The fingerprint against a NumPy model, in pieces, and how well it tells tensors apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from initstats import _ops

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]

U64 = npt.NDArray[np.uint64]


def position(index: U64) -> U64:
    low, high = index & np.uint64(0xFFFFFFFF), index >> np.uint64(32)
    return (low * np.uint64(0x9E3779B1) + high * np.uint64(0x85EBCA77)) & np.uint64(0xFFFFFFFF)


def mix(bits: U64, index: U64) -> U64:
    """What one 32-bit element adds: Note [Fingerprint v1], written down a second time."""
    t = position(index)
    a = ((bits ^ t) * np.uint64(0xCC9E2D51)) & np.uint64(0xFFFFFFFF)
    a ^= a >> np.uint64(15)
    return a * ((t ^ np.uint64(0x27D4EB2F)) | np.uint64(1))


def model(x: torch.Tensor, index: U64 | None = None) -> int:
    bits = x.contiguous().view(INTEGERS[x.element_size()]).numpy().view(BITS[x.element_size()])
    bits = bits.ravel().astype(np.uint64)
    index = np.arange(bits.size, dtype=np.uint64) if index is None else index.ravel()
    if x.element_size() == 8:
        halves = np.stack([bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(32)], 1).ravel()
        index = np.stack([2 * index, 2 * index + np.uint64(1)], 1).ravel()
        bits = halves
    return int(mix(bits, index).sum(dtype=np.uint64))


def fingerprint(x: torch.Tensor, box: Any = ()) -> int:
    return int(_ops.stats([x], 4, 0, box)[1][0, 5]) % 2**64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 4095, 4096, 4097, 20_000])
def test_fingerprint_is_that_of_the_model(n: int, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype)
    assert fingerprint(x.to(device)) == model(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [2**31 - 100, 2**32 - 8192 - 3, 2**32 - 100, 2**33 + 17])
def test_logical_indices_go_past_32_bits(
    offset: int, dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.randn(9000, generator=torch.Generator().manual_seed(1)).to(dtype)
    index = np.arange(offset, offset + 9000, dtype=np.uint64)
    assert fingerprint(x.to(device), [offset, 2**40]) == model(x, index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_pieces_cut_by_rows_columns_or_blocks_add_up(
    dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.randn(90, 110, generator=torch.Generator().manual_seed(2)).to(dtype).to(device)
    whole = fingerprint(x)
    for row_cuts, column_cuts in (
        ([0, 31, 90], [0, 110]),
        ([0, 90], [0, 1, 64, 110]),
        ([0, 40, 90], [0, 50, 110]),
    ):
        total = 0
        for top, bottom in itertools.pairwise(row_cuts):
            for left, right in itertools.pairwise(column_cuts):
                piece = x[top:bottom, left:right]
                box = [top, left, 90, 110]
                assert fingerprint(piece, box) == fingerprint(piece.contiguous().clone(), box)
                total += fingerprint(piece, box)
        assert total % 2**64 == whole


def test_order_of_dimensions_matters_and_strides_do_not(device: torch.device) -> None:
    x = torch.randn(64, 80, generator=torch.Generator().manual_seed(3)).to(device)
    assert fingerprint(x.t()) == fingerprint(x.t().contiguous())
    assert fingerprint(x.t()) != fingerprint(x)


@pytest.mark.backends("cpu")
def test_changes_swaps_and_shifts_never_leave_the_fingerprint_alone() -> None:
    """No collision in 3 million trials: the chance is below 1e-12 if sums are like random ones."""
    rng = np.random.default_rng(4)
    n = 4096
    values = rng.standard_normal(n).astype(np.float32).view(np.uint32).astype(np.uint64)
    small = rng.integers(0, 4, n).astype(np.uint64)  # few bits: the hardest inputs
    index = np.arange(n, dtype=np.uint64)
    for bits in (values, small):
        own = mix(bits, index)
        i, j = rng.integers(0, n, 500_000), rng.integers(0, n, 500_000)
        different = (i != j) & (bits[i] != bits[j])
        i, j = i[different], j[different]
        swapped = mix(bits[i], index[j]) + mix(bits[j], index[i]) - own[i] - own[j]
        assert (swapped != 0).all()
        flip = np.uint64(1) << rng.integers(0, 32, i.size).astype(np.uint64)
        both = mix(bits[i] ^ flip, index[i]) + mix(bits[j] ^ flip, index[j]) - own[i] - own[j]
        assert (both != 0).all()
        step = np.uint64(1)  # one element up by a bit, another one down
        moved = mix(bits[i] + step, index[i]) + mix(bits[j] - step, index[j]) - own[i] - own[j]
        assert (moved != 0).all()
    seen = {int(mix(np.roll(small, k), index).sum(dtype=np.uint64)) for k in range(n)}
    assert len(seen) == n


@pytest.mark.backends("cpu")
def test_the_mix_is_injective_in_the_bits() -> None:
    bits = np.arange(2**17, dtype=np.uint64) * np.uint64(32768)  # spread over all 32 bits
    for i in (0, 1, 12345, 2**32 - 1, 2**32, 2**50 + 7):
        assert np.unique(mix(bits, np.full_like(bits, i))).size == bits.size
