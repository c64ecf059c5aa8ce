"""Recipes of BERT: Google, transformers."""

from __future__ import annotations

from initstats.recipes.distributions.basic import Normal
from initstats.recipes.distributions.truncated import TruncNormal
from initstats.recipes.library.building import (
    EMBEDDINGS,
    MATRICES,
    biases,
    built_in,
    norms,
    require_positive,
    rule,
    weights,
)
from initstats.recipes.rule import Recipe

__all__ = ["bert", "bert_transformers"]


@built_in
def bert(*, std: float = 0.02) -> Recipe:
    """Make the recipe of Google's BERT.

    Matrices and embeddings from a normal of `std` that is cut at two standard deviations and not
    corrected, so that 0.02 gives 0.0176; biases 0; LayerNorm 1 and 0; padding rows 0.

    Args:
        std: Standard deviation before truncation, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: google-research/bert `modeling.py`, create_initializer.
    """
    require_positive("bert", std=std)
    cut = TruncNormal.at(std, 2)
    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS), cut, "embedding"),
        rule(weights(*MATRICES), cut, "matrix"),
    ]
    return Recipe(rules, name="bert", source="google-research/bert modeling.py")


@built_in
def bert_transformers(*, std: float = 0.02) -> Recipe:
    """Make the recipe of BERT in transformers.

    Matrices and embeddings N(0, std); biases 0; LayerNorm 1 and 0; the padding row 0.

    Args:
        std: Standard deviation (`initializer_range`), > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: transformers `modeling_bert.py` and `PreTrainedModel._init_weights`.
    """
    require_positive("bert_transformers", std=std)
    rules = [
        *norms(),
        biases(),
        rule(weights(*EMBEDDINGS), Normal(std), "embedding"),
        rule(weights(*MATRICES), Normal(std), "matrix"),
    ]
    return Recipe(rules, name="bert_transformers", source="transformers modeling_bert.py")
