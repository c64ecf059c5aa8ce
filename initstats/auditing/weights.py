"""What the weights of a model are like before the first step, beyond one record each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from initstats.measuring import stats
from initstats.record import Stats

_FEW_ROWS = 2


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
    # Equal rows have equal records; of equal records the rows themselves decide (those of an
    # identity matrix differ).
    keys = torch.stack([slices.mean, slices.l1, slices.min, slices.max], dim=1).nan_to_num(nan=0.5)
    _, groups, sizes = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    distinct = len(sizes)
    for group in (sizes > 1).nonzero().flatten().tolist():
        members = (groups == group).nonzero().flatten()
        while len(members) > 1:
            first, rest = members[0], members[1:]
            members = rest[(flat[rest] != flat[first]).any(dim=1)]
            distinct += 1 if len(members) > 0 else 0
    return RowReport(rows, distinct)


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
