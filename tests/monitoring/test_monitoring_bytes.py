"""Bytes that one rank sends for a row: the table of docs/guides/monitoring_ranks.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from initstats import _ops
from initstats.statistics.record_array import COUNT, Records
from initstats.statistics.reduction import Contribution, Message, merge_over_ranks
from simulated_ranks import run_ranks

GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/monitoring_ranks.md"
# Width, intermediate, layers, width of keys and values, vocabulary: Llama 3.2 (tied), 3 and 3.1.
MODELS = {
    "1.2 B": (2048, 8192, 16, 512, 128256),
    "70 B": (8192, 28672, 80, 1024, 128256),
    "405 B": (16384, 53248, 126, 1024, 128256),
}


def shapes(name: str) -> list[tuple[int, ...]]:
    width, wide, layers, key, words = MODELS[name]
    layer = [(width, width), (key, width), (key, width), (width, width)]
    layer += [(wide, width), (wide, width), (width, wide), (width,), (width,)]
    heads = 1 if name == "1.2 B" else 2  # tied, or not
    return [*[(words, width)] * heads, *layer * layers, (width,)]


def sent(name: str, *, histogram: bool) -> int:
    """Bytes of the messages of one rank.

    Every tensor has the extrema of as many normals of std 0.02 as it has elements, whose histogram
    spans the buckets from its smallest size to its largest.
    """
    sizes = np.array([np.prod(shape, dtype=np.float64) for shape in shapes(name)])
    sample = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 0.02
    moments, counts, places = (x.numpy() for x in _ops.stats([sample], 3, 0))
    n = len(sizes)
    moments, counts = np.repeat(moments, n, 0), np.repeat(counts, n, 0)
    largest = 0.02 * np.sqrt(2 * np.log(sizes))  # the usual extremes of that many normals
    moments[:, 5], moments[:, 6] = -largest, largest
    moments[:, 7] = 0.02 * 1.25 / sizes  # and the usual smallest size
    counts[:, COUNT] = sizes.astype(np.int64)
    own = Contribution(
        tuple(map(str, range(n))),
        ("",) * n,
        Records(moments, counts),
        np.repeat(places, n, 0) if histogram else None,
        0,
        counts[:, COUNT],
        fingerprint=False,
        rank=0,
        ranks=1,
    )
    messages: list[Message] = []
    run_ranks([merge_over_ranks("test", own, n)], sent=messages)
    assert len(messages) == 3
    return sum(message.data.nbytes for message in messages)


@pytest.mark.parametrize("name", MODELS)
def test_the_guide_tells_the_bytes_per_rank_and_row(name: str) -> None:
    moments, histogram = sent(name, histogram=False), sent(name, histogram=True)
    line = f"| {name}, {len(shapes(name)):,} | {moments / 1e3:.0f} KB | {histogram / 1e3:.0f} KB |"
    assert line in re.sub(r" +", " ", GUIDE.read_text())


def test_405_billion_parameters_stay_below_150_kilobytes_and_a_megabyte() -> None:
    assert len(shapes("405 B")) == 1137
    assert sent("405 B", histogram=False) <= 150_000
    assert sent("405 B", histogram=True) <= 1_000_000


def test_a_gather_of_all_records_would_take_149_megabytes() -> None:
    bytes_per_record = 8 * (8 + 8)
    assert round(1137 * bytes_per_record * 1024 / 1e6) == 149
