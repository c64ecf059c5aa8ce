"""Recipes of very deep transformers: DeepNet, T-Fixup, ReZero."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Normal
from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    by_projection,
    depth,
    described,
    norms,
    require_layers,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe, Rule

__all__ = ["deepnet", "deepnet_alpha", "rezero", "t_fixup"]


@built_in
def deepnet(*, layers: int | None = None) -> Recipe:
    """Make the recipe of DeepNet for an encoder alone or a decoder alone.

    Xavier uniform, q, k and v with gain 1 / sqrt(2); fc1, fc2, attention output and v divided by
    (8 N)^1/4 with N blocks. The model must scale its residual connections by (2 N)^1/4
    (`deepnet_alpha`). Embeddings and head N(0, d^-1/2); biases 0; norms 1 and 0.

    Args:
        layers: Number of blocks N, >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If `layers` < 1.

    Source: torchscale `architecture/encoder.py` and `decoder.py`; Wang et al. 2022, figure 2.
    """
    require_layers("deepnet", layers)

    @described("Xavier uniform; q, k gain 1/sqrt(2); v 1/sqrt(2) / (8N)^1/4")
    def inputs(slot: Slot) -> Distribution:
        plain = xavier_uniform(slot, math.sqrt(0.5))
        small = plain.scaled((8 * depth("deepnet", slot, layers)) ** -0.25)
        return by_projection(slot, {"q": plain, "k": plain, "v": small})

    @described("Xavier uniform / (8N)^1/4, N blocks")
    def scaled(slot: Slot) -> Distribution:
        return xavier_uniform(slot).scaled((8 * depth("deepnet", slot, layers)) ** -0.25)

    rules = [
        *norms(),
        biases(),
        rule(weights("attention input"), inputs, "attention input"),
        rule(weights("attention output", "mlp input", "mlp output"), scaled, "scaled by depth"),
        *_by_width(),
    ]
    return Recipe(rules, name="deepnet", source="torchscale; Wang et al. 2022")


def deepnet_alpha(layers: int) -> float:
    """Return the factor of the residual connection that `deepnet` goes with, (2 N)^1/4.

    Args:
        layers: Number of blocks N, >= 1.

    Returns:
        The factor.

    Raises:
        ValueError: If `layers` < 1.

    Source: Wang et al. 2022, "DeepNet: Scaling Transformers to 1,000 Layers", figure 2.
    """
    require_layers("deepnet_alpha", layers)
    return float((2 * layers) ** 0.25)


@built_in
def t_fixup() -> Recipe:
    """Make the recipe of T-Fixup, for transformers without norms and without warm-up.

    Xavier uniform, then: in an encoder of N blocks fc1, fc2, attention output and v times
    0.67 N^-1/4, in a decoder of M blocks times (9 M)^-1/4; q and k keep gain 1 / sqrt(2).
    Embeddings N(0, d^-1/2) times (9 N)^-1/4. A stack is a decoder if its name says so.

    Returns:
        The recipe.

    Source: Huang et al. 2020, section 3.2, and its fork of fairseq (layer6ai-labs/T-Fixup).
    """

    def factor(slot: Slot) -> float:
        blocks = depth("t_fixup", slot, None)
        if "decoder" in slot.name.lower():
            return float((9 * blocks) ** -0.25)
        return 0.67 * float(blocks**-0.25)

    @described("Xavier uniform; q, k gain 1/sqrt(2); v scaled by depth")
    def inputs(slot: Slot) -> Distribution:
        plain = xavier_uniform(slot, math.sqrt(0.5))
        return by_projection(
            slot, {"q": plain, "k": plain, "v": xavier_uniform(slot).scaled(factor(slot))}
        )

    @described("Xavier uniform times 0.67 N^-1/4, in a decoder (9M)^-1/4")
    def scaled(slot: Slot) -> Distribution:
        return xavier_uniform(slot).scaled(factor(slot))

    @described("N(0, d^-1/2 (9N)^-1/4), d the width, N blocks of the largest stack")
    def embedding(slot: Slot) -> Distribution:
        return Normal(slot.width**-0.5 * (9 * slot.largest_stack) ** -0.25)

    rules = [
        *norms(),
        biases(),
        rule(weights("attention input"), inputs, "attention input"),
        rule(weights("attention output", "mlp input", "mlp output"), scaled, "scaled by depth"),
        rule(weights("embedding", "position"), embedding, "embedding"),
        *_by_width(),
    ]
    return Recipe(rules, name="t_fixup", source="Huang et al. 2020; layer6ai-labs/T-Fixup")


@built_in
def rezero() -> Recipe:
    """Make the recipe of ReZero and SkipInit: the gate of every residual branch starts at 0.

    Other matrices Xavier uniform, biases 0, norms 1 and 0, embeddings N(0, 0.02).

    Returns:
        The recipe.

    Source: Bachlechner et al. 2020, "ReZero is all you need"; De and Smith 2020 (SkipInit).
    """

    @described("Xavier uniform")
    def matrix(slot: Slot) -> Distribution:
        return xavier_uniform(slot)

    rules = [
        rule(Match(role="gate"), 0.0, "residual gate"),
        *norms(),
        biases(),
        rule(weights("embedding", "position", "token"), Normal(0.02), "embedding"),
        rule(weights(*MATRICES, "convolution"), matrix, "matrix"),
    ]
    return Recipe(rules, name="rezero", source="Bachlechner et al. 2020; De and Smith 2020")


def _by_width() -> list[Rule]:
    @described("N(0, d^-1/2), d the width")
    def normal(slot: Slot) -> Distribution:
        return Normal(slot.width**-0.5)

    @described("Xavier uniform")
    def matrix(slot: Slot) -> Distribution:
        return xavier_uniform(slot)

    return [
        rule(weights("embedding", "position", "token", "head"), normal, "embedding or head"),
        rule(weights(*MATRICES), matrix, "matrix"),
    ]
