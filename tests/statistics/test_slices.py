"""Statistics of slices: `stats(x, dim=...)` against NumPy in float64, and its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

import initstats
from capabilities import output_with_capability
from initstats import SliceStats, _ops

HERE = Path(__file__).parent
SHAPES = {
    "units": ((300, 70), 0),
    "rows": ((70, 300), 1),
    "channels": ((4, 19, 6, 5), (0, 2, 3)),
    "heads": ((3, 5, 40, 7), (2,)),
    "everything": ((9, 50), (0, 1)),
    "negative": ((6, 130), -1),
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.bool]


def sample(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 3 + 1
    if dtype == torch.bool:
        return (x > 1).to(device)
    return x.to(dtype).to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SHAPES)
def test_fields_are_those_of_numpy_in_float64(
    case: str, dtype: torch.dtype, device: torch.device
) -> None:
    shape, dim = SHAPES[case]
    x = sample(shape, dtype, device)
    s = initstats.stats(x, dim=dim)
    reference = x.cpu().double().numpy()
    kept = np.moveaxis(reference, dim, range(-len(dim), 0) if isinstance(dim, tuple) else -1)
    flat = kept.reshape(*s.shape, -1)
    # float32 sums of 64 elements about their mean: 64 roundings of 2^-24 at most, relative to std.
    atol = 1e-12 if dtype == torch.float64 else 64 * 2.0**-24 * reference.std()
    expected = {
        "mean": flat.mean(-1),
        "std": flat.std(-1, ddof=1),
        "rms": np.sqrt((flat**2).mean(-1)),
        "skewness": scipy.stats.skew(flat, -1),
        "kurtosis": scipy.stats.kurtosis(flat, -1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(s, name).cpu(), value, rtol=1e-5, atol=10 * atol)
    np.testing.assert_allclose(s.l1.cpu(), np.abs(flat).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(s.l2.cpu(), np.sqrt((flat**2).sum(-1)), rtol=1e-5)
    np.testing.assert_array_equal(s.min.cpu(), flat.min(-1))
    np.testing.assert_array_equal(s.max.cpu(), flat.max(-1))
    np.testing.assert_array_equal(s.abs_max.cpu(), np.abs(flat).max(-1))
    np.testing.assert_array_equal(s.zero.cpu(), (flat == 0).sum(-1))
    assert s.count.unique().tolist() == [flat.shape[-1]]


def test_each_slice_has_the_kinds_of_its_elements(device: torch.device) -> None:
    x = torch.ones(100, 4, device=device)
    x[3:10, 1], x[0, 1], x[1:3, 1] = torch.nan, torch.inf, -torch.inf
    x[:40, 2] = 0
    x[:, 3] = torch.nan
    s = initstats.stats(x, dim=0)
    assert s.nan.tolist() == [0, 7, 0, 100]
    assert (s.pos_inf.tolist(), s.neg_inf.tolist()) == ([0, 1, 0, 0], [0, 2, 0, 0])
    assert s.zero.tolist() == [0, 0, 40, 0]
    assert s.finite.tolist() == [100, 90, 100, 0]
    assert s.mean.tolist()[:3] == [1, 1, 0.6]
    assert s.mean[3].isnan()
    assert s.min_abs.tolist()[:3] == [1, 1, 1]
    assert (s.std[3].isnan(), s.l2[3].item()) == (True, 0)


@pytest.mark.parametrize("scale", [1e37, 1e-41, 1e-20, 3e4])
def test_no_size_of_values_overflows_or_vanishes(scale: float, device: torch.device) -> None:
    x = (torch.randn(500, 20, generator=torch.Generator().manual_seed(2)) * scale).to(device)
    s = initstats.stats(x, dim=0)
    reference = x.cpu().double()
    np.testing.assert_allclose(s.std.cpu(), reference.std(0), rtol=1e-6)
    kurtosis = scipy.stats.kurtosis((reference / scale).numpy(), 0)
    np.testing.assert_allclose(s.kurtosis.cpu(), kurtosis, atol=1e-5)


def test_norms_of_slices_are_those_of_each_slice_in_float64(device: torch.device) -> None:
    x = torch.randn(4, 700, generator=torch.Generator().manual_seed(2)).to(device)
    s = initstats.stats(x, dim=1)
    each = [s[i].l2 for i in range(4)]
    # Two implementations of hypot, each within a unit in the last place, and one more rounding.
    np.testing.assert_allclose(s.l2.cpu(), each, rtol=3 * 2.0**-52)
    np.testing.assert_allclose(s.l2.cpu(), s.rms.cpu() * np.sqrt(700), rtol=2.0**-52)


def test_a_large_mean_costs_no_digits(device: torch.device) -> None:
    x = torch.randn(4096, 8, generator=torch.Generator().manual_seed(2)) + 1e4
    s = initstats.stats(x.to(device), dim=0)
    np.testing.assert_allclose(s.std.cpu(), x.double().std(0), rtol=1e-6)


def test_bits_depend_on_the_elements_alone(device: torch.device) -> None:
    x = sample((600, 50), torch.float32, device)
    s = initstats.stats(x, dim=0)
    strided = torch.empty(50, 1200, device=device)[:, ::2]
    strided.copy_(x.t())
    for same in (initstats.stats(x.t().contiguous(), dim=1), initstats.stats(strided, dim=1)):
        assert torch.equal(s.moment_rows, same.moment_rows)
        assert torch.equal(s.count_rows, same.count_rows)
    some = initstats.stats(x[:, 7:9], dim=0)
    assert torch.equal(s.moment_rows[7:9], some.moment_rows)


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("shape", [(4000, 300), (70000, 5), (5, 70000)])
def test_bits_do_not_depend_on_thread_count(
    shape: tuple[int, int], set_thread_count: Callable[[int], None]
) -> None:
    x = sample(shape, torch.float32, torch.device("cpu"))
    results = []
    for threads in (1, 2):
        set_thread_count(threads)
        results.append(initstats.stats(x, dim=0))
    assert torch.equal(results[0].moment_rows, results[1].moment_rows)


def print_sums() -> None:
    x = sample((700, 45), torch.float32, torch.device("cpu"))
    x[5, 3] = torch.inf
    for s in (initstats.stats(x, dim=0), initstats.stats(x.double(), dim=1)):
        print(s.moment_rows.view(torch.int64).sum().item(), s.count_rows.sum().item())


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_bits_do_not_depend_on_cpu_capability(capability: str) -> None:
    code = "import test_slices; test_slices.print_sums()"
    expected = output_with_capability(code, "baseline", HERE)
    assert output_with_capability(code, capability, HERE) == expected


def test_one_slice_is_a_record_and_indices_count_from_either_end(device: torch.device) -> None:
    x = sample((3, 200, 4), torch.float32, device)
    s = initstats.stats(x, dim=1)
    assert (s.shape, len(s)) == ((3, 4), 3)
    assert s[1, 2].mean == s.mean[1, 2].item()
    assert s[-2, -2].std == s.std[1, 2].item()
    assert s[1, 2].kurtosis == pytest.approx(s.kurtosis[1, 2].item(), rel=1e-15)
    with pytest.raises(IndexError, match=r"expected one index per kept dimension, 2, got 1"):
        s[1]
    with pytest.raises(IndexError, match=r"expected an index inside \(3, 4\), got \(3, 0\)"):
        s[3, 0]
    with pytest.raises(TypeError, match=r"expected a kept dimension for len\(\), got none"):
        len(initstats.stats(x, dim=(0, 1, 2)))
    assert repr(s).startswith("SliceStats(shape=(3, 4)")


def test_merge_gives_the_bits_of_merging_slice_by_slice(device: torch.device) -> None:
    x = sample((500, 6), torch.float32, device)
    x[:300, 2] = torch.nan
    x[300:, 3] = torch.nan
    a, b = initstats.stats(x[:300], dim=0), initstats.stats(x[300:], dim=0)
    merged = a.merge(b)
    for i in range(6):
        one = a[i].merge(b[i]).to_dict()
        assert str(merged[i].to_dict()) == str(one)
    np.testing.assert_allclose(merged.std.cpu(), np.nanstd(x.cpu().double(), 0, ddof=1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected slices of shape \(6,\), got \(2,\)"):
        a.merge(initstats.stats(x[:, :2], dim=0))


def test_nothing_to_reduce_and_nothing_to_keep(device: torch.device) -> None:
    none = initstats.stats(torch.empty(0, 3, device=device), dim=0)
    assert (none.count.tolist(), none.mean.isnan().all().item()) == ([0, 0, 0], True)
    empty = initstats.stats(torch.empty(5, 0, device=device), dim=0)
    assert empty.mean.shape == (0,)


@pytest.mark.parametrize("far", ["slices", "elements"])
def test_places_past_32_bits_are_reached(far: str) -> None:
    memory = torch.empty(2**32 + 4, dtype=torch.uint8)  # only the pages used here become real
    rows = memory.as_strided((2, 4), (2**32, 1))
    rows.copy_(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))
    if far == "slices":
        assert initstats.stats(rows, dim=1).mean.tolist() == [2.5, 6.5]
    else:
        assert initstats.stats(rows, dim=0).mean.tolist() == [3, 4, 5, 6]


def test_the_fake_op_has_the_shapes_of_the_op() -> None:
    meta = torch.empty(2**33, 3, device="meta")
    moments, counts = torch.ops.initstats.slice_stats(meta, 1)
    assert (moments.shape, counts.shape) == ((2**33, 8), (2**33, 8))


def test_the_op_is_registered_as_torch_wants_it(device: torch.device) -> None:
    x = sample((40, 6), torch.float32, device)
    torch.library.opcheck(torch.ops.initstats.slice_stats.default, (x, 1))


def test_bad_dims_and_groups_are_refused() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(IndexError, match=r"expected dim to be from -2 to 1 .* got dim=2"):
        initstats.stats(x, dim=2)
    with pytest.raises(
        ValueError, match=r"expected different dimensions in dim, got dim=\(0, -2\)"
    ):
        initstats.stats(x, dim=(0, -2))
    with pytest.raises(ValueError, match=r"expected different dimensions in dim, got dim=\(\)"):
        initstats.stats(x, dim=())
    with pytest.raises(ValueError, match="expected moments alone with dim, got another group"):
        initstats.stats(x, dim=0, fingerprint=True)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="expected one tensor with dim, got list"):
        initstats.stats([x], dim=0)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="expected a dense tensor"):
        initstats.stats(x.to_sparse(), dim=0)
    with pytest.raises(
        RuntimeError, match="expected kept to be from 0 to the number of dimensions"
    ):
        _ops.slice_stats(x, 3)
    assert isinstance(initstats.stats(x, dim=0), SliceStats)
