"""Gains: torch's values for torch's names, E[f(z)^2]^-1/2 against mpmath and closed forms."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import get_args

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from scipy.special import ndtr
from torch.nn import functional, init

from initstats.init.gains import _FUNCTIONS, calculate_gain

TORCH_NAMES = list(get_args(init._NonlinearityType))


def erf_gelu(z: mpf) -> mpf:
    return z * mp.ncdf(z)


def tanh_gelu(z: mpf) -> mpf:
    return z / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (z + mpf("0.044715") * z**3)))


def sigmoid(z: mpf) -> mpf:
    return 1 / (1 + mp.exp(-z))


def softplus(z: mpf) -> mpf:
    return mp.log(1 + mp.exp(z))


def elu(z: mpf) -> mpf:
    return z if z > 0 else mp.exp(z) - 1


def clip(z: mpf, low: int, high: int) -> mpf:
    return min(max(z, mpf(low)), mpf(high))


# Written from the definitions in the papers, not from torch: the oracle.
ORACLES: dict[str, Callable[[mpf], mpf]] = {
    "celu": elu,
    "elu": elu,
    "gelu": erf_gelu,
    "gelu_tanh": tanh_gelu,
    "hardsigmoid": lambda z: clip(z + 3, 0, 6) / 6,
    "hardswish": lambda z: z * clip(z + 3, 0, 6) / 6,
    "hardtanh": lambda z: clip(z, -1, 1),
    "logsigmoid": lambda z: -softplus(-z),
    "mish": lambda z: z * mp.tanh(softplus(z)),
    "quick_gelu": lambda z: z * sigmoid(mpf("1.702") * z),
    "relu6": lambda z: clip(z, 0, 6),
    "relu_squared": lambda z: max(z, mpf(0)) ** 2,
    "silu": lambda z: z * sigmoid(z),
    "sin": mp.sin,
    "softplus": softplus,
    "softsign": lambda z: z / (1 + abs(z)),
    "swish": lambda z: z * sigmoid(z),
    "tanhshrink": lambda z: z - mp.tanh(z),
}
KINKS = [-12, -6, -3, -1, 0, 1, 3, 6, 12]


def exact_gain(f: Callable[[mpf], mpf]) -> float:
    """E[f(z)^2]^-1/2 with 20 digits; beyond 12 the density leaves less than 1e-29."""
    with mpmath.workdps(20):
        moment = mpmath.quad(lambda z: f(z) ** 2 * mpmath.npdf(z), KINKS)
        return float(1 / mpmath.sqrt(moment))


def test_torchs_names_have_torchs_values_and_types() -> None:
    for name in TORCH_NAMES:
        for param in (None, 0, 0.2, 1, -3):
            ours, theirs = calculate_gain(name, param), init.calculate_gain(name, param)
            assert ours == theirs, (name, param)
            assert type(ours) is type(theirs)


def test_signature_begins_with_torchs() -> None:
    ours, theirs = (inspect.signature(f).parameters for f in (calculate_gain, init.calculate_gain))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("abc",),
        ("ReLU",),
        ("",),
        (None,),
        (3,),
        (("relu",),),
        ("leaky_relu", True),
        ("leaky_relu", "0.1"),
        ("leaky_relu", [0.1]),
    ],
    ids=str,
)
def test_what_torch_refuses_gets_torchs_error(arguments) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r".") as theirs:
        init.calculate_gain(*arguments)
    with pytest.raises(ValueError, match=r".") as ours:
        calculate_gain(*arguments)
    assert str(ours.value) == str(theirs.value)


def test_every_name_has_an_oracle_and_none_is_torchs() -> None:
    assert set(ORACLES) == set(_FUNCTIONS)
    assert set(_FUNCTIONS) & set(TORCH_NAMES) == set()
    assert all(f'"{name}"' in (calculate_gain.__doc__ or "") for name in _FUNCTIONS)


@pytest.mark.parametrize("name", ORACLES)
def test_gain_of_a_name_is_that_of_its_definition(name: str) -> None:
    assert calculate_gain(name) == pytest.approx(exact_gain(ORACLES[name]), rel=1e-12)
    assert calculate_gain(name, 0) == calculate_gain(name)  # what kaiming_normal_ passes as a


@pytest.mark.parametrize(
    ("function", "gain"),
    [
        (torch.relu, math.sqrt(2)),
        (lambda z: z, 1.0),
        (lambda z: functional.leaky_relu(z, 0.3), math.sqrt(2 / 1.09)),
        (torch.exp, math.exp(-1)),
        (torch.sin, (0.5 - 0.5 * math.exp(-2)) ** -0.5),
        (lambda z: z**3, 15**-0.5),
        (lambda z: z**6, 10395**-0.5),
        (torch.ones_like, 1.0),
        (torch.sign, 1.0),
        # Jumps and kinks that are no edge of a panel.
        (lambda z: (z > 0.3).double(), float(ndtr(-0.3)) ** -0.5),
        (lambda z: (z.abs() < 1 / 3).double(), (1 - 2 * float(ndtr(-1 / 3))) ** -0.5),
        (torch.nn.ReLU(inplace=True), math.sqrt(2)),
    ],
)
def test_gain_of_a_function_is_its_closed_form(function, gain: float) -> None:  # type: ignore[no-untyped-def]
    assert calculate_gain(function) == pytest.approx(gain, rel=1e-12)


def test_the_table_of_the_documentation_holds() -> None:
    assert calculate_gain(torch.tanh) == pytest.approx(1.5925, abs=5e-5)
    assert calculate_gain(torch.sigmoid) == pytest.approx(1.8462, abs=5e-5)
    assert calculate_gain(functional.selu) == pytest.approx(1.0, abs=5e-5)  # Klambauer et al. 2017


def test_gain_keeps_the_second_moment_of_a_sample() -> None:
    # False alarms about 1e-6: 4.9 standard errors of the mean of (gain f)^2.
    z = torch.randn(1 << 20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for name in _FUNCTIONS:
        square = (calculate_gain(name) * _FUNCTIONS[name](z)) ** 2
        assert abs(float(square.mean()) - 1) < 4.9 * float(square.std()) / 1024, name


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-4)])
def test_functions_in_low_precision_are_fine(dtype: torch.dtype, rel: float) -> None:
    # The rounding of f, 2**-24 or 2**-9, averages out over the nodes.
    gain = calculate_gain(lambda z: functional.gelu(z).to(dtype))
    assert gain == pytest.approx(exact_gain(erf_gelu), rel=rel)


def test_functions_with_parameters_are_called_without_autograd() -> None:
    slope = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def leaky(z: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return torch.where(z > 0, z, z * slope)

    assert calculate_gain(leaky) == pytest.approx(math.sqrt(2 / 1.09), rel=1e-12)
    assert torch.is_grad_enabled()


def test_gain_does_not_depend_on_the_default_device() -> None:
    with torch.device("meta"):
        assert calculate_gain(torch.relu) == pytest.approx(math.sqrt(2), rel=1e-12)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (torch.zeros_like, ValueError, r"expected E\[f\(z\)\^2\] to be finite and > 0 .* got 0.0"),
        (lambda z: z * math.nan, ValueError, r"to be finite and > 0 .* got nan for"),
        (lambda z: torch.exp(z * z), ValueError, r"to be finite and > 0 .* got inf for"),
        (lambda z: torch.exp(z * z / 4), ValueError, r"to be finite and > 0 .* got inf for"),
        (lambda z: 1 / z, ValueError, r"expected E\[f\(z\)\^2\] to converge, got an error of"),
        (torch.rand_like, ValueError, r"to converge, .* always to the same value"),
        (lambda z: z[:3], ValueError, r"expected f to keep the shape \[2048\], got \[3\]"),
        (lambda z: z.sum(), ValueError, r"expected f to keep the shape \[2048\], got \[\]"),
        (lambda _: 1.0, TypeError, "expected f to return a floating tensor, got float"),
        (lambda z: z.int(), TypeError, r"return a floating tensor, got torch\.int32"),
    ],
)
def test_functions_without_a_gain_are_refused(function, error, message) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    with pytest.raises(error, match=f"initstats.calculate_gain: .*{message}"):
        calculate_gain(function)
