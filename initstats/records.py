"""Records of many tensors in one launch per device: `stats` and the table that it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from rich.table import Table
from torch import Tensor, nn

from initstats import _ops
from initstats.histograms import MAX_SCALE
from initstats.record import Stats
from initstats.record_rows import Batch, Groups
from initstats.tables import number, render

if TYPE_CHECKING:
    import pandas as pd

_DTYPES = frozenset(
    {
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)
_PLAIN_TYPES = (Tensor, nn.Parameter)
_SHOWN = ("mean", "std", "rms", "min", "max", "zero", "nan")


class StatsTable(Mapping[str, Stats]):
    """Records by name, lazy as they are. Reading one transfers all records of its device at once.

    Args:
        records: Records by name.
    """

    def __init__(self, records: Mapping[str, Stats]) -> None:
        self._records = dict(records)

    def __getitem__(self, name: str) -> Stats:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def merge(self, other: StatsTable) -> StatsTable:
        """Return a table whose records are those of both tables merged, name by name.

        Args:
            other: A table with the same names.

        Returns:
            A new table.

        Raises:
            ValueError: If the names differ, or the groups of two records do.
        """
        if self.keys() != other.keys():
            odd = sorted(self.keys() ^ other.keys())
            msg = (
                "initstats.StatsTable.merge: expected the same names in both tables, got"
                f" {odd[0]!r} in one"
            )
            raise ValueError(msg)
        return StatsTable({name: record.merge(other[name]) for name, record in self.items()})

    def total(self) -> Stats:
        """Return the record of all elements of all tensors together.

        Raises:
            ValueError: If the table is empty.
        """
        records = list(self.values())
        if not records:
            msg = "initstats.StatsTable.total: expected at least one record, got none"
            raise ValueError(msg)
        result = records[0]
        for record in records[1:]:
            result = result.merge(record)
        return result

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return `Stats.to_dict` by name."""
        return {name: record.to_dict() for name, record in self.items()}

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas DataFrame, one row per tensor, one column per field but the histogram.

        Raises:
            ImportError: If pandas is not installed (extra `pandas`).
        """
        try:
            import pandas as pd
        except ImportError as error:
            msg = (
                "initstats.StatsTable.to_pandas: expected pandas to be installed, got none;"
                " pip install initstats[pandas]"
            )
            raise ImportError(msg) from error
        rows = self.to_dict()
        for row in rows.values():
            row.pop("histogram", None)
        frame: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index")
        return frame

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("name", overflow="fold")
        moments = all(record.groups & Groups.COUNTED for record in self.values())
        fingerprint = all(record.groups & Groups.FINGERPRINT for record in self.values())
        columns = (
            "count",
            *(_SHOWN if moments else ()),
            *(("fingerprint",) if fingerprint else ()),
        )
        for column in columns:
            table.add_column(column, justify="right")
        for name, record in self.items():
            table.add_row(name, *(_cell(record, column) for column in columns))
        return table

    def __repr__(self) -> str:
        return render(self) if self else "StatsTable({})"


def _cell(record: Stats, column: str) -> str:
    value = getattr(record, column)
    if column == "fingerprint":
        return f"{value:016x}"
    return f"{value:,}" if isinstance(value, int) else number(value)


@overload
def stats(
    x: Tensor,
    *,
    moments: bool = ...,
    histogram: bool = ...,
    fingerprint: bool = ...,
    scale: int = ...,
) -> Stats: ...


@overload
def stats(
    x: nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]],
    *,
    moments: bool = ...,
    histogram: bool = ...,
    fingerprint: bool = ...,
    scale: int = ...,
) -> StatsTable: ...


def stats(
    x: Tensor | nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]],
    *,
    moments: bool = True,
    histogram: bool = True,
    fingerprint: bool = False,
    scale: int = 0,
) -> Stats | StatsTable:
    """Take the statistics of one tensor or many in one pass, one launch per device, without a sync.

    Args:
        x: A tensor of any shape and strides; or a module (its named parameters, not its buffers), a
            mapping from names to tensors, or an iterable of tensors (named "0", "1", ...) or of
            (name, tensor) pairs. Dtypes: float16, bfloat16, float32, float64, float8_e4m3fn,
            float8_e5m2, bool, uint8, int8, int16, int32, int64.
        moments: Take counts, extrema and moments. They come with the histogram in any case.
        histogram: Take the exponential histogram: quantiles, shares below a power of two.
        fingerprint: Take a 64-bit sum that tells equal tensors from different ones.
        scale: 2**scale histogram buckets per power of two, 0 to 2.

    Returns:
        A `Stats` for a tensor, else a `StatsTable`. Moments are taken about the mean of each 4096
        elements and merged in float64. Inside 4096 elements float64, int32 and int64 are computed
        in float64, all other dtypes in float32.

    Raises:
        TypeError: If x, or one of its tensors, is of a kind or dtype that has no statistics.
        ValueError: If no group is asked for, scale is out of range, a name comes twice, or a tensor
            is on the meta device.

    Determinism: bitwise, on any device, with any number of threads and any CPU capability.
    Source: Pebay 2008, SAND2008-6212 (moments); OpenTelemetry's exponential histogram.
    """
    groups = Groups.MOMENTS * bool(moments) | Groups.HISTOGRAM * bool(histogram)
    groups |= Groups.FINGERPRINT * bool(fingerprint)
    if not groups:
        msg = "initstats.stats: expected at least one of moments, histogram, fingerprint, got none"
        raise ValueError(msg)
    if scale not in range(MAX_SCALE + 1):
        msg = f"initstats.stats: expected scale to be 0, 1 or 2, got scale={scale}"
        raise ValueError(msg)
    if isinstance(x, Tensor):
        _check(x)
        return Stats(_launch([x], groups, scale))
    return _stats_of_many(_named(x), groups, scale)


def _stats_of_many(tensors: dict[str, Tensor], groups: int, scale: int) -> StatsTable:
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        _check(tensor)
        by_device.setdefault(tensor.device, []).append(name)
    records: dict[str, Stats] = {}
    for names in by_device.values():
        batch = _launch([tensors[name] for name in names], groups, scale)
        records.update((name, Stats(batch, row)) for row, name in enumerate(names))
    return StatsTable({name: records[name] for name in tensors} if len(by_device) > 1 else records)


def _launch(tensors: list[Tensor], groups: int, scale: int) -> Batch:
    with torch.no_grad():
        return Batch(*_ops.stats(tensors, groups, scale), groups, scale)


def _named(
    x: nn.Module | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]],
) -> dict[str, Tensor]:
    if isinstance(x, nn.Module):
        return dict(x.named_parameters())
    if isinstance(x, Mapping):
        return dict(x)
    _check_iterable(x)
    named: dict[str, Tensor] = {}
    for i, item in enumerate(x):
        name, tensor = item if isinstance(item, tuple) else (str(i), item)
        if name in named:
            msg = f"initstats.stats: expected every name once, got {name!r} twice"
            raise ValueError(msg)
        named[name] = tensor
    return named


def _check_iterable(x: object) -> None:
    if isinstance(x, str) or not isinstance(x, Iterable):
        msg = (
            "initstats.stats: expected a tensor, a module, a mapping or an iterable of tensors, got"
            f" {type(x).__name__}"
        )
        raise TypeError(msg)


def _check(tensor: object) -> None:
    """Raise the one error that says why a tensor has no statistics."""
    if type(tensor) not in _PLAIN_TYPES:
        _check_kind(tensor)
    assert isinstance(tensor, Tensor)
    if tensor.layout is not torch.strided:
        msg = (
            f"initstats.stats: expected a dense tensor, got layout={tensor.layout}; pass x.values()"
        )
        raise TypeError(msg)
    if tensor.dtype not in _DTYPES:
        hint = ""
        if tensor.dtype.is_complex:
            hint = "; pass torch.view_as_real(x)"
        elif tensor.is_quantized:
            hint = "; pass x.dequantize() or x.int_repr()"
        msg = (
            "initstats.stats: expected a float, integer or bool tensor, got"
            f" dtype={tensor.dtype}{hint}"
        )
        raise TypeError(msg)
    if tensor.is_meta:
        msg = "initstats.stats: expected a tensor with data, got one on the meta device"
        raise ValueError(msg)


def _check_kind(tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        msg = f"initstats.stats: expected tensors, got {type(tensor).__name__}"
        raise TypeError(msg)
    if hasattr(tensor, "to_local") and hasattr(tensor, "placements"):
        msg = (
            "initstats.stats: expected a plain tensor, got a DTensor; pass x.to_local() and merge"
            " the records"
        )
        raise TypeError(msg)
