"""Table of records by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from initstats.statistics.record import Stats
from initstats.statistics.record_array import Batch, Groups
from initstats.text import literal, number, render, render_html

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

_SHOWN = ("mean", "std", "rms", "min", "max", "zero", "nan")


class StatsTable(Mapping[str, Stats]):
    """Records by name, lazy as they are. Reading one transfers all records of its device at once.

    Args:
        records: Records by name.
    """

    def __init__(self, records: Mapping[str, Stats]) -> None:
        self._records = dict(records)
        self._names: Mapping[str, object] = self._records
        self._batches: tuple[tuple[Batch, Mapping[str, int]], ...] = ()

    @classmethod
    def of_batches(
        cls, names: Iterable[str], batches: Iterable[tuple[Batch, Mapping[str, int]]]
    ) -> StatsTable:
        """Return a table whose records are made when they are asked for.

        Args:
            names: The names in order.
            batches: Records of launches, each with the row of every name that it holds.
        """
        table = cls({})
        # Of a mapping the names alone: a table keeps no tensor alive.
        table._names, table._batches = dict.fromkeys(names), tuple(batches)
        return table

    def __getitem__(self, name: str) -> Stats:
        record = self._records.get(name)
        if record is None:
            for batch, rows in self._batches:
                if name in rows:
                    record = self._records[name] = Stats(batch, rows[name])
                    break
            else:
                raise KeyError(name)
        return record

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

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

    @property
    def local(self) -> StatsTable:
        """The records of the elements that this rank holds, of DTensors those of its shards."""
        return StatsTable({name: record.local for name, record in self.items()})

    def all_merge(
        self,
        group: ProcessGroup | DeviceMesh,
        *,
        plain: Literal["replicas", "parts", "held"] | None = None,
    ) -> StatsTable:
        """Merge the records over the ranks of a group. A collective: every rank calls it.

        Three all-reduces, whatever the number of tensors, and a fourth the first time that a group
        has more than 512. Of DTensors each element counts once: of replicas one is read, which may
        be those of another mesh in the group. Ranks may have different DTensors, and with
        `plain="held"` different plain ones, such as those of pipeline stages or experts: three more
        messages tell of them, and every rank gets the records of all.

        Args:
            group: The ranks that hold the tensors together, such as
                `torch.distributed.group.WORLD`, or a mesh. Over a mesh of several dimensions,
                such as (nodes, ranks per node), each all-reduce goes along one after the other,
                the last one first. None is refused: it does not mean all ranks.
            plain: What plain tensors of the same name are: "replicas", the same tensor on every
                rank, counted once; "held", the same tensor on every rank that has it, counted once,
                which others may lack; or "parts", elements of their own, all counted, such as the
                outputs of a layer or the experts of each rank.

        Returns:
            A table with the records of the whole tensors, equal on all ranks. Counts, extrema,
            histogram and fingerprint are exactly those of the unsharded tensor, moments to 3e-6.

        Raises:
            TypeError: If group is no process group that this rank is in.
            ValueError: If shapes or groups of records differ between ranks, some ranks lack a plain
                tensor that all should have, the group does not hold every shard, or there are plain
                tensors and plain is not given. On every rank, with the tensor and the ranks named.

        Determinism: bitwise, on any rank and whatever the order in which the ranks are reduced.
        """
        from initstats.statistics.across_ranks import all_merge

        return StatsTable(all_merge(self, group, plain))

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
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("name", overflow="fold")
        if any(record.is_sharded for record in self.values()):
            table.add_column("shard of, merge with all_merge", justify="right")
            for name in self:
                spread = self[name].spread
                table.add_row(*literal(name), "" if spread is None else str(list(spread.shape)))
            return table
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
            table.add_row(*literal(name), *(_cell(record, column) for column in columns))
        return table

    def _repr_html_(self) -> str:
        return render_html(self)

    def __repr__(self) -> str:
        return render(self) if self else "StatsTable({})"


def _cell(record: Stats, column: str) -> str:
    value = getattr(record, column)
    if column == "fingerprint":
        return f"{value:016x}"
    return f"{value:,}" if isinstance(value, int) else number(value)
