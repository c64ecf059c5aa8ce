"""Products of reflections are taken in full precision, whatever the code around them has set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

import initstats

SHAPES = {
    "orthogonal_": lambda device: initstats.orthogonal_(
        torch.empty(300, 200, device=device), seed=0
    ),
    "orthogonal_, a batch in bfloat16": lambda device: initstats.orthogonal_(
        torch.empty(2, 140, 150, dtype=torch.bfloat16, device=device), batch_dims=1, seed=0
    ),
    "delta_orthogonal_": lambda device: initstats.delta_orthogonal_(
        torch.empty(200, 150, 3, device=device), seed=0
    ),
    "columns of a block": lambda device: initstats.orthogonal_block_(
        torch.empty(300, 40, device=device), (0, 70), (300, 200), seed=0
    ),
    "rows of a block": lambda device: initstats.orthogonal_block_(
        torch.empty(40, 200, device=device), (70, 0), (300, 200), seed=0
    ),
}


def settings() -> list[Any]:
    matmuls = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    return [torch.backends.fp32_precision, *[each.fp32_precision for each in matmuls]]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _settings_put_back() -> Iterator[None]:
    generic, cuda, mkldnn = settings()
    yield
    torch.backends.fp32_precision = generic  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = cuda
    torch.backends.mkldnn.matmul.fp32_precision = mkldnn  # type: ignore[attr-defined]


@contextmanager
def lowered(how: str, device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        if how == "autocast":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        elif how == "everything":
            torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
        else:
            torch.set_float32_matmul_precision(how)
        yield


@pytest.mark.parametrize("how", ["autocast", "high", "medium", "everything"])
@pytest.mark.parametrize("fill", SHAPES.values(), ids=SHAPES.keys())
def test_the_bits_are_those_of_full_precision(
    fill: Callable[[torch.device], torch.Tensor], how: str, device: torch.device
) -> None:
    wanted = fill(device)
    with lowered(how, device):
        before = settings()
        found = fill(device)
        assert settings() == before
        if how == "everything":  # what was inherited is inherited still
            torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
            inherited = settings()
            assert inherited == ["ieee"] * 3
    assert torch.equal(found, wanted)
    legacy = how in {"high", "medium"}
    assert not legacy or torch.get_float32_matmul_precision() == how


def test_a_setting_comes_back_after_an_exception(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_float32_matmul_precision("medium")
    for made_by in ("householder.write_columns", "householder_batches.write_products"):
        monkeypatch.setattr(f"initstats.init.{made_by}", None)
    with pytest.raises(TypeError):
        initstats.orthogonal_(torch.empty(300, 200, device=device))
    assert torch.get_float32_matmul_precision() == "medium"
