"""Names without the underscore: torch's names, torch's warning, the bits of the function meant."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import pytest
import torch
from torch.nn import init

from initstats.init import constant_fills, deprecated, random, xavier_kaiming

ARGUMENTS = {"constant": (0.5,)}
MEANT: dict[str, Callable[..., torch.Tensor]] = {
    "uniform": random.uniform_,
    "normal": random.normal_,
    "constant": constant_fills.constant_,
    "eye": constant_fills.eye_,
    "dirac": constant_fills.dirac_,
    "xavier_uniform": xavier_kaiming.xavier_uniform_,
    "xavier_normal": xavier_kaiming.xavier_normal_,
    "kaiming_uniform": xavier_kaiming.kaiming_uniform_,
    "kaiming_normal": xavier_kaiming.kaiming_normal_,
}


def call(function: Callable[..., torch.Tensor], name: str) -> tuple[torch.Tensor, list[object]]:
    x = torch.zeros((3, 4, 2) if name == "dirac" else (3, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert function(x, *ARGUMENTS.get(name, ())) is x
    return x, [(str(w.message), w.category, w.filename) for w in caught]


@pytest.mark.parametrize("name", MEANT)
def test_old_name_warns_as_torch_and_calls_the_function_meant(name: str) -> None:
    old = getattr(deprecated, name)
    torch.manual_seed(3)
    x, caught = call(old, name)
    torch.manual_seed(3)
    expected, quiet = call(MEANT[name], name)
    assert torch.equal(x, expected)
    assert quiet == []
    assert caught == call(getattr(init, name), name)[1]
    assert old.__name__ == name
    assert inspect.signature(old) == inspect.signature(MEANT[name])
    assert f"`{name}_`" in (old.__doc__ or "")
