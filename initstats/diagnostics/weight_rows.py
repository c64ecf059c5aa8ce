"""Equal rows and equal weights of a model before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from initstats.statistics.compute import stats
from initstats.statistics.record import Stats

_FEW_ROWS = 2
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RowReport:
    """How the rows of a weight differ: rows that are equal compute and learn the same.

    Attributes:
        rows: Number of rows (outputs, or entries of an embedding).
        distinct: Number of different rows.
    """

    rows: int
    distinct: int


def row_report(weight: Tensor) -> RowReport | None:
    """Count the different rows of a weight. Waits for the device.

    Args:
        weight: [rows, ...].

    Returns:
        The counts; None for a vector or a weight with one row.
    """
    if weight.dim() < _FEW_ROWS or weight.shape[0] < _FEW_ROWS or weight.numel() == 0:
        return None
    rows = weight.shape[0]
    flat = weight.detach().reshape(rows, -1)
    slices = stats(flat, dim=1)
    # Equal rows have equal records; of equal records a hash of all bits decides (the rows of an
    # identity matrix differ).
    keys = torch.stack([slices.mean, slices.l1, slices.min, slices.max], dim=1).nan_to_num(nan=0.5)
    _, groups, sizes = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    distinct = len(sizes)
    for group in (sizes > 1).nonzero().flatten().tolist():
        members = (groups == group).nonzero().flatten()
        distinct += len(torch.unique(_hashes(flat, members))) - 1
    return RowReport(rows, distinct)


def _hashes(rows: Tensor, members: Tensor) -> Tensor:
    """Return a number per row that is the same for equal rows and for no others, up to chance.

    Integer arithmetic modulo 2^64, exact in any order; odd pseudo-random factors per column, so
    that rows collide with a probability near 2^-64. 0 and -0 are equal.
    """
    generator = torch.Generator().manual_seed(0)
    info = torch.iinfo(torch.int64)
    factors = torch.randint(info.min, info.max, (rows.shape[1],), generator=generator) | 1
    factors = factors.to(rows.device)
    chunks = torch.split(members, max(1, _CHUNK // rows.shape[1]))
    bits = ((rows[chunk].double() + 0.0).view(torch.int64) for chunk in chunks)
    # The low bits of a double that was a float are 0, and would stay 0 in a product.
    return torch.cat([((part ^ (part >> 32) ^ (part >> 52)) * factors).sum(dim=1) for part in bits])


def equal_weights(weights: Mapping[str, Tensor], records: Mapping[str, Stats]) -> dict[str, str]:
    """Find weights with the same values as an earlier one. Waits for the device.

    Args:
        weights: Distinct parameters by name.
        records: Their records, by name.

    Returns:
        The name of the earlier one, by name. Constant weights are left out.
    """
    seen: dict[object, str] = {}
    found = {}
    for name, weight in weights.items():
        record = records[name]
        if weight.dim() < _FEW_ROWS or not record.std > 0:
            continue
        place = (tuple(weight.shape), record.mean, record.std, record.min, record.max)
        first = seen.setdefault(place, name)
        if first != name and torch.equal(weights[first], weight):
            found[name] = first
    return found
