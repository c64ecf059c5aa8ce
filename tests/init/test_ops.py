"""The ops as torch sees them: schemas, fake kernels, and torch's own opcheck."""

from __future__ import annotations

import pytest
import torch

from initstats import _ops
from initstats.init._distributions import DISTRIBUTIONS

FILL_ARGUMENTS: dict[str, tuple[list[float], ...]] = {
    family.name: tuple([number] for number in next(iter(family.examples.values())))
    for family in DISTRIBUTIONS
}
FILL_ARGUMENTS["sparse_"] = ([1.0, 1.0], [2, 1])

ORTHOGONAL = ("reflectors_", "panel_factors", "small_orthogonal_")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILL_ARGUMENTS)
def test_fills_pass_opcheck(name: str, device: torch.device) -> None:
    op = getattr(torch.ops.initstats, name).default
    tensors = [torch.zeros(5, 3, device=device), torch.zeros(3, 5, device=device).t()]
    torch.library.opcheck(op, (tensors, [1, 2], *FILL_ARGUMENTS[name], []))
    one = [values[:1] for values in FILL_ARGUMENTS[name]]
    torch.library.opcheck(op, (tensors[:1], [1], *one, [1, 2, 9, 9]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("groups", [1, 3, 5, 7])
def test_stats_passes_opcheck(groups: int, device: torch.device) -> None:
    tensors = [torch.full((5, 3), 0.5, device=device), torch.ones(3, 5, device=device).t()]
    torch.library.opcheck(torch.ops.initstats.stats.default, (tensors, groups, 1, [], []))
    copies = [torch.zeros_like(x) for x in tensors]
    torch.library.opcheck(torch.ops.initstats.copy_stats_.default, (tensors, copies, groups, 1))
    if not groups & 4:
        op = torch.ops.initstats.square_ratio_stats.default
        arguments = tensors, tensors, [1.0] * len(tensors), groups, 1
        torch.library.opcheck(op, arguments)
        torch.library.opcheck(op, (*arguments, True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_orthogonal_ops_pass_opcheck(device: torch.device) -> None:
    ops = torch.ops.initstats
    vectors, diagonal = torch.zeros(2, 3, 8, device=device), torch.zeros(2, 3, device=device)
    squares = torch.zeros(2, 3, dtype=torch.float64, device=device)
    arguments = vectors, squares, diagonal, [1, 2], [0, 7], 4, 11, 7
    torch.library.opcheck(ops.reflectors_.default, arguments)
    torch.library.opcheck(
        ops.panel_factors.default,
        (torch.ones(2, 3, 3, device=device), torch.ones(6, dtype=torch.float64, device=device)),
    )
    matrices = [torch.zeros(2, 4, 3, device=device), torch.zeros(1, 3, 5, device=device)]
    torch.library.opcheck(ops.small_orthogonal_.default, (matrices, [1, 2], [0, 3], [1.0]))


@pytest.mark.parametrize("groups", range(1, 8))
def test_fake_stats_has_the_shapes_of_the_real_one(groups: int, device: torch.device) -> None:
    tensors = [torch.zeros(5, 3, device=device), torch.ones(7, device=device)]
    real = _ops.stats(tensors, groups, 2)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = _ops.stats([mode.from_tensor(t) for t in tensors], groups, 2)
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dirac_passes_opcheck(device: torch.device) -> None:
    tensors = [torch.zeros(4, 3, 2, device=device), torch.zeros(5, 3, device=device)]
    torch.library.opcheck(torch.ops.initstats.dirac_.default, (tensors, [2, 1], [1.0, 0.5]))


def test_every_op_has_cpu_and_cuda_kernels() -> None:
    if not _ops.build_info()["cuda_archs"]:
        pytest.skip("built without CUDA kernels")
    for name in (*FILL_ARGUMENTS, "dirac_", "stats", *ORTHOGONAL):
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"initstats::{name}", key), (
                name,
                key,
            )
