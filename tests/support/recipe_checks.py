"""Checks that every recipe passes: it initialises, accepts its reference, and rejects mistakes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Set
from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.planning.receipt import Receipt
from initstats.recipes import Recipe
from initstats.verification.verifier import VerifyEntry, verify

# A module of transformers: its class, that of its configuration, options, and the recipe.
Made = tuple[str, str, dict[str, Any], Recipe]
# Of a factor 1.03 in std the band of 65,536 normals, +-1.4 % at the rate of one check, leaves half.
ENOUGH = 1 << 16


def of_transformers(made: Made) -> Callable[[], nn.Module]:
    """Return what builds a module of transformers, with the weights that its own code gives it."""
    transformers = pytest.importorskip("transformers")
    model, config, options, _ = made

    def build() -> nn.Module:
        found: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return found

    return build


def accepts_reference(build: Callable[[], Any], recipe: Recipe) -> None:
    """Check a reference in small: `init_weights` is accepted, 3 % too large a std is not."""
    torch.manual_seed(0)
    model = build()
    model.init_weights()
    accepts(model, recipe)
    rejects_wrong_std(model, recipe)


def accepts_but_for(build: Callable[[], nn.Module], recipe: Recipe, lost: Set[str]) -> None:
    """Check that a module's own weights break the promises of some parameters and of no other.

    What `init_` writes instead is found with 3 % too large a std.
    """
    torch.manual_seed(0)
    model = build()
    assert {entry.name for entry in verify(model, recipe).failures} == lost
    init_(model, recipe, seed=0)
    rejects_wrong_std(model, recipe)


def accepts(model: nn.Module, recipe: Recipe | str, **options: object) -> None:
    """Check that a model as its own code left it keeps the promises of a recipe."""
    report = verify(model, recipe, **options)  # type: ignore[arg-type]
    assert report.ok, "\n" + "\n".join(f"{e.name}: {e.problem}" for e in report.failures)


def initialises(
    build: Callable[[], nn.Module], recipe: Recipe | str, *, seeds: int = 2, meta: bool = True
) -> nn.Module:
    """Check that `init_` from the meta device gives what `verify` accepts, and a receipt remakes.

    Args:
        build: Makes the model.
        recipe: The recipe.
        seeds: How many seeds are tried.
        meta: The model can be built on the meta device.

    Returns:
        The model of the last seed.
    """
    for seed in range(seeds):
        with torch.device("meta" if meta else "cpu"):
            model = build()
        receipt = init_(model, recipe, seed=seed, device="cpu" if meta else None)
        accepts(model, recipe)
        text = json.dumps(receipt.to_dict(), allow_nan=False)
        other = build()
        Receipt.from_dict(json.loads(text)).remake_(other)
        for name, values in model.named_parameters():
            if not receipt.entries.get(name, {"keep": True})["keep"]:
                assert torch.equal(values, other.get_parameter(name)), name
    return model


def rejects(
    model: nn.Module,
    recipe: Recipe | str,
    pattern: str,
    change: Callable[[Tensor], object] | float,
    *,
    cause: str = "",
) -> list[VerifyEntry]:
    """Check that a change to each parameter of a pattern is found, and in no other parameter.

    Args:
        model: A model that `verify` accepts; it is copied.
        recipe: The recipe.
        pattern: Glob pattern on names of parameters and buffers; at least one matches.
        change: Writes the mistake in place; a number is a factor.
        cause: Text that every cause contains.

    Returns:
        What `verify` says of them.
    """
    spoilt = copy.deepcopy(model)
    held = {**dict(spoilt.named_parameters()), **dict(spoilt.named_buffers())}
    changed = {name for name in held if fnmatchcase(name, pattern)}
    assert changed, pattern
    with torch.no_grad():
        for name in changed:
            if callable(change):
                change(held[name])
            else:
                held[name].mul_(change)
    failures = verify(spoilt, recipe).failures
    found = {e.name.partition("[")[0] for e in failures}
    # A tied parameter, and a copy of a changed one, go by another name.
    missing = {name for name in changed if not found & _names_of(spoilt, recipe, name)}
    assert not missing, missing
    for entry in failures:
        assert cause in entry.cause, (entry.name, entry.problem, entry.cause)
    return list(failures)


def rejects_wrong_std(
    model: nn.Module, recipe: Recipe | str, *, factor: float = 1.03, count: int = ENOUGH
) -> None:
    """Check that each random parameter of enough elements is found with 3 % too large a std.

    Args:
        model: A model that `verify` accepts; one matrix of [256, 256] has enough elements.
        recipe: The recipe.
        factor: What every parameter is multiplied by.
        count: How many elements are enough.
    """
    spoilt = copy.deepcopy(model)
    planned = plan(spoilt, recipe)
    with torch.no_grad():
        for entry in planned:
            if not entry.keep:
                entry.parameter.mul_(factor)
    pieces = {
        piece.name
        for entry in planned
        if not entry.keep
        for piece in entry.pieces
        if piece.count >= count and getattr(piece.distribution, "std", 0.0) > 0
    }
    assert pieces, "no parameter is large enough: give the model a matrix of [256, 256]"
    failures = {entry.name for entry in verify(spoilt, recipe).failures}
    assert pieces <= failures, pieces - failures


def _names_of(model: nn.Module, recipe: Recipe | str, name: str) -> set[str]:
    entries = (entry for entry in plan(model, recipe) if name in (entry.name, *entry.tied_to))
    return {name} | {n for entry in entries for n in (entry.name, *entry.tied_to)}
