"""Fans: torch's rule on many shapes, and what the arguments add, counted from real layers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import init

from initstats.init.fans import Fans, calculate_fan_in_and_fan_out, fan_for_mode

SHAPES = [shape for dims in (2, 3, 4, 5) for shape in itertools.product((0, 1, 3, 8), repeat=dims)]


def test_default_is_torchs_rule_on_every_shape() -> None:
    for shape in SHAPES:
        w = torch.empty(shape, device="meta")
        expected = init._calculate_fan_in_and_fan_out(w)
        assert calculate_fan_in_and_fan_out(w) == expected, shape
        assert isinstance(calculate_fan_in_and_fan_out(w), Fans)


def counted(layer: nn.Module, x: torch.Tensor, in_channels: int) -> tuple[int, int]:
    """Fans of a layer with weights 1, no bias: most inputs of an output, most outputs of an input.

    The Jacobian counts them, one input channel at a time; far enough from the borders both maxima
    are attained.
    """
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(1)
    jacobian = torch.autograd.functional.jacobian(layer, x[None])[0]  # [out, ..., 1, in, ...]
    out_dims = x.dim()
    nonzero = jacobian.reshape(math.prod(jacobian.shape[:out_dims]), -1) != 0
    assert nonzero.shape[1] % in_channels == 0
    return int(nonzero.sum(1).max()), int(nonzero.sum(0).max())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 4, 3, bias=False),
        nn.Conv2d(8, 4, 3, groups=2, bias=False),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.Conv2d(4, 12, (1, 3), groups=4, bias=False),
        nn.Conv1d(6, 9, 5, groups=3, bias=False),
        nn.ConvTranspose2d(8, 4, 3, bias=False),
        nn.ConvTranspose2d(8, 4, 3, groups=2, bias=False),
        nn.ConvTranspose1d(4, 4, 3, groups=4, bias=False),
    ],
    ids=str,
)
def test_convolution_fans_are_those_counted_in_the_layers_jacobian(
    layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d,
) -> None:
    size = (9,) * len(layer.kernel_size)
    x = torch.zeros(layer.in_channels, *size)
    fans = calculate_fan_in_and_fan_out(
        layer.weight, groups=layer.groups, transposed=layer.transposed
    )
    assert fans == counted(layer, x, layer.in_channels)


def test_packed_fans_are_those_of_one_projection() -> None:
    attention = nn.MultiheadAttention(32, 4)
    assert calculate_fan_in_and_fan_out(attention.in_proj_weight, packed=3) == (32, 32)
    lstm = nn.LSTM(10, 20)
    assert calculate_fan_in_and_fan_out(lstm.weight_ih_l0, packed=4) == (10, 20)
    assert calculate_fan_in_and_fan_out(torch.empty(8, 12, 3), transposed=True, packed=3) == (
        24,
        12,
    )
    assert calculate_fan_in_and_fan_out(torch.empty(24, 5, 2), groups=2, packed=3) == (10, 8)


@pytest.mark.parametrize(
    ("shape", "arguments", "by_torch", "fans"),
    [
        ((64, 1, 3, 3), {"groups": 64}, (9, 576), (9, 9)),
        ((128, 16, 3, 3), {"groups": 4}, (144, 1152), (144, 288)),
        ((8, 4, 3, 3), {"transposed": True}, (36, 72), (72, 36)),
        ((1536, 512), {"packed": 3}, (512, 1536), (512, 512)),
        ((1024, 64), {"packed": 4}, (64, 1024), (64, 256)),
    ],
)
def test_the_table_of_the_documentation_holds(shape, arguments, by_torch, fans) -> None:  # type: ignore[no-untyped-def]
    w = torch.empty(shape)
    assert init._calculate_fan_in_and_fan_out(w) == by_torch
    assert calculate_fan_in_and_fan_out(w, **arguments) == fans
    doc = calculate_fan_in_and_fan_out.__doc__
    assert doc is not None
    assert f"{by_torch[0]}, {by_torch[1]} |" in doc
    assert f": {fans[0]}, {fans[1]} |" in doc


def test_modes_are_the_fans_and_their_means() -> None:
    fans = Fans(8, 18)
    values = [fan_for_mode("f", fans, m) for m in ("fan_in", "FAN_OUT", "fan_avg", "fan_geo_avg")]
    assert values == [8, 18, 13, 12]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,)])
def test_fewer_than_two_dimensions_give_torchs_error(shape: tuple[int, ...]) -> None:
    w = torch.empty(shape)
    with pytest.raises(ValueError, match=r".") as theirs:
        init._calculate_fan_in_and_fan_out(w)
    with pytest.raises(ValueError, match=r".") as ours:
        calculate_fan_in_and_fan_out(w)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": 0}, ValueError, "expected groups >= 1, got groups=0"),
        ({"groups": 5}, ValueError, "expected groups to divide the dimension of size 6, got"),
        ({"groups": 2.0}, TypeError, r"expected groups to be an integer, got groups=2\.0"),
        ({"groups": True}, TypeError, "expected groups to be an integer, got groups=True"),
        ({"packed": -1}, ValueError, "expected packed >= 1, got packed=-1"),
        ({"packed": 4}, ValueError, "expected packed to divide the dimension of size 6, got"),
        ({"groups": 2, "packed": 2}, ValueError, "divide the dimension of size 3, got packed=2"),
        ({"packed": "3"}, TypeError, "expected packed to be an integer, got packed='3'"),
        ({"transposed": 1}, TypeError, "expected transposed to be a bool, got transposed=1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=f"initstats.calculate_fan_in_and_fan_out: .*{message}"):
        calculate_fan_in_and_fan_out(torch.empty(6, 4), **arguments)


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor, got list"):
        calculate_fan_in_and_fan_out([[1.0]])  # type: ignore[arg-type]


def test_numpy_integers_are_integers() -> None:
    assert calculate_fan_in_and_fan_out(torch.empty(6, 4), packed=np.int64(3)) == (4, 2)


@pytest.mark.parametrize("mode", ["fan", "", "fan_average"])
def test_modes_that_are_not_known_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"f: expected mode to be one of fan_in, fan_out, fan_avg"):
        fan_for_mode("f", Fans(1, 1), mode)
    with pytest.raises(TypeError, match="expected mode to be a string, got mode=3"):
        fan_for_mode("f", Fans(1, 1), 3)  # type: ignore[arg-type]
