"""Bad input to fills: one clear error each, before anything is written; what is fine though odd."""

from __future__ import annotations

import math

import pytest
import torch

import initstats
from initstats import _C

NAN, INF = math.nan, math.inf
F16, BF16, F64 = torch.float16, torch.bfloat16, torch.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: initstats.normal_(x, 0, -1),
            ValueError,
            r"normal_: expected std to be finite and >= 0, got std=-1",
        ),
        (
            lambda x: initstats.normal_(x, 0, NAN),
            ValueError,
            r"expected std to be finite and >= 0, got std=nan",
        ),
        (
            lambda x: initstats.normal_(x, 0, INF),
            ValueError,
            r"expected std to be finite and >= 0, got std=inf",
        ),
        (
            lambda x: initstats.normal_(x, NAN, 1),
            ValueError,
            r"expected mean to be finite, got mean=nan",
        ),
        (
            lambda x: initstats.normal_(x, "a"),
            TypeError,
            r"expected mean to be a number, got mean='a'",
        ),
        (
            lambda x: initstats.uniform_(x, 1, 0),
            ValueError,
            r"uniform_: expected a <= b, got a=1.0, b=0.0",
        ),
        (
            lambda x: initstats.uniform_(x, NAN, 0),
            ValueError,
            r"expected a to be finite in torch.float32, got a=nan",
        ),
        (
            lambda x: initstats.uniform_(x, 0, INF),
            ValueError,
            r"expected b to be finite in torch.float32, got b=inf",
        ),
        (lambda x: initstats.uniform_(x, -3e38, 3e38), ValueError, r"expected b - a to be finite"),
        (
            lambda x: initstats.uniform_(x.to(F16), 0, 1e5),
            ValueError,
            r"expected b to be finite in torch.float16",
        ),
        (
            lambda x: initstats.uniform_(x.to(BF16), 1.001, 1.002),
            ValueError,
            r"expected an interval \[a, b\) that holds a torch.bfloat16 value, got a=1.001",
        ),
        (
            lambda x: initstats.trunc_normal_(x, 0, 1, 2, -2),
            ValueError,
            r"trunc_normal_: expected a <= b, got a=2.0",
        ),
        (
            lambda x: initstats.trunc_normal_(x, 0, 1, NAN, 2),
            ValueError,
            r"expected a <= b, got a=nan, b=2.0",
        ),
        (
            lambda x: initstats.trunc_normal_(x, 0, 1, INF, INF),
            ValueError,
            r"that holds a torch.float32 value",
        ),
        (
            lambda x: initstats.trunc_normal_(x, 0, 1, -INF, -INF),
            ValueError,
            r"that holds a torch.float32 value",
        ),
        (
            lambda x: initstats.trunc_normal_(x, INF, 1),
            ValueError,
            r"expected mean to be finite, got mean=inf",
        ),
        (
            lambda x: initstats.trunc_normal_(x, 0, -1),
            ValueError,
            r"expected std to be finite and >= 0, got std=-1.0",
        ),
        (
            lambda x: initstats.trunc_normal_(x, 3, 0),
            ValueError,
            r"expected the mean in \[a, b\] with std=0, got mean=3.0, a=-2.0, b=2.0",
        ),
        (
            lambda x: initstats.trunc_normal_(x.to(F16), 0, 1, 1.0001, 1.0002),
            ValueError,
            r"expected an interval \[a, b\] that holds a torch.float16 value",
        ),
        (
            lambda x: initstats.normal_(x.int()),
            TypeError,
            r"expected dtype float16, .*, got dtype=torch.int32",
        ),
        (
            lambda x: initstats.normal_(x.to(torch.complex64)),
            TypeError,
            r"got dtype=torch.complex64",
        ),
        (
            lambda x: initstats.normal_(x.to(torch.float8_e5m2)),
            TypeError,
            r"got dtype=torch.float8_e5m2",
        ),
        (
            lambda x: initstats.normal_(x.to_sparse()),
            TypeError,
            r"expected a dense tensor, got layout=torch.sparse_coo",
        ),
        (lambda _: initstats.normal_([1.0]), TypeError, r"expected a torch.Tensor, got list"),
        (
            lambda x: initstats.normal_(x[:1].expand(3, 4)),
            RuntimeError,
            r"normal_: expected a tensor whose elements do not share memory",
        ),
        (
            lambda x: initstats.normal_(torch.as_strided(x.view(-1), (3, 3), (1, 1))),
            RuntimeError,
            r"expected a tensor whose elements do not share memory",
        ),
        (
            lambda x: initstats.normal_(x.clone().requires_grad_() * 2),
            ValueError,
            r"expected a tensor outside the autograd graph, got one with grad_fn=MulBackward0",
        ),
        (
            lambda x: initstats.foreach_normal_([x, x.clone().requires_grad_() * 2]),
            ValueError,
            r"expected a tensor outside the autograd graph, got one with grad_fn=MulBackward0",
        ),
        (
            lambda x: initstats.foreach_normal_([x, x]),
            ValueError,
            r"expected every tensor once, got one tensor twice",
        ),
        (
            lambda x: initstats.foreach_normal_([x, x.clone()], [0.0]),
            ValueError,
            r"foreach_normal_: expected one mean per tensor, 2, got 1",
        ),
        (
            lambda x: initstats.foreach_normal_([x, x.clone()], seed=1, names=["a"]),
            ValueError,
            r"expected one name per tensor, 2, got 1",
        ),
        (
            lambda x: initstats.foreach_uniform_([x, x.to(BF16)], 1.001, 1.002),
            ValueError,
            r"holds a torch.bfloat16 value",
        ),
        (
            lambda x: initstats.foreach_trunc_normal_([x, x.int()]),
            TypeError,
            r"got dtype=torch.int32",
        ),
        (
            lambda x: initstats.foreach_normal_([x, x[:1].expand(2, 4)]),
            RuntimeError,
            r"expected a tensor whose elements do not share memory",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    call, error, message, device: torch.device
) -> None:  # type: ignore[no-untyped-def]
    x = torch.zeros(3, 4, device=device)
    with pytest.raises(error, match=message):
        call(x)
    assert not x.any()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor is deprecated")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_tensors_are_refused() -> None:
    x = torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match="got a quantized tensor"):
        initstats.normal_(x)


def test_op_refuses_boxes_that_do_not_fit(device: torch.device) -> None:
    x = torch.zeros(3, 4, device=device)
    normal = torch.ops.initstats.normal_
    for box, message in (
        (
            [0, 0, 3],
            r"expected box to hold the offsets and full sizes of every tensor, 4 numbers, got 3",
        ),
        (
            [1, 0, 3, 4],
            r"expected a box inside its full sizes, got offset 1 and size 3 in a full size of 3",
        ),
        ([-1, 0, 3, 4], r"expected a box inside its full sizes, got offset -1"),
        ([0, 0, 2**62, 2**62], r"expected full sizes with less than 2\^63 elements"),
    ):
        with pytest.raises(RuntimeError, match=message):
            normal([x], [1], [0.0], [1.0], box)
    with pytest.raises(RuntimeError, match="expected one key per tensor, 1, got 2"):
        normal([x], [1, 2], [0.0], [1.0], [])
    with pytest.raises(
        RuntimeError, match="expected one mean for all tensors or one per tensor, 1, got 2"
    ):
        normal([x], [1], [0.0, 1.0], [1.0], [])
    assert not x.any()


def test_more_dimensions_than_the_kernels_take_are_refused(device: torch.device) -> None:
    x = torch.zeros((2,) * 9 + (3,), device=device)[
        ..., 0
    ]  # no two dimensions merge after the permutation
    with pytest.raises(RuntimeError, match=r"at most 8 dimensions that are not contiguous, got 9"):
        initstats.normal_(x.permute(8, 7, 6, 5, 4, 3, 2, 1, 0))
    assert not x.any()


@pytest.mark.backends("cuda")
def test_nothing_is_written_on_any_device_when_one_tensor_is_refused(device: torch.device) -> None:
    tensors = [torch.zeros(4), torch.zeros(4, device=device)]
    for bad in (torch.zeros(2, 1).expand(2, 2), torch.zeros(2, 1, device=device).expand(2, 2)):
        with pytest.raises(RuntimeError, match="do not share memory"):
            initstats.foreach_normal_([*tensors, bad])
    assert not any(tensor.any() for tensor in tensors)


def test_check_memory_refuses_what_the_ops_refuse() -> None:
    _C.check_memory("f", (3, 4), (4, 1), 48, 4, 0)
    _C.check_memory("f", (3, 4), (1, 3), 48, 4, 0)
    _C.check_memory("f", (), (), 4, 4, 0)
    for sizes, strides in (((3, 4), (0, 1)), ((3, 3), (1, 1)), ((2, 3), (2, 1))):
        with pytest.raises(RuntimeError, match=r"initstats.f: expected a tensor whose elements"):
            _C.check_memory("f", sizes, strides, 48, 4, 0)


def test_many_dimensions_that_merge_are_fine(device: torch.device) -> None:
    x = torch.zeros((2,) * 12, device=device)
    assert torch.equal(
        initstats.normal_(x, seed=1).view(-1).cpu(), initstats.normal_(torch.zeros(4096), seed=1)
    )


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1)])
def test_empty_and_scalar_tensors_are_fine(shape: tuple[int, ...], device: torch.device) -> None:
    x = torch.empty(shape, device=device)
    assert initstats.normal_(x) is x
    assert initstats.uniform_(x) is x
    assert initstats.trunc_normal_(x) is x
    initstats.foreach_normal_([])


def test_meta_tensors_are_fine() -> None:
    for x in (torch.empty(3, 4, device="meta"), torch.empty(1, device="meta").expand(5)):
        assert initstats.trunc_normal_(x) is x


def test_parameters_are_filled_outside_autograd(device: torch.device) -> None:
    w = torch.nn.Parameter(torch.zeros(5, device=device))
    assert initstats.normal_(w, seed=1) is w
    assert w.requires_grad
    assert w.grad_fn is None
    assert w.is_leaf


def test_autograd_notices_a_fill_of_a_saved_tensor(device: torch.device) -> None:
    w = torch.ones(3, device=device, requires_grad=True)
    loss = (w * w).sum()
    initstats.normal_(w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_overlapping_views_are_told_from_permuted_ones(device: torch.device) -> None:
    x = torch.zeros(6, 5, 4, device=device)
    for view in (x.permute(2, 0, 1), x[::2, 1:, ::3], x.transpose(0, 2)[1:]):
        initstats.normal_(view)
    assert bool(x.any())
