"""orthogonal_ as GPUs make it: wide panels and matrices of one size together, in few calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import initstats
from initstats.init import householder, householder_batches, orthogonal_fills
from initstats.init.householder import Matrix, write_block, write_columns
from initstats.init.householder_batches import write_products
from orthogonality import defect, peak_bytes, product_of_reflections, signed_key

DECISIONS = Path(__file__).parents[2] / "docs/decisions"
CALLS, TF32 = (
    DECISIONS / f"{n}.md" for n in ("0059-few-calls-on-gpus", "0060-no-tf32-in-orthogonal")
)
BOUNDS = {torch.float32: 1.5e-6, torch.float64: 5e-15}
KEY = 7


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every device."""
    monkeypatch.setattr(orthogonal_fills, "prefers_few_calls", lambda _: True)


SIZES = [
    (129, 129),
    (131, 1),
    (200, 130),
    (130, 200),
    (300, 300),
    (517, 517),
    (1030, 90),
    (90, 700),
]


@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_wide_panels_make_the_product_of_the_reflections(
    size: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> None:
    w = initstats.orthogonal_(torch.empty(size, dtype=dtype, device=device), 1.5, seed=9).cpu()
    assert defect(w / 1.5) <= BOUNDS[dtype]
    expected = 1.5 * product_of_reflections(signed_key(9), max(size), min(size), dtype)
    tall = w if size[0] >= size[1] else w.t()
    assert float((tall.double() - expected).abs().max()) <= 1.5 * BOUNDS[dtype]


@pytest.mark.parametrize("n", [1024, 1500])
def test_draws_of_several_panels_and_several_draws_stay_orthogonal(
    n: int, device: torch.device
) -> None:
    out = torch.empty(1, n, n, device=device)
    write_products(out, [KEY], [0], 1.0)
    narrow = torch.empty(n, n, device=device)
    write_columns(Matrix(n, n, KEY, out.dtype, device), 0, narrow, 1.0)
    assert defect(out[0].cpu()) <= BOUNDS[torch.float32]
    assert float((out[0] - narrow).abs().max()) <= BOUNDS[torch.float32]


@pytest.mark.parametrize("most", [1 << 24, 2 * 140 * 150])
@pytest.mark.usefixtures("few_calls")
def test_matrices_that_are_made_together_are_those_of_single_calls(
    most: int, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(householder_batches, "_MOST_ELEMENTS", most)
    sizes = [(140, 150), (150, 140), (200, 140), (3, 3), (140, 150), (150, 140)]
    made = [torch.empty(size, device=device) for size in sizes]
    made += [torch.empty(140, 150, dtype=d, device=device) for d in (torch.bfloat16, torch.float64)]
    made.append(torch.empty(150, 280, device=device)[:, ::2].t())  # no matrix product writes it
    names, gains = [f"w{i}" for i in range(len(made))], [1.0] * 5 + [3.0] + [1.0] * 3
    initstats.orthogonal_(made, gains, seed=3, name=names)
    for w, name, gain in zip(made, names, gains, strict=True):
        alone = initstats.orthogonal_(torch.empty_like(w), gain, seed=3, name=name)
        bound = max(BOUNDS[torch.float32], torch.finfo(w.dtype).eps / 2)
        assert float((w - alone).abs().max()) <= gain * bound


@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize("dtype", [*BOUNDS, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_each_matrix_of_a_large_batch_takes_its_own_reflections(
    dtype: torch.dtype, device: torch.device, *, strided: bool
) -> None:
    w = torch.zeros(3, 130, 280, dtype=dtype, device=device)
    w = w[:, :, ::2] if strided else w[:, :, :140]
    initstats.orthogonal_(w, batch_dims=1, seed=9)
    computed = torch.float64 if dtype is torch.float64 else torch.float32
    bound = max(BOUNDS[computed], torch.finfo(dtype).eps / 2 if computed is not dtype else 0)
    for number, matrix in enumerate(w.cpu()):
        expected = product_of_reflections(signed_key(9), 140, 130, computed, number)
        assert float((matrix.double().t() - expected).abs().max()) <= bound


@pytest.mark.usefixtures("few_calls")
def test_a_batch_is_made_under_torch_func_too() -> None:
    plain = [initstats.orthogonal_(torch.empty(140, 140), seed=i) for i in (0, 1)]

    def fill(x: torch.Tensor) -> torch.Tensor:
        pair = [torch.zeros_like(x), torch.zeros_like(x)]
        for i, each in enumerate(pair):
            initstats.orthogonal_(each, seed=i)
        initstats.orthogonal_(pair, seed=0)
        return (pair[0] * x).sum()

    gradient = torch.func.grad(fill)(torch.zeros(140, 140))
    assert float((gradient - plain[0]).abs().max()) <= BOUNDS[torch.float32]


# ---- calls, operations, memory

LAUNCH_NOTHING = {
    *("alias", "detach", "diagonal", "empty", "empty_like", "select", "slice", "t", "transpose"),
    *("unbind", "unsqueeze", "view", "device", "as_strided"),
}
LAUNCH = {
    *(
        "zero_",
        "fill_",
        "copy_",
        "_foreach_copy_",
        "mul",
        "mul_",
        "mm",
        "bmm",
        "addmm_",
        "baddbmm_",
    ),
    *("reflectors_", "panel_factors"),
}


class Counting(TorchDispatchMode):
    """Counts the calls that launch something, and the operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.operations = 0

    def __torch_dispatch__(
        self, call: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        del types
        name = call._schema.name.split("::")[1]
        assert name in LAUNCH | LAUNCH_NOTHING, name
        self.calls += name in LAUNCH
        if name.rstrip("_") in {"mm", "bmm", "addmm", "baddbmm"}:
            left, right = arguments["add" in name :][:2]
            self.operations += 2 * left.numel() * right.shape[-1]
        return call(*arguments, **(named or {}))


def counted(fill: Callable[[], object]) -> Counting:
    with FakeTensorMode(), Counting() as counting:
        fill()
    return counting


def narrow(n: int) -> None:
    matrix = Matrix(n, n, KEY, torch.float32, torch.device("cpu"))
    write_columns(matrix, 0, torch.empty(n, n), 1.0)


def wide(n: int, matrices: int = 1) -> None:
    write_products(torch.empty(matrices, n, n), [KEY] * matrices, [0] * matrices, 1.0)


@pytest.mark.backends("cpu")
@pytest.mark.parametrize(
    ("n", "calls_before", "calls"),
    [(256, 18, 8), (512, 36, 8), (1024, 64, 12), (2048, 120, 32), (4096, 232, 48)],
)
def test_calls_and_operations_are_those_of_the_decision(
    n: int, calls_before: int, calls: int
) -> None:
    before, now = counted(lambda: narrow(n)), counted(lambda: wide(n))
    assert (before.calls, now.calls) == (calls_before, calls)
    per_cube = [each.operations / n**3 for each in (before, now)]
    row = f"| {n} | {before.calls} | {now.calls} | {per_cube[0]:.2f} | {per_cube[1]:.2f} |"
    assert row in CALLS.read_text()


def block(rows: int, columns: int, n: int) -> None:
    write_block(torch.empty(rows, columns), (n - rows, n - columns), (n, n), KEY, 1.0)


@pytest.mark.backends("cpu")
@pytest.mark.parametrize(
    ("rows", "columns", "n", "calls_before", "calls"),
    [
        (128, 1024, 1024, 67, 67),
        (256, 1024, 1024, 59, 35),
        (512, 4096, 4096, 211, 67),
        (4096, 512, 4096, 157, 52),
    ],
)
def test_calls_and_operations_of_blocks_are_those_of_the_decision(
    rows: int,
    columns: int,
    n: int,
    calls_before: int,
    calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = counted(lambda: block(rows, columns, n))
    monkeypatch.setattr(householder, "prefers_few_calls", lambda _: True)
    now = counted(lambda: block(rows, columns, n))
    assert (before.calls, now.calls) == (calls_before, calls)
    size = rows * columns * n
    per_element = [each.operations / size for each in (before, now)]
    row = f"| {rows} x {columns} of {n} | {before.calls} | {now.calls} |"
    row += f" {per_element[0]:.2f} | {per_element[1]:.2f} |"
    assert row in CALLS.read_text(), row


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("n", [256, 1024])
def test_calls_do_not_grow_with_the_number_of_equal_matrices(n: int) -> None:
    assert counted(lambda: wide(n, 16)).calls == counted(lambda: wide(n)).calls


@pytest.mark.usefixtures("few_calls")
def test_a_list_of_equal_shapes_takes_one_call_more_than_one_matrix() -> None:
    tensors = [torch.empty(200, 200) for _ in range(12)]
    with Counting() as of_list:
        initstats.orthogonal_(tensors, seed=0)
    with Counting() as of_one:
        initstats.orthogonal_(tensors[0], seed=0)
    assert of_list.calls == of_one.calls + 1  # the copy into all tensors


@pytest.mark.backends("cpu")
@pytest.mark.usefixtures("few_calls")
@pytest.mark.parametrize(("n", "bound"), [(512, 5.1), (1024, 3.1), (1500, 1.4), (2048, 1.0)])
def test_memory_besides_the_matrix_is_that_of_the_decision(n: int, bound: float) -> None:
    w = torch.empty(n, n)
    assert bound - 0.2 < peak_bytes(lambda: initstats.orthogonal_(w)) / w.nbytes <= bound
    assert re.search(rf"\b{bound}( times its own)? (at|from) {n}\b", CALLS.read_text())


# ---- TF32

Rounding = Callable[[torch.Tensor], torch.Tensor]


def nearest(x: torch.Tensor) -> torch.Tensor:
    """Round float32 to the 10 bits after the leading one of TF32."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def towards_zero(x: torch.Tensor) -> torch.Tensor:
    """Cut float32 to TF32, as tensor cores do with operands that nobody rounded."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


class Tf32(TorchDispatchMode):
    """Rounds what matrix products read."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self.rounding = rounding

    def __torch_dispatch__(
        self, call: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        del types
        name = call._schema.name.split("::")[1]
        if name in {"bmm", "baddbmm_"}:
            arguments = list(arguments)
            first = int(name == "baddbmm_")
            arguments[first : first + 2] = map(self.rounding, arguments[first : first + 2])
        return call(*arguments, **(named or {}))


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("n", [512, 1024])
def test_tf32_would_show_in_bfloat16_and_float16(n: int) -> None:
    exact, rounded, cut = (torch.empty(1, n, n) for _ in range(3))
    write_products(exact, [KEY], [0], 1.0)
    for out, rounding in ((rounded, nearest), (cut, towards_zero)):
        with Tf32(rounding):
            write_products(out, [KEY], [0], 1.0)
    text = TF32.read_text()
    for dtype in (torch.bfloat16, torch.float16):
        defects = [defect(q[0].to(dtype)) for q in (exact, rounded, cut)]
        name = str(dtype).removeprefix("torch.")
        assert f"| {name}, {n} | {' | '.join(f'{each:.1e}' for each in defects)} |" in text
