"""How ranks are laid out in nodes, which all of them must find alike."""

from __future__ import annotations

import pytest

from initstats.monitoring.team import grid_of, lines_of


def told(monkeypatch: pytest.MonkeyPatch, local: int, nodes: int, world: int) -> None:
    names = {"LOCAL_WORLD_SIZE": local, "GROUP_WORLD_SIZE": nodes, "WORLD_SIZE": world}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("local", "nodes", "ranks", "expected"),
    [
        (4, 2, range(8), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (4, 2, [0, 2, 4, 6], [[0, 2], [4, 6]]),
        (4, 2, [0, 4], [0, 4]),  # one of each node
        (4, 2, [0, 1, 2, 4], [0, 1, 2, 4]),  # not as many of each
        (4, 2, range(4), [0, 1, 2, 3]),  # one node
        (8, 1, range(8), [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 2, range(8), [0, 1, 2, 3, 4, 5, 6, 7]),  # nodes differ: each rank is told its own
    ],
)
def test_nodes_are_those_of_torchrun(
    monkeypatch: pytest.MonkeyPatch, local: int, nodes: int, ranks: range, expected: list[int]
) -> None:
    told(monkeypatch, local, nodes, 8)
    assert grid_of(list(ranks), (len(ranks),), None).tolist() == expected


def test_without_torchrun_there_is_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert grid_of(range(8), (8,), None).ndim == 1


def test_an_argument_goes_before_a_mesh_and_a_mesh_before_torchrun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told(monkeypatch, 2, 4, 8)
    assert grid_of(range(8), (2, 4), None).shape == (2, 4)
    assert grid_of(range(8), (2, 4), 2).shape == (4, 2)
    assert grid_of(range(8), (2, 4), 1).shape == (8,)


@pytest.mark.parametrize("wrong", [0, 3, 16, -2])
def test_nodes_of_another_size_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"got ranks_per_node={wrong}"):
        grid_of(range(8), (8,), wrong)


def test_each_rank_reduces_along_every_dimension_that_has_others() -> None:
    grid = grid_of(range(8), (8,), 4)
    assert lines_of(grid, 5) == [[4, 5, 6, 7], [1, 5]]
    assert lines_of(grid_of(range(4), (2, 1, 2), None), 3) == [[2, 3], [1, 3]]
    assert lines_of(grid_of([3], (1,), None), 3) == [[3]]
