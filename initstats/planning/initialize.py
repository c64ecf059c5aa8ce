"""Initialise a whole model by a recipe, and return a receipt."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from initstats.init.keys import integer_seed
from initstats.planning.materialize import BufferMaker, materialise, reset_norms
from initstats.planning.planner import Plan, plan
from initstats.planning.receipt import Receipt, receipt_entry, take_fingerprints
from initstats.planning.validate import require_seed
from initstats.planning.write import check_entries, check_sources, fill_entries
from initstats.recipes import Recipe
from initstats.recipes.stages import Depth, Names
from initstats.sharding import Domain

__all__ = ["Receipt", "init_", "initialise_plan", "seed_or_draw"]


def init_(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    seed: int | None = None,
    device: torch.device | str | None = None,
    allow_unmatched: bool = False,
    roles: Mapping[str, str] | None = None,
    names: Names | None = None,
    depth: Depth | None = None,
    buffers: Mapping[str, BufferMaker] | None = None,
    fingerprints: bool = True,
) -> Receipt:
    """Initialise the parameters of a model by a recipe, in place.

    Each kind of distribution is written by one fill. The key of a parameter comes from the seed
    and its name, so that adding a layer changes no other layer. Tied parameters are written once.
    Parameters that transformers marked as loaded are left alone. The running statistics of norms
    are reset with the norm.

    Args:
        model: Any module. What is on the meta device stays there unless `device` is given.
        recipe: A recipe, or the name of one in `initstats.recipes.available()`.
        seed: Seed of all keys, in [-2**63, 2**64); when None drawn from torch's default CPU
            generator.
        device: Where to put parameters and buffers that are on the meta device. Ties are kept,
            which `Module.to_empty` does not do.
        allow_unmatched: Leave parameters that no rule takes as they are, instead of refusing.
        roles: As in `plan`.
        names: As in `plan`.
        depth: As in `plan`.
        buffers: For buffers on the meta device that initstats does not know how to make: tensors,
            or functions from the owner to a tensor, by glob pattern on the name.
        fingerprints: Take a fingerprint of every parameter for the receipt, one read of each.

    Returns:
        The receipt, with the seed that was used.

    Raises:
        TypeError: If `model`, `recipe` or `seed` is of another kind.
        ValueError: If `plan` refuses the model, a parameter is taken by no rule, a rule takes no
            parameter, the seed is out of range, no value of a parameter's dtype lies between the
            bounds of a distribution, or something on meta cannot be made on `device`. Nothing
            has been written then.

    Determinism: bitwise. The same seed and names give the same weights on any device; orthogonal
        matrices run_to_run.
    """
    planned = plan(model, recipe, roles=roles, names=names, depth=depth)
    planned.require_complete("init_", allow_unmatched=allow_unmatched)
    return initialise_plan(
        "init_",
        model,
        planned,
        seed=seed,
        device=device,
        buffers=buffers,
        fingerprints=fingerprints,
    )


def initialise_plan(
    function: str,
    model: nn.Module,
    planned: Plan,
    *,
    seed: int | None,
    device: torch.device | str | None = None,
    buffers: Mapping[str, BufferMaker] | None = None,
    fingerprints: bool = True,
) -> Receipt:
    """Carry out a plan.

    Args:
        function: Public function on whose behalf this is done, for messages.
        model: The model.
        planned: The plan for it, complete.
        seed: As in `init_`.
        device: As in `init_`.
        buffers: As in `init_`.
        fingerprints: As in `init_`.

    Returns:
        The receipt.

    Raises:
        TypeError: As `init_`.
        ValueError: As `init_`.
    """
    require_seed(function, model, seed)
    seed = seed_or_draw(function, seed)
    check_entries(function, planned.entries)
    check_sources(function, planned.entries, materialised=device is not None)
    if fingerprints:  # of shards need to know their ranks: said before anything is written
        Domain.of(function, (entry.parameter for entry in planned if not entry.keep))
    made: tuple[str, ...] = ()
    if device is not None:
        planned, made = materialise(function, model, planned, torch.device(device), buffers)
    fill_entries(function, planned.entries, seed)
    norms = reset_norms(model, planned)
    written = [entry for entry in planned if not entry.keep]
    from initstats import __version__

    return Receipt(
        recipe=planned.recipe.name,
        source=planned.recipe.source,
        seed=seed,
        versions={"torch": torch.__version__, "initstats": __version__},
        entries={entry.name: receipt_entry(entry) for entry in planned},
        buffers=(*made, *norms),
        unmatched=planned.unmatched,
        _fingerprints=take_fingerprints(function, written) if fingerprints else None,
    )


def seed_or_draw(function: str, seed: int | None) -> int:
    """Check a seed, or draw one from torch's default CPU generator.

    Args:
        function: Public function on whose behalf this is done, for messages.
        seed: The seed, or None.

    Returns:
        The seed.

    Raises:
        TypeError: If it is no integer.
        ValueError: If it is outside [-2**63, 2**64).
    """
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu").item())
    return integer_seed(function, seed)
