"""Fills while `torch.jit.trace` runs, which loses what ops write into the tensors of a list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import initstats
from initstats import init

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

Fill = Callable[[Tensor], object]
LOST: dict[str, Fill] = {
    "normal_": lambda t: initstats.normal_(t, seed=1),
    "kaiming_uniform_": initstats.kaiming_uniform_,
    "sparse_": lambda t: init.sparse_(t, 0.5),
    "orthogonal_": initstats.orthogonal_,
    "orthogonal_block_": lambda t: initstats.orthogonal_block_(t, (0, 0), (4, 4)),
    "foreach_normal_": lambda t: initstats.foreach_normal_([t]),
}
KEPT: dict[str, Fill] = {
    "constant_": lambda t: init.constant_(t, 2.0),
    "eye_": init.eye_,
    "identity_": initstats.identity_,
    "dirac_": lambda t: init.dirac_(t.view(4, 4, 1)),
}


def traced(fill: Fill) -> Tensor:
    """Return what a traced function returns that adds a filled matrix to its argument."""

    def added(x: Tensor) -> Tensor:
        matrix = torch.empty(4, 4)
        fill(matrix)
        return x + matrix

    result: Tensor = torch.jit.trace(added, torch.zeros(4, 4), check_trace=False)(torch.zeros(4, 4))
    return result


@pytest.mark.parametrize("fill", LOST.values(), ids=LOST.keys())
def test_a_fill_that_a_trace_would_lose_is_refused(fill: Fill) -> None:
    with pytest.raises(RuntimeError, match=r"expected a call outside of torch\.jit\.trace"):
        traced(fill)


@pytest.mark.parametrize("fill", KEPT.values(), ids=KEPT.keys())
def test_a_fill_of_constants_stays_in_a_trace(fill: Fill) -> None:
    expected = torch.empty(4, 4)
    fill(expected)
    assert torch.equal(traced(fill), expected)


def test_nested_tensors_are_refused_by_name() -> None:
    with pytest.warns(UserWarning, match="nested tensors"):
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for refused in (initstats.normal_, initstats.stats, lambda x: initstats.stats([x])):
        with pytest.raises(TypeError, match="expected a dense tensor, got a nested tensor"):
            refused(nested)
