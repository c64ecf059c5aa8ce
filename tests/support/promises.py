"""Compares the plan of a recipe with numbers that are written out by hand."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import pytest
from torch import nn

from initstats.planning.planner import PlanEntry, plan
from initstats.recipes import (
    Computed,
    Constant,
    Derived,
    Kept,
    Normal,
    Orthogonal,
    Recipe,
    Slices,
    Stacked,
    Uniform,
)
from named_models import WIDTH

D = WIDTH


def planned(model: nn.Module, recipe: Recipe) -> dict[str, PlanEntry]:
    found = plan(model, recipe)
    assert found.unmatched == ()
    return {entry.name: entry for entry in found}


def check(model: nn.Module, recipe: Recipe, promises: dict[str, object]) -> None:
    """Compare the plan with promises by glob pattern, the first that matches; all are used."""
    used = set()
    for name, entry in planned(model, recipe).items():
        pattern = next(p for p in promises if fnmatchcase(name, p))
        used.add(pattern)
        expected = promises[pattern]
        if callable(expected):
            assert entry.slot.block is not None
            expected = expected(entry.slot.block)
        assert_same(entry, expected)
    assert used == set(promises)


def assert_same(entry: PlanEntry, expected: object) -> None:
    got = entry.distribution
    assert type(got) is type(expected), (entry.name, got, expected)
    if isinstance(got, (Kept, Stacked, Orthogonal, Computed, Derived, Slices)):
        assert got == expected, entry.name
        return
    assert got.mean == pytest.approx(expected.mean, rel=1e-12), entry.name  # type: ignore[attr-defined]
    assert got.std == pytest.approx(expected.std, rel=1e-12), entry.name  # type: ignore[attr-defined]
    assert got.bounds == pytest.approx(expected.bounds, rel=1e-12), entry.name  # type: ignore[attr-defined]


def normal(std: float) -> Normal:
    return Normal(std)


def uniform(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def glorot(inputs: int, outputs: int) -> Uniform:
    return uniform(math.sqrt(6 / (inputs + outputs)))


ZERO, ONE = Constant(0.0), Constant(1.0)
GPT_NORMS = {"*ln_*.weight": ONE, "*.bias": ZERO}
