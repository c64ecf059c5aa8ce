"""Records of tensors that come in blocks: chunks of files, and shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from initstats import _ops
from initstats.sharding import Box
from initstats.statistics.record import Stats
from initstats.statistics.record_array import Batch, Groups
from initstats.statistics.table import StatsTable

NamedBlock = tuple[str, torch.Tensor, Box]  # a name, a block, and where the block lies in the whole


def stats_of_blocks(
    batches: Iterable[Sequence[NamedBlock]], *, histogram: bool = True, fingerprint: bool = False
) -> StatsTable:
    """Take the records of whole tensors from their blocks.

    Args:
        batches: The blocks, some at a time: what one batch holds is measured in one launch per
            device, and dropped before the next one is asked for. Blocks of one name are parts of
            one tensor, that do not overlap; they may come in several batches.
        histogram: Take the histogram, too.
        fingerprint: Take the fingerprint, too.

    Returns:
        The records by name, with moments. Counts, extrema, histograms and fingerprints are those of
        the tensor in one piece; moments are merged in the order of the blocks, which rounds
        otherwise.
    """
    groups = Groups.MOMENTS | Groups.HISTOGRAM * histogram | Groups.FINGERPRINT * fingerprint
    found: dict[str, Stats] = {}
    for batch in batches:
        devices = dict.fromkeys(block.device for _, block, _ in batch)
        for device in devices:
            here = [named for named in batch if named[1].device == device]
            for i, record in enumerate(_records(here, groups)):
                name = here[i][0]
                found[name] = found[name].merge(record) if name in found else record
    return StatsTable(found)


def _records(blocks: Sequence[NamedBlock], groups: int) -> list[Stats]:
    """Take one record per block in one launch."""
    box = _ops.flat_box([(box.offset, box.size) for _, _, box in blocks])
    with torch.no_grad():
        rows = _ops.stats([block for _, block, _ in blocks], groups, 0, box)
    batch = Batch(*rows, groups, 0)
    return [Stats(batch, i) for i in range(len(blocks))]
