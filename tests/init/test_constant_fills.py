"""Fills without randomness against torch.nn.init: every value, error, shape, dtype and stride."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional, init

from initstats.init import constant_fills

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.complex64]
NAMES = ["constant_", "ones_", "zeros_", "eye_", "dirac_"]


def outcome(function: Callable[..., torch.Tensor], shape: tuple[int, ...], *arguments: object):  # type: ignore[no-untyped-def]
    """The values that a fill writes, or the type and text of its error."""
    x = torch.full(shape, 7.0)
    try:
        assert function(x, *arguments) is x
    except Exception as error:  # noqa: BLE001  # whatever torch raises is the expectation
        # A kernel without elements fails inside torch, with words of its own.
        return type(error), "" if isinstance(error, IndexError) else str(error)
    return x.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(m, name)) for m in (constant_fills, init))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("name", ["eye_", "ones_", "zeros_"])
def test_every_shape_gives_torchs_values_or_errors(name: str) -> None:
    for dims in range(4):
        for shape in itertools.product((0, 1, 2, 5), repeat=dims):
            ours, theirs = (outcome(getattr(m, name), shape) for m in (constant_fills, init))
            assert ours == theirs, shape


def test_dirac_gives_torchs_values_or_errors_for_every_shape_and_group() -> None:
    kernels = [(), (0,), (1,), (4,), (5,), (3, 0), (3, 2), (1, 4), (3, 2, 5), (1, 1, 1, 1)]
    for out, channels in itertools.product((0, 1, 2, 4, 6, 7), (0, 1, 3, 8)):
        for kernel, groups in itertools.product(kernels, (1, 2, 3, 6)):
            shape = (out, channels, *kernel)
            ours, theirs = (outcome(m.dirac_, shape, groups) for m in (constant_fills, init))
            assert ours == theirs, (shape, groups)
    for shape in ((), (3,), (2, 3, 1, 1, 1, 1)):
        assert outcome(constant_fills.dirac_, shape) == outcome(init.dirac_, shape)
    assert outcome(constant_fills.dirac_, (2, 2, 1), 0) == outcome(init.dirac_, (2, 2, 1), 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_are_torchs_in_every_dtype_and_with_strides(
    dtype: torch.dtype, device: torch.device
) -> None:
    x = torch.full((6, 10), 7, dtype=dtype, device=device)
    for name, arguments in (("constant_", (3,)), ("ones_", ()), ("zeros_", ()), ("eye_", ())):
        for view in (lambda t: t, lambda t: t.t(), lambda t: t[::2, 1::3]):
            ours, theirs = x.clone(), x.clone()
            getattr(constant_fills, name)(view(ours), *arguments)
            getattr(init, name)(view(theirs), *arguments)
            assert torch.equal(ours, theirs), name
    x = torch.full((4, 6, 5, 3), 7, dtype=dtype, device=device)
    for view in (lambda t: t, lambda t: t.permute(1, 0, 3, 2), lambda t: t[::2, 1::2, 1:]):
        ours, theirs = x.clone(), x.clone()
        constant_fills.dirac_(view(ours), 2)
        init.dirac_(view(theirs), 2)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_meta_tensors_are_fine(name: str) -> None:
    shape = (4, 4, 3) if name == "dirac_" else (4, 4)
    arguments = (0.5,) if name == "constant_" else ()
    w = nn.Parameter(torch.full(shape, 7.0))
    assert getattr(constant_fills, name)(w, *arguments) is w
    assert w.requires_grad
    assert w.is_leaf
    assert not (w == 7).any()
    x = torch.empty(shape, device="meta")
    assert getattr(constant_fills, name)(x, *arguments) is x


@pytest.mark.parametrize("name", NAMES)
def test_autograd_notices_the_fill_of_a_saved_tensor(name: str) -> None:
    w = torch.ones((2, 2, 1) if name == "dirac_" else (2, 2), requires_grad=True)
    loss = (w * w).sum()
    getattr(constant_fills, name)(w, *((0.5,) if name == "constant_" else ()))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(3,), (3, 5), (1, 3, 3)])
def test_dirac_passes_the_channels_of_its_group_on(groups: int, kernel: tuple[int, ...]) -> None:
    w = constant_fills.dirac_(torch.empty(8, 8 // groups, *kernel), groups)
    x = torch.randn(2, 8, *(6,) * len(kernel), generator=torch.Generator().manual_seed(1))
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    assert torch.equal(convolve(x, w, padding=tuple(k // 2 for k in kernel), groups=groups), x)


def test_dirac_refuses_negative_groups() -> None:
    with pytest.raises(ValueError, match=r"dirac_: expected groups >= 1, got groups=-2"):
        constant_fills.dirac_(torch.empty(4, 2, 3), -2)


def test_identity_is_gain_times_eye_or_dirac(device: torch.device) -> None:
    for shape in ((3, 3), (3, 5), (5, 3), (0, 2), (1, 1)):
        x = torch.full(shape, 7.0, device=device)
        assert constant_fills.identity_(x, 0.01) is x
        assert torch.equal(x, 0.01 * init.eye_(torch.empty_like(x)))
    for shape, groups in (((4, 4, 3), 1), ((6, 2, 3, 3), 3), ((4, 5, 1, 2, 3), 2)):
        x = torch.full(shape, 7.0, device=device)
        constant_fills.identity_(x, -2.0, groups=groups)
        assert torch.equal(x, -2.0 * init.dirac_(torch.empty_like(x), groups))
    x = torch.empty(3, 3, device="meta")
    assert constant_fills.identity_(x) is x


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "message"),
    [
        ((3,), {}, ValueError, r"expected 2 to 5 dimensions, got shape=\[3\]"),
        ((1,) * 6, {}, ValueError, "expected 2 to 5 dimensions, got shape="),
        ((3, 3), {"gain": "a"}, TypeError, "expected gain to be a number, got gain='a'"),
        ((4, 4), {"groups": 2}, ValueError, "expected groups=1 with a matrix, got groups=2"),
        ((4, 2, 1), {"groups": 3}, ValueError, "divide the first dimension, 4, got groups=3"),
        ((4, 2, 1), {"groups": 0}, ValueError, "divide the first dimension, 4, got groups=0"),
    ],
)
def test_identity_refuses_bad_input(shape, arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    x = torch.zeros(shape)
    with pytest.raises(error, match=f"initstats.identity_: .*{message}"):
        constant_fills.identity_(x, **arguments)
    assert not x.any()


@pytest.mark.parametrize(
    "fill",
    [
        constant_fills.eye_,
        lambda x: constant_fills.dirac_(x[:, :, None]),
        constant_fills.identity_,
    ],
)
def test_a_diagonal_is_not_written_where_elements_share_memory(
    fill: Callable[[torch.Tensor], object],
) -> None:
    memory = torch.full((1, 4), 7.0)
    with pytest.raises(RuntimeError, match=r"expected a tensor whose elements do not share memory"):
        fill(memory.expand(4, 4))
    assert bool((memory == 7).all())
