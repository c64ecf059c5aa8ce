"""Recipe of the diffusion transformer DiT."""

from __future__ import annotations

import math

from initstats.recipes.distributions.basic import Normal, Uniform
from initstats.recipes.distributions.composite import Distribution, Kept
from initstats.recipes.library.building import (
    MATRICES,
    biases,
    built_in,
    described,
    norms,
    require_positive,
    rule,
    weights,
    xavier_uniform,
)
from initstats.recipes.match import Match
from initstats.recipes.parameters import Slot
from initstats.recipes.rule import Recipe

__all__ = ["dit"]

_TIMESTEP = ("*t_embedder*", "*timestep_embedder*", "*time_embed*", "*time_mlp*")
_LAST = ("*final_layer.*", "*final_layer", "*proj_out.*")


@built_in
def dit(*, std: float = 0.02) -> Recipe:
    """Make the recipe of DiT: every block and the whole model start as zero.

    Linear Xavier uniform, biases 0; the patch convolution Xavier uniform on the flattened kernel;
    label table and timestep MLP N(0, std); every adaLN layer and the final layer 0, weight and
    bias. Fixed sine and cosine positions are left as the model computed them.

    Args:
        std: Standard deviation of label table and timestep MLP, > 0.

    Returns:
        The recipe.

    Raises:
        ValueError: If `std` is not finite and > 0.

    Source: DiT `models.py`, initialize_weights; Peebles and Xie 2022.
    """
    require_positive("dit", std=std)

    @described("Xavier uniform on the flattened kernel")
    def patches(slot: Slot) -> Distribution:
        bound = math.sqrt(6 / sum(slot.matrix_shape))
        return Uniform(-bound, bound)

    @described("Xavier uniform, packed q, k and v as one matrix")
    def matrix(slot: Slot) -> Distribution:
        rows, columns = slot.matrix_shape
        bound = math.sqrt(6 / (rows + columns))
        return Uniform(-bound, bound) if slot.packed > 1 else xavier_uniform(slot)

    rules = [
        *norms(),
        rule(Match(role="gate"), 0.0, "adaLN"),
        rule(Match(_LAST), 0.0, "final layer"),
        rule(Match(role=("linear", *MATRICES, "convolution"), kind="bias"), 0.0, "bias"),
        rule(Match(_TIMESTEP, kind="weight"), Normal(std), "timestep MLP"),
        rule(weights("embedding"), Normal(std), "label table"),
        rule(weights("position"), Kept("fixed positions"), "position"),
        rule(weights("convolution"), patches, "patch convolution"),
        biases(),
        rule(weights(*MATRICES), matrix, "matrix"),
    ]
    return Recipe(rules, name="dit", source="DiT models.py; Peebles and Xie 2022")
