"""Recipe of T5."""

from __future__ import annotations

from torch import nn

from initstats.recipes.distributions.basic import Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    normal_by_fan_in,
    norms,
    projection,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["t5"]


@built_in
def t5(*, head_width: int | None = None, head_std: float | None = None) -> Recipe:
    """Make the recipe of T5, whose attention has no 1 / sqrt(d_kv).

    Embedding N(0, 1); q N(0, (d d_kv)^-1/2), all other matrices N(0, fan_in^-1/2): k, v and wi
    d^-1/2, o (heads d_kv)^-1/2, wo d_ff^-1/2; the relative position bias d^-1/2; T5LayerNorm 1. A
    head that is not tied to the embedding N(0, d^-1/2).

    Args:
        head_width: Width d_kv of one head, >= 1; read from the attention modules when None.
        head_std: Standard deviation of an untied head, > 0. transformers has 1.0, with which the
            first loss is near 110 (transformers#26441); d^-1/2 when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is not > 0, or a module does not state what is needed.

    Source: transformers `modeling_t5.py`, `_init_weights`; Raffel et al. 2019 (mesh_tensorflow).
    """
    require_positive("t5", head_width=head_width, head_std=head_std)

    @described("q: N(0, (d d_kv)^-1/2); k, v: N(0, d^-1/2)")
    def inputs(slot: Slot) -> Distribution:
        if projection(slot) != "q":
            return Normal(slot.fans.fan_in**-0.5)
        d_kv = head_width or slot.head_width
        if d_kv is None:
            raise ValueError(
                "initstats.t5: expected a module that states the width of its heads, "
                f"got name={slot.name!r} without; give it with t5(head_width=...)"
            )
        return Normal((slot.fans.fan_in * d_kv) ** -0.5)

    @described("N(0, d^-1/2), d the width")
    def relative(slot: Slot) -> Distribution:
        width = slot.model_width or _width_beside(slot)
        if width is None:
            raise ValueError(
                "initstats.t5: expected a module that states the width of the model, "
                f"got name={slot.name!r} without"
            )
        return Normal(width**-0.5)

    rules = [
        *norms(),
        biases(),
        rule(weights("position"), relative, "relative position bias"),
        rule(weights("embedding"), Normal(1.0), "embedding"),
        rule(weights("attention input"), inputs, "attention input"),
        rule(weights("head"), Normal(head_std) if head_std else normal_by_fan_in, "untied head"),
        rule(weights(*MATRICES), normal_by_fan_in, "matrix"),
    ]
    return Recipe(rules, name="t5", source="transformers modeling_t5.py; Raffel et al. 2019")


def _width_beside(slot: Slot) -> int | None:
    """Return the inputs of the q matrix of the attention that a relative position bias is in."""
    q = getattr(slot.parents[-2], "q", None) if len(slot.parents) > 1 else None
    return q.weight.shape[1] if isinstance(q, nn.Linear) else None
