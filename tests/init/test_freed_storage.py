"""A storage that was freed or shortened under a tensor, as FSDP2 does, is an error and no crash."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import initstats
from initstats import _ops

MESSAGE = r"expected a tensor whose storage holds its elements, \d+ bytes, got \d+ \(it was freed"
CALLS: dict[str, Callable[[torch.Tensor], object]] = {
    "uniform_": initstats.uniform_,
    "normal_": initstats.normal_,
    "trunc_normal_": initstats.trunc_normal_,
    "truncated_normal_": initstats.truncated_normal_,
    "xavier_uniform_": initstats.xavier_uniform_,
    "kaiming_normal_": initstats.kaiming_normal_,
    "lecun_normal_": initstats.lecun_normal_,
    "sparse_": lambda x: initstats.sparse_(x, 0.5),
    "orthogonal_": initstats.orthogonal_,
    "orthogonal_block_": lambda x: initstats.orthogonal_block_(x, (0, 0), tuple(x.shape)),
    "delta_orthogonal_": initstats.delta_orthogonal_,
    "constant_": lambda x: initstats.constant_(x, 2.0),
    "ones_": initstats.ones_,
    "zeros_": initstats.zeros_,
    "eye_": initstats.eye_,
    "identity_": initstats.identity_,
    "dirac_": initstats.dirac_,
    "foreach_normal_": lambda x: initstats.foreach_normal_([torch.ones(3), x]),
    "orthogonal_ of a list": lambda x: initstats.orthogonal_([torch.ones(3, 3), x]),
    "stats": initstats.stats,
    "stats of a list": lambda x: initstats.stats([torch.ones(3), x]),
    "stats of slices": lambda x: initstats.stats(x, dim=1),
    "stats of differences": lambda x: initstats.stats(torch.ones_like(x), minus=x),
    "copy_stats_": lambda x: _ops.copy_stats_([torch.ones_like(x)], [x], 1, 0),
    "square_ratio_stats": lambda x: _ops.square_ratio_stats([torch.ones_like(x)], [x], [1.0], 1, 0),
}
CONVOLUTIONS = {"delta_orthogonal_", "dirac_"}


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("side", [4, 300])
@pytest.mark.parametrize("call", CALLS)
def test_a_freed_storage_is_refused(call: str, side: int, strided: bool) -> None:
    x = torch.ones(side, side)
    view = x.t() if strided else x
    view = view[..., None] if call in CONVOLUTIONS else view
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=MESSAGE):
        CALLS[call](view)


@pytest.mark.parametrize("call", CALLS)
def test_a_storage_shorter_than_the_view_is_refused_and_nothing_written(call: str) -> None:
    memory = torch.ones(41)
    view = memory[5:].view((6, 6, 1) if call in CONVOLUTIONS else (6, 6))
    memory.untyped_storage().resize_(40 * 4)
    with pytest.raises(RuntimeError, match=MESSAGE):
        CALLS[call](view)
    assert bytes(memory.untyped_storage().tolist()) == bytes([0, 0, 128, 63] * 40)


@pytest.mark.parametrize("call", ["normal_", "orthogonal_", "constant_"])
def test_the_last_element_that_fits_is_filled(call: str) -> None:
    memory = torch.ones(41)
    view = memory[5:].view(6, 6)
    CALLS[call](view)
    assert float(view[5, 5]) != 1.0
