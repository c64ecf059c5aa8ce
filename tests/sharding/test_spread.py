"""Which replica is counted: of every piece exactly one, whichever rank is chosen."""

from __future__ import annotations

import itertools
import math

import pytest

from initstats.sharding import Spread

MESHES = [(4,), (2, 3), (2, 2, 2), (1, 4), (3, 1)]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("meshes", [1, 3])
def test_every_piece_is_counted_once_whichever_rank_is_chosen(
    mesh: tuple[int, ...], meshes: int
) -> None:
    size = math.prod(mesh)
    for replicated in itertools.product((False, True), repeat=len(mesh)):
        spreads = {}
        for i in range(meshes):  # as under tensor parallelism: ranks i, i + meshes, ...
            ranks = tuple(range(i, size * meshes, meshes))
            spreads |= dict.fromkeys(ranks, Spread((7, 5), ranks, mesh, replicated))
        pieces = {spread.piece(rank) for rank, spread in spreads.items()}
        assert len(pieces) * spreads[0].replicas == size
        for chosen in spreads:
            counted = [r for r, spread in spreads.items() if spread.is_counted(r, chosen)]
            assert sorted(spreads[r].piece(r) for r in counted) == sorted(pieces)


def test_plain_tensors_are_counted_on_the_chosen_rank() -> None:
    spreads = [Spread.alone((3, 2), rank) for rank in range(4)]
    for chosen in range(4):
        counted = [s.ranks[0] for s in spreads if s.is_counted(s.ranks[0], chosen)]
        assert counted == [chosen]
    assert spreads[0].numel == 6
    assert spreads[0].is_whole


def test_ranks_of_one_coordinate_hold_the_same_piece() -> None:
    spread = Spread((8,), (4, 5, 6, 7), (2, 2), (True, False))
    assert [spread.coordinate(rank) for rank in (4, 5, 6, 7)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [spread.piece(rank) for rank in (4, 5, 6, 7)] == [0, 1, 0, 1]
    assert not spread.is_whole
    assert Spread((8,), (4,), (1,), (False,)).is_whole
