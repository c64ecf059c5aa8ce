"""Initialise a whole model by a recipe, with a receipt of what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from initstats.fills import foreach_normal_, foreach_uniform_
from initstats.planning import Plan, PlanEntry, plan, require_complete
from initstats.recipes import Constant, Normal, Recipe, Uniform
from initstats.tables import render

RECEIPT_SCHEMA = "initstats.receipt/1"


@dataclass(frozen=True, eq=False)
class Receipt:
    """What `init_` did: enough to do it again.

    Attributes:
        plan: The plan that was carried out.
        seed: The seed of every key.
        torch_version: Version of torch that ran it.
    """

    plan: Plan
    seed: int
    torch_version: str

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON-able values, with the schema's name and version."""
        return {
            "schema": RECEIPT_SCHEMA,
            "seed": self.seed,
            "torch": self.torch_version,
            **self.plan.to_dict(),
        }

    def __rich__(self) -> Table:
        table = self.plan.__rich__()
        table.title = f"initialised by recipe {self.plan.recipe.name}, seed {self.seed}"
        return table

    def __str__(self) -> str:
        return render(self)


def init_(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    seed: int | None = None,
    allow_unmatched: bool = False,
) -> Receipt:
    """Initialise the parameters of a model by a recipe, in place.

    All normals are written by one fill, and so are all uniforms. The key of a parameter comes
    from the seed and its name, so that adding a layer changes no other layer. Parameters that
    transformers marked as loaded are left alone.

    Args:
        model: Any module. On the meta device nothing is written.
        recipe: A recipe, or the name of one in `initstats.recipes.available()`.
        seed: Seed of all keys, in [-2**63, 2**64); when None drawn from torch's default CPU
            generator.
        allow_unmatched: Leave parameters that no rule takes as they are, instead of refusing.

    Returns:
        The receipt, with the seed that was used.

    Raises:
        TypeError: If `model`, `recipe` or `seed` is of another kind.
        ValueError: If `plan` refuses the model, a parameter is taken by no rule, the seed is out
            of range, or no value of a parameter's dtype lies in the interval of a uniform. Nothing
            has been written then.

    Determinism: bitwise. The same seed and names give the same weights on any device.
    """
    planned = plan(model, recipe)
    if not allow_unmatched:
        require_complete("init_", planned)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise TypeError(f"initstats.init_: expected seed to be an int or None, got seed={seed!r}")
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise ValueError(f"initstats.init_: expected seed in [-2**63, 2**64), got seed={seed}")
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()).item())
    _fill([entry for entry in planned if not entry.keep], seed)
    return Receipt(planned, seed, torch.__version__)


def _fill(entries: list[PlanEntry], seed: int) -> None:
    """Write the promised values, one fill per kind of distribution."""
    normals = [(e, e.distribution) for e in entries if isinstance(e.distribution, Normal)]
    uniforms = [(e, e.distribution) for e in entries if isinstance(e.distribution, Uniform)]
    with torch.no_grad():
        # Uniforms first: only they can be refused, for an interval too narrow for the dtype.
        if uniforms:
            foreach_uniform_(
                [entry.parameter for entry, _ in uniforms],
                [distribution.low for _, distribution in uniforms],
                [distribution.high for _, distribution in uniforms],
                seed=seed,
                names=[entry.name for entry, _ in uniforms],
            )
        if normals:
            foreach_normal_(
                [entry.parameter for entry, _ in normals],
                [distribution.mean for _, distribution in normals],
                [distribution.std for _, distribution in normals],
                seed=seed,
                names=[entry.name for entry, _ in normals],
            )
        for entry in entries:
            if isinstance(entry.distribution, Constant):
                entry.parameter.fill_(entry.distribution.value)
