"""Recipe of ModernBERT."""

from __future__ import annotations

import math

from initstats.recipes.distributions.composite import Distribution
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    EMBEDDINGS,
    INPUTS,
    RESIDUAL,
    biases,
    built_in,
    depth,
    described,
    norms,
    require_layers,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["modernbert"]


@built_in(variants=("transformers", "original"))
def modernbert(
    *,
    variant: str = "transformers",
    std: float = 0.02,
    cutoff: float = 2.0,
    layers: int | None = None,
) -> Recipe:
    """Make the recipe of ModernBERT ("full megatron" initialisation).

    All truncated at `cutoff` standard deviations, without correction: packed inputs of attention
    and of the MLP, and the embedding, std; their outputs and the dense layer of the head std /
    sqrt(2 L); the classifier d^-1/2, d the width. An untied decoder has std / sqrt(2 L) in
    transformers and d^-1/2 in the original. Biases 0, norms 1. The large model was not initialised
    but tiled from the base model. The padding row of the embedding is 0; transformers draws it.

    Args:
        variant: "transformers" or "original".
        std: Standard deviation (`initializer_range`), > 0.
        cutoff: Bounds in standard deviations, > 0: 2 in the configurations of both; 3 where a
            configuration says None.
        layers: Number of blocks L, >= 1; read from the model when None.

    Returns:
        The recipe.

    Raises:
        ValueError: If the variant is neither or a number is out of range.

    Source: ModernBERT `src/bert_layers/initialization.py`, 8c57a0f; transformers
        `modeling_modernbert.py`, `_init_weights`.
    """
    require_positive("modernbert", std=std, cutoff=cutoff)
    require_layers("modernbert", layers)

    @described(f"TN(0, {std:g} / sqrt(2 L)) at {cutoff:g} std, L blocks")
    def output(slot: Slot) -> Distribution:
        # The head stands outside of the blocks.
        blocks = layers or slot.blocks or slot.largest_stack
        count = depth("modernbert", slot, blocks)
        return TruncNormal.at(std / math.sqrt(2 * count), cutoff)

    @described(f"TN(0, d^-1/2) at {cutoff:g} std, d the width")
    def final(slot: Slot) -> Distribution:
        return TruncNormal.at(slot.width**-0.5, cutoff)

    decoder = output if variant == "transformers" else final
    rules = [
        *norms(),
        biases(),
        rule(weights(*RESIDUAL), output, "residual projection"),
        rule(weights("head", name="*classifier.weight"), final, "classifier"),
        rule(weights("head", name="*decoder.weight"), decoder, "decoder"),
        rule(weights("head"), output, "dense layer of the head"),
        rule(weights(*EMBEDDINGS), TruncNormal.at(std, cutoff), "embedding"),
        rule(weights(*INPUTS, "linear"), TruncNormal.at(std, cutoff), "input"),
    ]
    return Recipe(rules, name="modernbert", source="ModernBERT initialization.py, 8c57a0f")
