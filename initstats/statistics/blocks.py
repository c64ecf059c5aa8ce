"""Records of tensors that come in blocks: chunks of files, and shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from initstats import _ops
from initstats.sharding import Box, Domain
from initstats.statistics.record import Stats
from initstats.statistics.record_array import Batch, Groups, RecordRow, Records
from initstats.statistics.table import StatsTable

NamedBlock = tuple[str, torch.Tensor, Box]  # a name, a block, and where the block lies in the whole


def records_of_blocks(blocks: Sequence[NamedBlock], groups: int) -> list[Stats]:
    """Take one record per block, in one launch per device; nothing is read.

    Args:
        blocks: The blocks.
        groups: Sum of `Groups`.
    """
    found: dict[int, Stats] = {}
    for device in dict.fromkeys(block.device for _, block, _ in blocks):
        here = [i for i, (_, block, _) in enumerate(blocks) if block.device == device]
        box = _ops.flat_box([(blocks[i][2].offset, blocks[i][2].size) for i in here])
        with torch.no_grad():
            rows = _ops.stats([blocks[i][1] for i in here], groups, 0, box)
        batch = Batch(rows, groups, 0)
        found |= {i: Stats(batch, row) for row, i in enumerate(here)}
    return [found[i] for i in range(len(blocks))]


def stats_of_blocks(
    batches: Iterable[Sequence[NamedBlock]], *, fingerprint: bool = False
) -> StatsTable:
    """Take the records of whole tensors from their blocks.

    Args:
        batches: The blocks, some at a time: what one batch holds is measured in one launch per
            device, and dropped before the next one is asked for. Blocks of one name are parts of
            one tensor, that do not overlap; they may come in several batches.
        fingerprint: Take the fingerprint, too.

    Returns:
        The records by name, with moments and histogram. Counts, extrema, histograms and
        fingerprints are those of the tensor in one piece; moments are merged in the order of the
        blocks, which rounds otherwise.
    """
    groups = Groups.MOMENTS | Groups.HISTOGRAM | Groups.FINGERPRINT * fingerprint
    found: dict[str, Stats] = {}
    for batch in batches:
        for (name, _, _), record in zip(batch, records_of_blocks(batch, groups), strict=True):
            found[name] = found[name].merge(record) if name in found else record
    return StatsTable(found)


def merge_over_ranks(table: StatsTable, names: Sequence[str], domain: Domain) -> StatsTable:
    """Merge the records of a domain's ranks, each of its own blocks. Collective.

    Args:
        table: This rank's records, with moments, histogram and fingerprint, of some of the names.
        names: All names, in one order on all ranks.
        domain: The ranks.

    Returns:
        The records of all blocks, the same on every rank: two gatherings per dimension of the mesh
        and one sum, whatever the number of tensors.
    """
    groups = Groups.MOMENTS | Groups.HISTOGRAM | Groups.FINGERPRINT
    records = Records.empty(len(names))
    places = np.zeros((len(names), 2, 256), dtype=np.int64)
    for i, name in enumerate(names):
        if name in table:
            row = table[name].row
            records.moments[i], records.counts[i] = row.moments, row.counts
            places[i] = row.histogram.counts
    moments, counts = torch.from_numpy(records.moments), torch.from_numpy(records.counts)
    for dim in domain.dims:
        parts = Records(domain.gather(moments, dim), domain.gather(counts, dim))
        merged = parts.merge_first_axis()
        moments, counts = merged.moments, merged.counts
    buckets = domain.sum(torch.from_numpy(places)).numpy()
    rows = zip(moments.tolist(), counts.tolist(), buckets, strict=True)
    return StatsTable(
        {name: Stats(RecordRow(*row), groups=groups) for name, row in zip(names, rows, strict=True)}
    )
