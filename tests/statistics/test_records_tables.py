"""Records of many tensors: what `stats` takes and refuses, and the table that it gives."""

from __future__ import annotations

import json
import pickle
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from initstats.statistics.compute import stats
from initstats.statistics.table import StatsTable


def skewed(n: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g).exp() - 1.5


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("steps", torch.zeros(2))


def test_many_tensors_come_as_module_mapping_iterable_or_pairs(device: torch.device) -> None:
    module = Small().to(device)
    assert list(stats(module)) == ["layer.weight", "layer.bias"]
    assert set(stats(module.state_dict())) == {"layer.weight", "layer.bias", "steps"}
    assert list(stats(list(module.parameters()))) == ["0", "1"]
    assert list(stats(module.named_parameters())) == ["layer.weight", "layer.bias"]
    table = stats(module)
    assert table["layer.weight"].to_dict() == stats(module.layer.weight).to_dict()
    assert len(stats([])) == 0
    assert repr(stats({})) == "StatsTable({})"


@pytest.mark.parametrize("odd", [False, True])
def test_a_table_keeps_no_tensor_alive(odd: bool, device: torch.device) -> None:
    # A list with a negated view goes through the dispatcher.
    more = torch._neg_view(torch.ones(2)) if odd else torch.ones(2)
    given = {"a": torch.zeros(100_000, device=device), "b": more.to(device)}
    given_tensor = weakref.ref(given["a"])
    table = stats(given)
    assert len(pickle.dumps(table)) < 50_000
    del given
    assert given_tensor() is None
    assert list(table) == ["a", "b"]
    assert pickle.loads(pickle.dumps(table))["a"].count == table["a"].count == 100_000


def test_a_table_prints_merges_and_converts() -> None:
    table = stats({"a": skewed(100), "b": torch.zeros(5)}, fingerprint=True)
    text = repr(table)
    assert "a" in text
    assert "std" in text
    assert f"{table['b'].fingerprint:016x}" in text
    twice = table.merge(table)
    assert twice["a"].count == 200
    assert table.total().count == 105
    json.dumps(table.to_dict(), allow_nan=False)
    frame = table.to_pandas()
    assert list(frame.index) == ["a", "b"]
    assert frame.loc["b", "zero"] == 5
    assert "histogram" not in frame.columns


def test_tables_with_other_names_do_not_merge() -> None:
    with pytest.raises(ValueError, match=r"expected the same names in both tables, got 'b' in one"):
        stats({"a": torch.ones(1)}).merge(stats({"b": torch.ones(1), "a": torch.ones(1)}))
    with pytest.raises(
        ValueError, match=r"StatsTable.total: expected at least one record, got none"
    ):
        StatsTable({}).total()


def sparse() -> torch.Tensor:
    return torch.eye(3).to_sparse()


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: torch.ones(2, dtype=torch.complex64),
            TypeError,
            "got dtype=torch.complex64; pass torch.view_as_real",
        ),
        (quantised, TypeError, r"got dtype=torch.qint8; pass x.dequantize\(\) or x.int_repr\(\)"),
        (sparse, TypeError, "expected a dense tensor, got layout=torch.sparse_coo"),
        (
            lambda: torch.ones(2, dtype=torch.uint16),
            TypeError,
            "expected a float, integer or bool tensor",
        ),
        (
            lambda: torch.ones(2, device="meta"),
            ValueError,
            "expected a tensor with data, got one on the meta device",
        ),
        (lambda: [1.0, 2.0], TypeError, "expected tensors, got float"),
        (
            lambda: 3,
            TypeError,
            "expected a tensor, a module, a mapping or an iterable of tensors, got int",
        ),
        (
            lambda: "ab",
            TypeError,
            "expected a tensor, a module, a mapping or an iterable of tensors, got str",
        ),
        (lambda: [("a", torch.ones(1))] * 2, ValueError, "expected every name once, got 'a' twice"),
    ],
)
def test_what_has_no_statistics_is_refused_with_one_clear_error(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"initstats.stats: .*{message}"):
        stats(make())


def test_options_are_checked() -> None:
    with pytest.raises(
        ValueError, match="expected at least one of moments, histogram, fingerprint"
    ):
        stats(torch.ones(1), moments=False, histogram=False)
    with pytest.raises(ValueError, match="expected scale to be 0, 1 or 2, got scale=3"):
        stats(torch.ones(1), scale=3)


@pytest.mark.parametrize(
    ("odd", "error", "message"),
    [
        (torch.ones(2, device="meta"), ValueError, "expected a tensor with data"),
        (torch.ones(2).to_sparse(), TypeError, "expected a dense tensor"),
        (
            torch.ones(2, dtype=torch.complex64),
            TypeError,
            "expected a float, integer or bool tensor",
        ),
        (3, TypeError, "expected tensors, got int"),
    ],
)
def test_one_odd_tensor_among_many_is_told_of(
    odd: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"initstats.stats: {message}"):
        stats([torch.ones(2), odd, torch.ones(3)])
