"""Scaled fills: torch.nn.init's signatures, errors and warnings; one clear error for bad input."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import init

from initstats.init import variance_scaling, xavier_kaiming

DROP_IN = ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"]
EMPTY = "Initializing zero-element tensors is a no-op"
FAN_FILLS = [
    *(getattr(xavier_kaiming, name) for name in DROP_IN),
    variance_scaling.lecun_normal_,
    variance_scaling.lecun_uniform_,
    variance_scaling.variance_scaling_,
]


@pytest.mark.parametrize("name", DROP_IN)
def test_signature_begins_with_torchs_and_the_rest_is_by_keyword(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(m, name)) for m in (xavier_kaiming, init))
    parameters = [(p.name, p.kind, p.default) for p in ours.parameters.values()]
    torchs = [(p.name, p.kind, p.default) for p in theirs.parameters.values()]
    assert parameters[: len(torchs)] == torchs
    added = list(ours.parameters.values())[len(torchs) :]
    assert [p.name for p in added] == ["seed", "name", "box", "groups", "transposed", "packed"]
    assert {p.kind for p in added} == {inspect.Parameter.KEYWORD_ONLY}


def outcome(function: Callable[..., torch.Tensor], shape: tuple[int, ...], *arguments: Any) -> Any:
    """What a caller sees besides numbers: the error, or the warnings with their file."""
    x = torch.zeros(shape)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert function(x, *arguments) is x
        except Exception as error:  # noqa: BLE001  # whatever torch raises is the expectation
            return type(error), str(error)
    return [(str(w.message), w.category, w.filename) for w in caught]


@pytest.mark.parametrize("name", DROP_IN)
def test_every_shape_gives_torchs_error_or_warning(name: str) -> None:
    ours, theirs = (getattr(m, name) for m in (xavier_kaiming, init))
    for dims in range(5):
        for shape in itertools.product((0, 1, 3), repeat=dims):
            assert outcome(ours, shape) == outcome(theirs, shape), shape


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_every_mode_and_nonlinearity_gives_torchs_error_or_none(name: str) -> None:
    ours, theirs = (getattr(m, name) for m in (xavier_kaiming, init))
    modes = ("fan_in", "fan_out", "FAN_IN", "fan_avg", "", "in", 3)
    nonlinearities = ("relu", "leaky_relu", "tanh", "conv2d", "selu", "Relu", "abc", None)
    for shape in ((3, 4), (5,), (0, 3), (0,)):
        for a, mode, nonlinearity in itertools.product((0, 0.5, True, "x"), modes, nonlinearities):
            arguments = (a, mode, nonlinearity)
            assert outcome(ours, shape, *arguments) == outcome(theirs, shape, *arguments), arguments


@pytest.mark.parametrize(
    "fill",
    [f for f in FAN_FILLS if not f.__name__.startswith("xavier")],
    ids=lambda f: f.__name__,
)
def test_empty_tensors_give_torchs_warning_at_the_callers_line(
    fill: Callable[..., torch.Tensor],
) -> None:
    for shape in ((0,), (0, 3), (3, 0, 2)):
        x = torch.empty(shape)
        before = torch.get_rng_state()
        with pytest.warns(UserWarning, match=EMPTY) as caught:
            assert fill(x) is x
        assert [w.filename for w in caught] == [__file__]
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", FAN_FILLS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": 5}, ValueError, "expected groups to divide the dimension of size 4, got"),
        ({"packed": 3}, ValueError, "expected packed to divide the dimension of size 4, got"),
        ({"transposed": 1}, TypeError, "expected transposed to be a bool"),
        ({"name": "w"}, ValueError, "expected a seed with name, got name without seed"),
        ({"seed": 1.5}, TypeError, r"expected seed to be an integer, got seed=1\.5"),
        ({"seed": 2**64}, ValueError, r"expected seed in \[-2\*\*63, 2\*\*64\)"),
        ({"generator": 3}, TypeError, r"expected generator to be a torch\.Generator, got int"),
        (
            {"seed": 1, "generator": torch.default_generator},
            ValueError,
            "expected seed or generator, got both",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(  # type: ignore[no-untyped-def]
    fill, arguments, error, message
) -> None:
    x = torch.zeros(4, 2)
    before = torch.get_rng_state()
    with pytest.raises(error, match=f"initstats.{fill.__name__}: {message}"):
        fill(x, **arguments)
    assert not x.any()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", FAN_FILLS, ids=lambda f: f.__name__)
def test_bad_tensors_are_refused(fill: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor, got list"):
        fill([[1.0]])
    with pytest.raises(TypeError, match=r"expected dtype float16, .*, got dtype=torch\.int64"):
        fill(torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        fill(torch.zeros(3))
    with pytest.raises(ValueError, match="expected a tensor outside the autograd graph"):
        fill(torch.zeros(3, 4, requires_grad=True) * 2)


@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_"])
@pytest.mark.parametrize("gain", [-1.0, math.nan, math.inf])
def test_xavier_refuses_gains_that_give_no_std(name: str, gain: float) -> None:
    fill = getattr(xavier_kaiming, name)
    with pytest.raises(ValueError, match=f"{name}: expected gain to be finite and >= 0, got gain="):
        fill(torch.zeros(3, 4), gain)
    with pytest.raises(TypeError, match=f"{name}: expected gain to be a number, got gain='a'"):
        fill(torch.zeros(3, 4), "a")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1.0,), ValueError, r"expected scale to be finite and >= 0, got scale=-1\.0"),
        ((math.nan,), ValueError, "expected scale to be finite and >= 0, got scale=nan"),
        (("a",), TypeError, "expected scale to be a number, got scale='a'"),
        ((1.0, "fan"), ValueError, "expected mode to be one of fan_in, .*, got mode='fan'"),
        ((1.0, None), TypeError, "expected mode to be a string, got mode=None"),
        (
            (1.0, "fan_in", "cauchy"),
            ValueError,
            "expected distribution to be one of normal, .*, got distribution='cauchy'",
        ),
    ],
)
def test_variance_scaling_refuses_bad_arguments(arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    x = torch.zeros(3, 4)
    with pytest.raises(error, match=f"initstats.variance_scaling_: {message}"):
        variance_scaling.variance_scaling_(x, *arguments)
    assert not x.any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.0, -1.0), ValueError, r"expected std to be finite and >= 0, got std=-1\.0"),
        ((math.nan,), ValueError, "expected mean to be finite, got mean=nan"),
        ((0.0, 1.0, 2.0, -2.0), ValueError, r"expected low <= high, got low=2\.0, high=-2\.0"),
        ((0.0, 1.0, math.nan), ValueError, "expected low <= high, got low=nan"),
        ((0.0, 1.0, "a"), TypeError, "expected low to be a number, got low='a'"),
        ((0.0, 1.0, math.inf, math.inf), ValueError, r"expected an interval \[a, b\] that holds"),
    ],
)
def test_truncated_normal_refuses_bad_arguments(arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    x = torch.zeros(3, 4)
    with pytest.raises(error, match=f"initstats.truncated_normal_: {message}"):
        variance_scaling.truncated_normal_(x, *arguments)
    with pytest.raises(TypeError, match=r"truncated_normal_: expected a torch\.Tensor, got int"):
        variance_scaling.truncated_normal_(3)  # type: ignore[arg-type]
    assert not x.any()
