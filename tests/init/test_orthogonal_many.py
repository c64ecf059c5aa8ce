"""orthogonal_ on lists and batches, and delta_orthogonal_ in convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats

import initstats
from initstats import _ops
from orthogonality import defect, product_of_reflections, signed_key

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def test_a_list_gets_the_matrices_of_single_calls(device: torch.device) -> None:
    shapes = [(5, 5), (7, 3), (3, 7), (4, 2, 3), (140, 20), (128, 128), (1, 1)]
    tensors = [torch.empty(s, dtype=DTYPES[i % 4], device=device) for i, s in enumerate(shapes)]
    names = [f"layer{i}" for i in range(len(shapes))]
    result = initstats.orthogonal_(tensors, 2.0, seed=3, name=names)
    assert all(a is b for a, b in zip(result, tensors, strict=True))
    for tensor, name in zip(tensors, names, strict=True):
        alone = initstats.orthogonal_(torch.empty_like(tensor), 2.0, seed=3, name=name)
        assert torch.equal(tensor, alone)


def test_a_list_without_names_is_keyed_by_position() -> None:
    first, _, third = initstats.orthogonal_([torch.empty(6, 6) for _ in range(3)], seed=3)
    assert torch.equal(first, initstats.orthogonal_(torch.empty(6, 6), seed=3))
    assert torch.equal(third, initstats.orthogonal_(torch.empty(6, 6), seed=3, name="#2"))


def test_a_list_takes_one_draw_of_the_generator_per_tensor() -> None:
    together = initstats.orthogonal_(
        [torch.empty(4, 4), torch.empty(3, 2, device="meta"), torch.empty(0, 4), torch.empty(5, 5)],
        generator=torch.Generator().manual_seed(1),
    )
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(together[0], initstats.orthogonal_(torch.empty(4, 4), generator=generator))
    assert torch.equal(together[3], initstats.orthogonal_(torch.empty(5, 5), generator=generator))


def test_an_empty_list_is_fine() -> None:
    assert initstats.orthogonal_([]) == []
    assert initstats.orthogonal_(iter(())) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "batch_dims"),
    [((6, 8, 8), 1), ((2, 3, 5, 9), 2), ((3, 4, 2, 3), 1), ((2, 140, 30), 1), ((3, 1, 1), 1)],
)
def test_each_matrix_of_a_batch_is_orthonormal_and_its_own(
    shape: tuple[int, ...], batch_dims: int, dtype: torch.dtype, device: torch.device
) -> None:
    w = initstats.orthogonal_(
        torch.empty(shape, dtype=dtype, device=device), batch_dims=batch_dims, seed=4
    ).cpu()
    matrices = w.reshape(-1, *shape[batch_dims:])
    bound = {torch.float32: 1.5e-6, torch.float64: 5e-15}.get(dtype, 2 * torch.finfo(dtype).eps)
    for i, matrix in enumerate(matrices):
        assert defect(matrix) <= bound
        if matrix.numel() > 1:
            assert all(not torch.equal(matrix, other) for other in matrices[:i])
    alone = initstats.orthogonal_(torch.empty(shape[batch_dims:], dtype=dtype), seed=4)
    if device.type == "cuda" and max(shape[batch_dims:]) > 128:  # the GPU's own matrix products
        torch.testing.assert_close(matrices[0], alone, rtol=0, atol=bound)
    else:
        assert torch.equal(matrices[0], alone)


@pytest.mark.parametrize(("m", "n"), [(20, 13), (140, 30)])
def test_a_matrix_of_a_batch_takes_its_own_rows_of_the_stream(
    m: int, n: int, device: torch.device
) -> None:
    tall = torch.empty(3, m, n, dtype=torch.float64, device=device)
    wide = torch.empty(3, n, m, dtype=torch.float64, device=device)
    initstats.orthogonal_(tall, batch_dims=1, seed=9)
    initstats.orthogonal_(wide, batch_dims=1, seed=9)
    for number in range(3):
        expected = product_of_reflections(signed_key(9), m, n, torch.float64, number)
        assert float((tall[number].cpu() - expected).abs().max()) < 5e-15
        assert float((wide[number].cpu().t() - expected).abs().max()) < 5e-15


def test_matrices_of_a_batch_are_independent() -> None:
    # For independent Haar matrices, tr(Q_0^t Q_1) has variance 1; 4.9 standard errors as elsewhere.
    w = torch.empty(4000, 2, 4, 4, dtype=torch.float64)
    for i, pair in enumerate(w):
        initstats.orthogonal_(pair, batch_dims=1, seed=i)
    product = (w[:, 0] * w[:, 1]).sum((1, 2))
    for values, expected in ((product, 0.0), (product**2, 1.0)):
        assert abs(float(values.mean()) - expected) < 4.9 * float(values.std()) / math.sqrt(4000)


def test_signs_of_one_by_one_matrices_are_fair() -> None:
    w = initstats.orthogonal_(torch.empty(10_000, 1, 1), batch_dims=1, seed=5)
    assert torch.allclose(w.abs(), torch.ones(()), atol=5e-7)
    assert abs(float((w > 0).double().mean()) - 0.5) < 4.9 * 0.5 / 100


def test_the_gates_of_an_lstm_are_four_orthogonal_matrices() -> None:
    lstm = torch.nn.LSTM(3, 10)
    gates = lstm.weight_hh_l0.detach().unflatten(0, (4, -1))
    initstats.orthogonal_(gates, batch_dims=1, seed=6)
    for gate in lstm.weight_hh_l0.detach().chunk(4):
        assert defect(gate) <= 1.5e-6


@pytest.mark.parametrize("n", [9, 150])
def test_strides_of_a_batch_change_nothing(n: int) -> None:
    expected = initstats.orthogonal_(torch.empty(2, 2, n, n).double(), batch_dims=2, seed=7)
    strided = torch.zeros(n, 2, n, 4, dtype=torch.float64).permute(3, 1, 2, 0)[::2]
    initstats.orthogonal_(strided, batch_dims=2, seed=7)
    assert torch.allclose(strided, expected, atol=1e-14)


def test_halves_of_a_batch_are_the_rounded_float32_matrices() -> None:
    exact = initstats.orthogonal_(torch.empty(3, 20, 10), 1.7, batch_dims=1, seed=4)
    for dtype in (torch.float16, torch.bfloat16):
        half = torch.empty(3, 20, 10, dtype=dtype)
        initstats.orthogonal_(half, 1.7, batch_dims=1, seed=4)
        assert torch.equal(half, exact.to(dtype))


def zeros() -> list[torch.Tensor]:
    return [torch.zeros(3, 3), torch.zeros(2, 3, 3)]


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (lambda t: [*t, t[0]], {}, ValueError, "expected every tensor once, got one tensor twice"),
        (lambda t: [*t, 3], {}, TypeError, "expected a torch.Tensor, got int"),
        (lambda _: 3, {}, TypeError, "expected a torch.Tensor, got int"),
        (lambda t: [*t, torch.zeros(3)], {}, ValueError, "Only tensors with 2 or more dimensions"),
        (lambda t: [*t, torch.zeros(3, 1).expand(3, 3)], {}, RuntimeError, "do not share memory"),
        (lambda t: t, {"name": ["a"], "seed": 1}, ValueError, "expected one name per tensor, 2"),
        (lambda t: t, {"name": "a", "seed": 1}, ValueError, "expected one name per tensor, 2"),
        (lambda t: t, {"name": ["a", "b"]}, ValueError, "expected a seed with name"),
        (lambda t: t, {"gain": math.nan}, ValueError, "expected gain to be finite"),
        (lambda t: t, {"batch_dims": -1}, ValueError, "expected batch_dims >= 0, got batch_dims"),
        (lambda t: t, {"batch_dims": 1.0}, TypeError, "expected batch_dims to be an integer"),
        (lambda t: t, {"batch_dims": True}, TypeError, "expected batch_dims to be an integer"),
        (lambda t: t, {"batch_dims": 1}, ValueError, "or more dimensions after batch_dims=1 are"),
    ],
)
def test_bad_lists_are_refused_before_anything_is_written(
    change: Callable[[list[torch.Tensor]], object],
    arguments: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    tensors = zeros()
    with pytest.raises(error, match=f"initstats.orthogonal_: .*{message}"):
        initstats.orthogonal_(change(tensors), **arguments)  # type: ignore[call-overload]
    assert not any(tensor.any() for tensor in tensors)


# ---- delta_orthogonal_


@pytest.mark.parametrize("kernel", [(3,), (4,), (3, 5), (1, 1), (3, 3, 3)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_centre_of_a_delta_orthogonal_kernel_is_not_zero(
    kernel: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    w = torch.full((8, 6, *kernel), 7.0, dtype=dtype, device=device)
    assert initstats.delta_orthogonal_(w, 2.0, seed=1) is w
    centre = (slice(None), slice(None), *((k - 1) // 2 for k in kernel))
    expected = initstats.orthogonal_(torch.empty(8, 6, dtype=dtype), 2.0, seed=1)
    assert torch.equal(w[centre].cpu(), expected)
    w[centre] = 0
    assert not w.any()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_delta_orthogonal_convolution_keeps_the_norm(dims: int) -> None:
    convolution = [torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d][dims - 1](
        5, 9, 3, padding="same", padding_mode="circular", bias=False, dtype=torch.float64
    )
    initstats.delta_orthogonal_(convolution.weight, seed=2)
    x = torch.randn(2, 5, *(6,) * dims, dtype=torch.float64)
    assert float(convolution(x).detach().norm()) == pytest.approx(float(x.norm()), rel=1e-12)


def test_each_group_of_a_convolution_gets_its_own_matrix() -> None:
    convolution = torch.nn.Conv2d(6, 12, 3, groups=3, padding="same", bias=False)
    w = initstats.delta_orthogonal_(convolution.weight, groups=3, seed=3).detach()
    matrices = w[:, :, 1, 1].unflatten(0, (3, 4))
    assert torch.equal(matrices, initstats.orthogonal_(torch.empty(3, 4, 2), batch_dims=1, seed=3))


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "message"),
    [
        ((4, 4), {}, ValueError, "expected a weight with 3, 4 or 5 dimensions"),
        ((4, 4, 1, 1, 1, 1), {}, ValueError, "expected a weight with 3, 4 or 5 dimensions"),
        ((4, 5, 3), {}, ValueError, "expected at most as many channels in as out, got in=5, out=4"),
        ((4, 4, 3), {"groups": 2}, ValueError, ".*got in=4, out=2"),
        ((4, 2, 3), {"groups": 3}, ValueError, "expected groups >= 1 that divides out_channels=4"),
        ((4, 2, 3), {"groups": 0}, ValueError, "expected groups >= 1"),
        ((4, 2, 3), {"groups": 1.0}, TypeError, "expected groups to be an integer"),
        ((4, 2, 3), {"gain": math.inf}, ValueError, "expected gain to be finite"),
        ((4, 2, 3), {"gain": "x"}, TypeError, "expected gain to be a number"),
        ((4, 2, 3), {"name": "x"}, ValueError, "expected a seed with name"),
    ],
)
def test_bad_convolutions_are_refused(
    shape: tuple[int, ...], arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    w = torch.full(shape, 7.0)
    with pytest.raises(error, match=f"initstats.delta_orthogonal_: {message}"):
        initstats.delta_orthogonal_(w, **arguments)  # type: ignore[arg-type]
    assert bool((w == 7).all())


def test_shared_memory_is_refused_before_the_zeros() -> None:
    w = torch.full((4, 2, 1), 7.0)
    with pytest.raises(RuntimeError, match="do not share memory"):
        initstats.delta_orthogonal_(w.expand(4, 2, 3))
    assert bool((w == 7).all())


def test_empty_and_meta_convolutions_are_fine() -> None:
    empty = torch.empty(4, 0, 3)
    assert initstats.delta_orthogonal_(empty) is empty
    meta = torch.empty(4, 3, 3, device="meta")
    assert initstats.delta_orthogonal_(meta) is meta


def test_first_columns_of_a_batch_are_uniform_on_the_sphere() -> None:
    # Archimedes, as in test_orthogonal.py; here through the batch's own rows of the stream.
    w = initstats.orthogonal_(torch.empty(4000, 3, 3).double(), batch_dims=1, seed=11)
    for i in range(3):
        distance = stats.kstest(w[:, i, 0].numpy(), stats.uniform(-1, 2).cdf).statistic
        assert distance < 2.7 / math.sqrt(4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (40, 33), (7, 128)])
def test_a_part_of_a_batch_begins_at_any_matrix(
    rows: int, columns: int, dtype: torch.dtype, device: torch.device
) -> None:
    whole = torch.empty(6, rows, columns, dtype=dtype, device=device)
    first, last = whole[:2].clone(), whole[2:].clone()
    _ops.small_orthogonal_([whole], [7], [1.5])
    _ops.small_orthogonal_([last, first], [7, 7], [1.5], [2, 0])
    assert torch.equal(torch.cat([first, last]), whole)


@pytest.mark.parametrize("first", [[-1], [2**32 - 1], [0, 0]])
def test_numbers_of_first_matrices_are_checked(first: list[int], device: torch.device) -> None:
    x = torch.zeros(1, 4, 4, device=device)
    with pytest.raises(RuntimeError, match=r"small_orthogonal_: expected (the|no) number"):
        _ops.small_orthogonal_([x], [7], [1.0], first)
    assert not x.any()
