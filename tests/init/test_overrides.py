"""Tensor subclasses and modes see our fills as they see torch's: by the public function."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode

import initstats
from initstats.init._distributions import DISTRIBUTIONS

FILLS: dict[str, tuple[float, ...]] = {
    **{family.name: () for family in DISTRIBUTIONS},
    "xavier_uniform_": (),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (),
    "variance_scaling_": (),
    "lecun_normal_": (),
    "lecun_uniform_": (),
    "truncated_normal_": (),
    "sparse_": (0.5,),
}


class Recording(torch.Tensor):
    """A subclass that answers for itself."""

    seen: list[object] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(func, "__module__", "").startswith("initstats"):
            cls.seen.append((func, args[1:], kwargs))
            return "handled"
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("name", FILLS)
def test_a_subclass_may_take_over(name: str) -> None:
    function = getattr(initstats, name)
    x = torch.zeros(4, 4).as_subclass(Recording)
    Recording.seen.clear()
    assert function(x, *FILLS[name], seed=1) == "handled"
    if not FILLS[name]:
        assert function(tensor=x) == "handled"
    assert Recording.seen[0] == (function, FILLS[name], {"seed": 1})


@pytest.mark.parametrize("name", FILLS)
def test_a_subclass_that_does_not_care_is_filled(name: str) -> None:
    class Plain(torch.Tensor):
        pass

    x = torch.zeros(4, 4).as_subclass(Plain)
    expected = torch.zeros(4, 4)
    assert getattr(initstats, name)(x, *FILLS[name], seed=1) is x
    getattr(initstats, name)(expected, *FILLS[name], seed=1)
    assert torch.equal(x.as_subclass(torch.Tensor), expected)


def test_a_mode_sees_the_public_function() -> None:
    seen = []

    class Log(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Log():
        initstats.kaiming_uniform_(torch.zeros(3, 4))
    assert initstats.kaiming_uniform_ in seen
